"""System checks: what would go wrong at the first enqueue is said at the first manage.py.

Errors refuse to start; doubts are warnings. The database is looked at only by `check --database`, as Django does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend

from django_ray.backends import RayTaskBackend
from django_ray.carrying import traveller
from django_ray.databases import asked_for, database_of, databases
from django_ray.declaring import declared, is_there, stray_tasks
from django_ray.driver import obstacle
from django_ray.options import Options
from django_ray.tables import missing_tables
from django_ray.tasks import RayTask

OTHER_DISTRIBUTION = "django-ray"  # On the package index.

TRIGGERS = {
    "django_ray_on_insert": "django_ray_execution",
    "django_ray_on_update": "django_ray_execution",
    "django_ray_on_finish": "django_ray_execution",
    "django_ray_on_delete": "django_ray_execution",
    "django_ray_on_cancel": "django_ray_execution",
    "django_ray_on_pause": "django_ray_queue",
    "django_ray_on_paused": "django_ray_queue",
    "django_ray_on_unpause": "django_ray_queue",
    "django_ray_on_schedule": "django_ray_schedule",
    "django_ray_on_reschedule": "django_ray_schedule",
    "django_ray_on_scheduled": "django_ray_schedule",
    "django_ray_on_rescheduled": "django_ray_schedule",
}

__all__ = [
    "TRIGGERS", "check_atomic", "check_context", "check_database", "check_distribution", "check_driver",
    "check_router", "check_schedules", "check_tasks", "check_triggers", "missing_triggers",
]  # fmt: skip


@register(Tags.models)
def check_database(**_: Any) -> list[CheckMessage]:
    """E001: the executions must live in PostgreSQL, unless every backend is a double that keeps none."""
    if not any(getattr(one, "keeps_rows", False) for one in task_backends.all()):
        return []
    return [
        Error(
            f"The database {connection.alias!r} is {connection.display_name}; django_ray needs PostgreSQL.",
            hint="Point DATABASES at PostgreSQL, or name a database that is in OPTIONS['DATABASE'], or by a router. "
            "Tests may have one of the doubles of django_ray.testing in TASKS instead.",
            id="django_ray.E001",
        )
        for connection in _connections()
        if connection.vendor != "postgresql"
    ]


def _connections() -> list[Any]:
    return [connections[database] for database in databases()]


@register(Tags.models)
def check_router(**_: Any) -> list[CheckMessage]:
    """W008: migrate makes the tables where OPTIONS["DATABASE"] says, unless a router keeps them out."""
    from django_ray.models import RayTaskExecution

    return [
        Warning(
            f'TASKS["{backend.alias}"]["OPTIONS"]["DATABASE"] is {backend.database!r}, where a router does not let '
            "migrate make the tables of django_ray.",
            hint="Have allow_migrate() of the router return True for the app django_ray in that database. Where they "
            "are made by another alias of the same database, silence this with SILENCED_SYSTEM_CHECKS.",
            id="django_ray.W008",
        )
        for backend in task_backends.all()
        if isinstance(backend, RayTaskBackend)
        and backend.settings.database is not None
        and not router.allow_migrate_model(backend.database, RayTaskExecution)
    ]


@register(Tags.models)
def check_driver(**_: Any) -> list[CheckMessage]:
    """W005: what psycopg2 cannot do, it should not say at the first wait()."""
    names = ", ".join(repr(one.alias) for one in _connections() if one.vendor == "postgresql")
    if not names or (reason := obstacle()) is None:
        return []
    return [
        Warning(
            f"Django reaches the database {names} with psycopg2, because psycopg 3 cannot be imported "
            f"({reason}). Tasks are enqueued, and results read; wait(), await_result(), the stream of the live page, "
            "django_ray_status --watch and supervisors need psycopg 3.",
            hint="pip install 'psycopg[binary]'; Django then uses it in the whole project: docs/migrating.md says what "
            "changes. Where supervisors have an environment of their own, silence this with SILENCED_SYSTEM_CHECKS.",
            id="django_ray.W005",
        )
    ]


@register()
def check_tasks(**_: Any) -> list[CheckMessage]:
    """E004: the tasks of the applications can be declared, in queues that there are."""
    errors: list[CheckMessage] = []
    for application in apps.get_app_configs():
        name = f"{application.name}.tasks"
        if name in sys.modules or not is_there(name):
            continue
        try:
            import_module(name)
        except (InvalidTask, InvalidTaskBackend, TypeError) as error:
            errors.append(Error(f"{name} cannot be imported: {error}", id="django_ray.E004"))
    return errors


@register()
def check_atomic(**_: Any) -> list[CheckMessage]:
    """W006: a transaction is of one database, that of the executions."""
    modules = (sys.modules.get(f"{application.name}.tasks") for application in apps.get_app_configs())
    tasks = (found for module in modules for found in vars(module or object).values())
    names: dict[str, set[str]] = {}
    for task in tasks:
        if isinstance(task, RayTask) and task.atomic:
            names.setdefault(database_of(task.backend), set()).add(task.module_path)
    return [
        Warning(
            f"{', '.join(sorted(paths))}: atomic=True is of the database {alias!r}, where the executions are. What "
            f"such a task writes in {DEFAULT_DB_ALIAS!r} is no part of that transaction, and stays when it is rolled "
            "back.",
            hint="Give these tasks a backend whose executions live in the database in which they write: by "
            "OPTIONS['DATABASE'], or by a database router.",
            id="django_ray.W006",
        )
        for alias, paths in names.items()
        if alias != DEFAULT_DB_ALIAS
    ]


@register()
def check_context(**_: Any) -> list[CheckMessage]:
    """E005: what CONTEXT names can be imported, capture and restore."""
    errors: list[CheckMessage] = []
    for backend in task_backends.all():
        settings = getattr(backend, "settings", None)
        for path in settings.context if isinstance(settings, Options) else ():
            try:
                traveller(path)
            except Exception as error:  # noqa: BLE001 - of the project's
                errors.append(
                    Error(
                        f'TASKS["{backend.alias}"]["OPTIONS"]["CONTEXT"] names {path!r}, which cannot be used: {error}',
                        hint="It must be a class with capture(self) and restore(self, value): docs/context.md.",
                        id="django_ray.E005",
                    )
                )
    return errors


@register()
def check_schedules(**_: Any) -> list[CheckMessage]:
    """E006: what the code says of schedules can be read. W007: somebody looks where it says it."""
    errors: list[CheckMessage] = [
        Error(problem, hint="docs/schedules.md shows what a schedule can say.", id="django_ray.E006")
        for backend in task_backends.all()
        if isinstance(backend, RayTaskBackend)
        for problem in declared(backend).problems
    ]
    return errors + [
        Warning(
            f"{task.module_path} has a @schedule, but nobody looks for schedules in {task.func.__module__}.",
            hint="Import the task in the module tasks of an application, or name it in OPTIONS['SCHEDULES'].",
            id="django_ray.W007",
        )
        for task in stray_tasks()
    ]


@register()
def check_distribution(**_: Any) -> list[CheckMessage]:
    """W002: another distribution writes its modules, models and migrations into our folder."""
    try:
        other = version(OTHER_DISTRIBUTION)
    except PackageNotFoundError:
        return []
    return [
        Warning(
            f"The distribution {OTHER_DISTRIBUTION} {other} is installed, too. It is another product, or 0.1.0 of this "
            "one, and puts its own modules, models and migrations into the same package django_ray.",
            hint=f"pip uninstall {OTHER_DISTRIBUTION}, then pip install --force-reinstall django-ray-listen.",
            id="django_ray.W002",
        )
    ]


@register(Tags.database)
def check_triggers(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """E002: without its triggers an enqueue wakes nobody."""
    return [message for alias in asked_for(databases) for message in _check_triggers(connections[alias])]


def _check_triggers(connection: Any) -> list[CheckMessage]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('django_ray_execution') IS NULL, to_regclass('django_migrations') IS NULL")
        is_missing, is_new = cursor.fetchone()
    if is_missing:
        # In a new database nobody has forgotten anything: this check runs before the first migrate, too.
        return [] if is_new else [Warning(missing_tables(connection.alias), id="django_ray.W001")]
    return [
        Error(
            f"The trigger {name} on {TRIGGERS[name]} is missing or disabled: nobody is woken.",
            hint=f"ALTER TABLE {TRIGGERS[name]} ENABLE TRIGGER {name}, or migrate django_ray zero and again.",
            id="django_ray.E002",
        )
        for name in missing_triggers(connection)
    ]


def missing_triggers(connection: Any) -> list[str]:
    """Return the triggers of ours that are missing or disabled, of the tables that are there: migrations bring more."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[], %s::text[]) AS ours(name, of_table)"
            " WHERE to_regclass(of_table) IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger"
            " WHERE tgname = name AND tgrelid = to_regclass(of_table) AND tgenabled IN ('O', 'A'))",
            [[*TRIGGERS], [*TRIGGERS.values()]],
        )
        return [name for (name,) in cursor.fetchall()]
