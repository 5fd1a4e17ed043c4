"""Completion in a transaction of the task: what its body writes and SUCCESSFUL are committed together, or neither is.

The row is written last, and fenced like every write of a worker: who has lost the attempt meanwhile finds no row, and
everything is rolled back. An answer to COMMIT that is lost is looked for in the row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.models import BooleanField, Func
from django.db.models.functions import Now

from django_ray.databases import database_of
from django_ray.deadline import answered
from django_ray.exceptions import TaskSuperseded
from django_ray.rows import ClaimedRow, Fence
from django_ray.runtime.claimed import fenced
from django_ray.runtime.output import Output

if TYPE_CHECKING:
    from django_ray.context import Done

__all__ = ["Completion", "Result", "succeeded"]

log = logging.getLogger("django_ray.attempt")

# That the UPDATE and the COMMIT may take. A row that a stranger has locked is waited for, and so are the deferred
# constraints of the body's writes. If the server is still at it when the time is over, nothing is lost: whoever writes
# the row next waits for the same lock, and then finds whether the transaction has been committed.
ANSWER_SECONDS = 30.0

type Result = tuple[Any, str]  # As plain values, and their JSON.


def succeeded(result: Any, output: str) -> dict[str, Any]:
    """Return what the row of an execution says that has returned, as record.sql writes it."""
    from django_ray.models import State

    return {
        "state": State.SUCCESSFUL,
        "claimed_by": None,
        "result": result,
        "output": output or None,
        "missing_since": None,
        "released": 0,
        "finished_at": Now(),
    }


class Completion:
    """Of one attempt."""

    __slots__ = ("_checked", "_has_begun", "_keeps_rows", "_output", "_row", "result")

    def __init__(self, row: ClaimedRow, output: Output, *, keeps_rows: bool, checked: Callable[[Any], Result]) -> None:
        self._row = row
        self._output = output
        self._keeps_rows = keeps_rows  # Where nobody does, there is a transaction alone.
        self._checked = checked
        self._has_begun = False
        self.result: Result | None = None  # Once it is committed.

    @contextmanager
    def block(self) -> Generator[Done]:
        """Open the transaction; it is committed with the result that is given to what this yields."""
        if self._has_begun:
            raise RuntimeError("completing() is for once: an execution ends once.")
        self._has_begun = True
        result: Result | None = None

        def done(value: Any = None, /) -> None:
            nonlocal result
            result = self._checked(value)

        alias, has_written = database_of(self._row.backend), False
        connection: Any = connections[alias]
        is_ours = not connection.in_atomic_block  # And not that of a TestCase, which goes on.
        try:
            with ExitStack() as ending:
                with transaction.atomic(using=alias, durable=self._keeps_rows):
                    with _its_own_blocks(connection):
                        yield done
                    if result is None:
                        done()
                    if self._keeps_rows:
                        ending.enter_context(_answered(connection))
                        self._write(alias, result, is_ours=is_ours)
                    has_written = True
                if not connection.get_autocommit() and not connection.in_atomic_block:
                    connection.commit()  # where AUTOCOMMIT is off, Django leaves that to us
        except BaseException as error:
            if not (has_written and self._has_been_recorded(alias)):
                raise
            self.result = result
            if not isinstance(error, Exception):
                raise
            log.warning("%s has ended; what came after its commit failed.", self, exc_info=error)
        self.result = result

    def _write(self, alias: str, result: Result | None, *, is_ours: bool) -> None:
        from django_ray.models import RayTaskExecution

        assert result is not None  # noqa: S101
        rows: Any = RayTaskExecution._base_manager.using(alias)  # noqa: SLF001
        ours = rows.filter(fenced(self._fence))
        if is_ours:
            ours = ours.alias(is_bounded=_bounded()).filter(is_bounded=True)
        if not ours.update(**succeeded(result[0], self._output.text)):
            raise TaskSuperseded(f"{self} is not this process's any more: its transaction is rolled back.")

    def _has_been_recorded(self, alias: str) -> bool:
        from django_ray.models import RayTaskExecution, State

        if not self._keeps_rows:
            return False
        rows: Any = RayTaskExecution._base_manager.using(alias)  # noqa: SLF001
        fence = self._fence
        try:
            is_ours: bool = rows.filter(
                task_id=fence.task_id, attempt_number=fence.attempt_number, state=State.SUCCESSFUL
            ).exists()
        except Exception:  # noqa: BLE001 - nobody knows; the supervisor's word on the attempt meets the fence
            return False
        return is_ours

    @property
    def _fence(self) -> Fence:
        return Fence.of_row(self._row)

    def __str__(self) -> str:
        return f"Attempt {self._row.attempt_number} of {self._row.callable_path} {self._row.task_id}"


def _answered(connection: Any) -> AbstractContextManager[None]:
    # Django turns autocommit on between the COMMIT and the callbacks that wait for it, which may take their time.
    return answered(connection, ANSWER_SECONDS, applies=lambda: not connection.autocommit)


def _bounded() -> Func:
    """Have the server end the transaction where the COMMIT never comes, as part of a statement: it locks the row."""
    name, milliseconds = "idle_in_transaction_session_timeout", int(ANSWER_SECONDS * 1000)
    return Func(template=f"(set_config('{name}', '{milliseconds}', true) <> '')", output_field=BooleanField())


@contextmanager
def _its_own_blocks(connection: Any) -> Generator[None]:
    """Close the atomic blocks that are left open inside, which would be taken for the one around them."""
    blocks, points = len(connection.atomic_blocks), len(connection.savepoint_ids)
    try:
        yield
    finally:
        is_left_open = len(connection.atomic_blocks) > blocks
        del connection.atomic_blocks[blocks:], connection.savepoint_ids[points:]
    if is_left_open or len(connection.atomic_blocks) < blocks:
        raise transaction.TransactionManagementError("The body left a transaction.atomic() open, or closed ours.")
