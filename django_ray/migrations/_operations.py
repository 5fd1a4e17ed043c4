"""How a migration runs its SQL file, on PostgreSQL only, and makes a unique index that holds up nobody."""

from typing import Any, override

from django.contrib.postgres.operations import NotInTransactionMixin
from django.db import NotSupportedError, router
from django.db.migrations.operations import AddConstraint, RunSQL

from django_ray_sql import load

# The functions are where the tables are, and find them there, whatever else the role's search_path names first.
_AT_HOME = """
SELECT set_config('django_ray.search_path', current_setting('search_path'), true),
    set_config('search_path', concat_ws(', ', home, nullif(current_setting('search_path'), '')), true)
FROM pg_class JOIN pg_namespace AS schema ON schema.oid = relnamespace CROSS JOIN LATERAL quote_ident(nspname) AS home
WHERE pg_class.oid = 'django_ray_execution'::regclass
"""
_AS_BEFORE = "SELECT set_config('search_path', current_setting('django_ray.search_path'), true)"


class RunFile(RunSQL):
    """Run the SQL file of the same name as the migration."""

    def __init__(self, name: str) -> None:
        self.name = name
        up, down = load(name)
        if name == "0001_initial":  # what the tables need: there are none yet
            super().__init__(up, down)
        else:
            super().__init__([_AT_HOME, up, _AS_BEFORE], [_AT_HOME, down, _AS_BEFORE])

    @override
    def deconstruct(self) -> Any:
        return type(self).__qualname__, [self.name], {}

    @override
    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        connection = schema_editor.connection
        if connection.vendor != "postgresql" and router.allow_migrate(connection.alias, app_label):
            raise NotSupportedError(
                f"django_ray keeps its tasks in PostgreSQL, but the database {connection.alias!r} is "
                f"{connection.display_name}: name a PostgreSQL database, or keep the app out of this one with a "
                "database router (allow_migrate). Tests with a double of django_ray.testing need no tables: "
                'MIGRATION_MODULES = {"django_ray": None}.'
            )
        super().database_forwards(app_label, schema_editor, from_state, to_state)


class AddUniqueConcurrently(NotInTransactionMixin, AddConstraint):
    """Add a unique constraint with a condition, which is an index, while the table is written to.

    The migration is not atomic. One that was cut off leaves an index that is INVALID, which is made anew.
    """

    atomic = False

    @override
    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._ensure_not_in_transaction(schema_editor)
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {self.constraint.name}")
            sql = str(self.constraint.create_sql(model, schema_editor))
            schema_editor.execute(
                sql.replace("CREATE UNIQUE INDEX", "CREATE UNIQUE INDEX CONCURRENTLY", 1), params=None
            )

    @override
    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._ensure_not_in_transaction(schema_editor)
        if self.allow_migrate_model(
            schema_editor.connection.alias, to_state.apps.get_model(app_label, self.model_name)
        ):
            schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {self.constraint.name}")
