"""How a migration runs its SQL file: on PostgreSQL only, with a sentence for everything else."""

from typing import Any, override

from django.db import NotSupportedError, router
from django.db.migrations.operations import RunSQL

from django_ray_sql import load


class RunFile(RunSQL):
    """Run the SQL file of the same name as the migration."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(*load(name))

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
                "database router (allow_migrate)."
            )
        super().database_forwards(app_label, schema_editor, from_state, to_state)
