"""Tables that are made without migrations, as tests of a project may have it: they get what the migrations add by SQL.

With pytest's --no-migrations, with TEST = {"MIGRATE": False} in DATABASES, and with MIGRATION_MODULES =
{"django_ray": None}, Django makes the tables from the models. The function that makes ids is a default of one of them,
so it comes before; the other functions and the triggers come after. Where migrations are on, or the database is not
PostgreSQL, nothing happens here.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from django.db import connections, router

if TYPE_CHECKING:
    from django.apps import AppConfig

__all__ = ["after_tables", "before_tables"]

_IDS = "0001_initial"
# Tables are made in the first schema of the search_path.
_LACKS_IDS = """
SELECT to_regclass('django_ray_execution') IS NULL AND NOT EXISTS (
    SELECT FROM pg_proc JOIN pg_namespace AS schema ON schema.oid = pronamespace
    WHERE proname = 'django_ray_uuid7' AND nspname = current_schema()
)
"""
_LACKS_TRIGGERS = """
SELECT to_regclass('django_ray_execution') IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = to_regclass('django_ray_execution') AND tgname LIKE 'django\\_ray%'
)
"""


def before_tables(sender: AppConfig, using: str, **_: Any) -> None:
    """Make the function of the ids, if Django is about to make the tables that need it. For pre_migrate."""
    model = sender.get_model("RayTaskExecution")
    if _is_unmigrated(sender, using) and router.allow_migrate_model(using, model) and _holds(using, _LACKS_IDS):
        _run(sender, using, is_before=True)


def after_tables(sender: AppConfig, using: str, **_: Any) -> None:
    """Make the other functions and the triggers, if there are the tables and not these. For post_migrate."""
    if _is_unmigrated(sender, using) and _holds(using, _LACKS_TRIGGERS):
        _run(sender, using, is_before=False)


def _is_unmigrated(sender: AppConfig, using: str) -> bool:
    from django.db.migrations.loader import MigrationLoader

    module, _ = MigrationLoader.migrations_module(sender.label)
    return module is None and connections[using].vendor == "postgresql"


def _holds(using: str, question: str) -> bool:
    with connections[using].cursor() as cursor:
        cursor.execute(question)
        return bool(cursor.fetchone()[0])


def _run(sender: AppConfig, using: str, *, is_before: bool) -> None:
    from django_ray import migrations
    from django_ray.migrations._operations import RunFile

    names = sorted(name for _, name, _ in iter_modules(migrations.__path__) if not name.startswith("_"))
    # All or nothing, so that one trigger tells of all.
    with connections[using].schema_editor(atomic=True) as editor:
        for name in names:
            for operation in import_module(f"{migrations.__name__}.{name}").Migration.operations:
                if isinstance(operation, RunFile) and (operation.name == _IDS) == is_before:
                    operation.database_forwards(sender.label, editor, None, None)
