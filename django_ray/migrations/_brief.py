"""How a migration changes tables that are in use: it asks for a lock briefly, again and again.

Who asks for the lock of a table waits for the transactions that use it, and who comes next waits behind. So one open
transaction that has enqueued would hold up every enqueue. A BriefMigration gives up after half a second, lets pass
those who wait behind it, and asks again.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, override

from django.db import OperationalError, migrations, transaction

__all__ = ["BriefMigration"]

PAUSE_SECONDS = 1.0  # For those that had to wait.
LOCK_NOT_AVAILABLE = "55P03"

log = logging.getLogger("django_ray.migrations")


class BriefMigration(migrations.Migration):
    """For what needs a lock and is quick when it has it: a column with a constant default, a trigger, a function.

    An index on a table in use is not: make it CONCURRENTLY, in a migration of its own. That waits for every transaction
    that is open, but holds up nobody; beside two supervisors a minute, because each watches the other in one.
    """

    @override
    def apply(self, project_state: Any, schema_editor: Any, collect_sql: bool = False) -> Any:
        apply = super().apply  # changes the state that it is given, also when it fails
        return self._briefly(schema_editor, lambda: apply(project_state.clone(), schema_editor, collect_sql))

    @override
    def unapply(self, project_state: Any, schema_editor: Any, collect_sql: bool = False) -> Any:
        unapply = super().unapply
        return self._briefly(schema_editor, lambda: unapply(project_state, schema_editor, collect_sql))

    def _briefly(self, schema_editor: Any, run: Callable[[], Any]) -> Any:
        if schema_editor.connection.vendor != "postgresql":
            return run()  # a database router keeps the app out of this database
        deferred, has_told = list(schema_editor.deferred_sql), False
        while True:
            try:
                with transaction.atomic(using=schema_editor.connection.alias):
                    schema_editor.execute("SET LOCAL lock_timeout = '500ms'")
                    return run()
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
            schema_editor.deferred_sql[:] = deferred
            if not has_told:
                log.warning("%s waits for transactions that use its tables. It goes on when they have ended.", self)
            has_told = True
            time.sleep(PAUSE_SECONDS)
