"""A row becomes Django's TaskResult. Pure, but for RayTaskResult's waiting."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, cast, overload, override
from uuid import UUID

from asgiref.sync import sync_to_async
from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TASK_REFRESH_ATTRS, TaskError
from django.utils.module_loading import import_string

from django_ray.bounds import LONGEST, LONGEST_IN_WORDS, is_number, shown
from django_ray.driver import need_psycopg
from django_ray.metadata import metadata_of
from django_ray.moments import held_sql
from django_ray.rows import Row, StoredError, supervisors_of
from django_ray.ticking import tick_of

if TYPE_CHECKING:
    from django_ray.progress import Progress

    _TaskResult = TaskResult
else:

    class _TaskResult:
        """TaskResult, which is generic in its stubs alone."""

        def __class_getitem__(cls, _: Any) -> type[TaskResult]:
            return TaskResult


__all__ = [
    "RESULT", "RayTaskResult", "Row", "changed", "check_timeout", "import_task", "missing_task", "task_of",
    "task_result", "value_of",
]  # fmt: skip

_STATUS: Mapping[str, TaskResultStatus] = {
    "WAITING": TaskResultStatus.READY,
    "READY": TaskResultStatus.READY,
    "RUNNING": TaskResultStatus.RUNNING,
    "SUCCESSFUL": TaskResultStatus.SUCCESSFUL,
    "FAILED": TaskResultStatus.FAILED,
    "CANCELLED": TaskResultStatus.FAILED,
}

# What a result is made from. Django would take longer to write this than the server to answer it.
_MOMENTS = ("enqueued_at", "run_after", "started_at", "last_attempted_at", "finished_at")
RESULT = f"""
SELECT
    task_id, callable_path, state, backend, queue_name, priority, args, kwargs, carrier, result, errors, worker_ids,
    {", ".join(f"{held_sql(name)} AS {name}" for name in _MOMENTS)}
FROM django_ray_execution WHERE task_id = %s
"""  # noqa: S608 - constants

_REFRESHED = (*TASK_REFRESH_ATTRS, "_carrier")


@dataclass(frozen=True, slots=True, kw_only=True)  # pyright: ignore[reportGeneralTypeIssues]
class RayTaskResult[**P, R](_TaskResult[P, R]):  # type: ignore[misc] # it is frozen
    """Django's TaskResult, which can be waited for."""

    _carrier: Any = field(init=False, default=None, repr=False, compare=False)  # Of the row: what travels with it.
    # Nothing was enqueued: an equal execution was there, as unique=... of the task has it, and this is its result.
    is_duplicate: bool = field(init=False, default=False, compare=False)

    def wait(self, timeout: float | None = None) -> Self:
        """Sleep until the execution is finished, for at most timeout seconds; return self, refreshed.

        Finished is SUCCESSFUL or FAILED for good, after all its attempts. TimeoutError when the time is over before,
        ValueError when timeout is not a number of seconds or more than 100 years, TransactionManagementError inside a
        transaction, TaskResultDoesNotExist when the execution is deleted. Needs a direct or session-pooled connection
        to PostgreSQL.
        """
        need_psycopg("wait()")
        from django_ray.waiting import wait_for_end

        check_timeout(timeout)
        if not self.is_finished:
            self.refresh()
        if not self.is_finished:
            wait_for_end(self._database, UUID(self.id), timeout, self._pulse)
            self.refresh()
        if not self.is_finished:
            raise TimeoutError(self._why_not(timeout))
        return self

    async def await_result(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109 - the sync one has it, too
        """Do what wait does."""
        need_psycopg("await_result()")
        from django_ray.waiting import await_end

        check_timeout(timeout)
        if not self.is_finished:
            await self.arefresh()
        if not self.is_finished:
            try:
                async with asyncio.timeout(timeout):
                    await await_end(self._database, UUID(self.id), self._pulse)
            except TimeoutError:
                pass  # it may have ended all the same
            await self.arefresh()
        if not self.is_finished:
            raise TimeoutError(await sync_to_async(self._why_not)(timeout))
        return self

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What using(metadata=...) gave it, or its body has saved, when this result was read; empty for nothing."""
        return MappingProxyType(metadata_of(self._carrier))

    @property
    def tick(self) -> datetime | None:
        """When it was due, in the time zone of its schedule; None if no schedule has enqueued it."""
        return tick_of(self._carrier)

    @override
    def refresh(self) -> None:
        self._take_from(self.task.get_backend().get_result(self.id))

    @override
    async def arefresh(self) -> None:
        self._take_from(await self.task.get_backend().aget_result(self.id))

    def _take_from(self, refreshed: Any) -> None:
        for name in _REFRESHED:
            object.__setattr__(self, name, getattr(refreshed, name))

    @property
    def progress(self) -> Progress | None:
        """What the body has said last of how far it is, read now; None for nothing.

        It is that of the latest attempt that said anything. Doubles keep none.
        """
        backend: Any = self.task.get_backend()
        return backend.progress(self.id)  # type: ignore[no-any-return]

    async def aprogress(self) -> Progress | None:
        """Do what progress does."""
        return await sync_to_async(lambda: self.progress)()

    def updates(self) -> AsyncGenerator[Progress]:
        """Yield what the body has said so far, and what it says from now on, until the execution is finished.

            async for update in result.updates():
                print(update.fraction, update.message, update.output)

        Each value that is written is there once, in order; of what was said before, the last one. While somebody
        watches, lines that a body writes after its first progress() come as well. Doubles yield nothing.
        TransactionManagementError inside a transaction. Needs a direct or session-pooled connection to PostgreSQL.
        """
        need_psycopg("updates()")
        from django_ray.progress import updates_of

        backend: Any = self.task.get_backend()
        return updates_of(self._database, UUID(self.id), self._pulse) if backend.keeps_rows else _nothing()

    @property
    def _database(self) -> str:
        backend: Any = self.task.get_backend()
        return backend.database  # type: ignore[no-any-return]

    @property
    def _pulse(self) -> float:
        backend: Any = self.task.get_backend()
        return backend.settings.pulse  # type: ignore[no-any-return]

    def cancel(self) -> bool:
        """Cancel the execution unless it is finished; tell whether it was not.

        READY, it is cancelled at once; RUNNING, its supervisor stops it, which wait() can wait for. Its result is then
        FAILED, with django_ray.exceptions.TaskCancelled as its last error.
        """
        backend: Any = self.task.get_backend()
        return backend.cancel(self.id)  # type: ignore[no-any-return]

    async def acancel(self) -> bool:
        """Do what cancel does."""
        return await sync_to_async(self.cancel, thread_sensitive=True)()

    def why(self) -> str:
        """Return in one sentence why the execution does not run, or what it is doing, as it is now.

            >>> result.why()
            "It waits behind gate 'shop:7': 5 of 5 running, 312 before it."

        Read from the database, at a bounded cost. A role that may not see queues, supervisors and gates is told what
        can be told without them.
        """
        backend: Any = self.task.get_backend()
        return backend.why(self.id)  # type: ignore[no-any-return]

    async def awhy(self) -> str:
        """Do what why does."""
        return await sync_to_async(self.why, thread_sensitive=True)()

    def _why_not(self, timeout: float | None) -> str:
        return f"{self.task.module_path} {self.id} is {self.status.value} after {timeout} s. {self.why()}"


async def _nothing() -> AsyncGenerator[Progress]:
    nothing: tuple[Progress, ...] = ()
    for update in nothing:
        yield update


@overload
def value_of[R](result: RayTaskResult[..., R], /) -> R: ...
@overload
def value_of[R](result: Sequence[RayTaskResult[..., R]], /) -> list[R]: ...
def value_of(result: Any, /) -> Any:
    """Return the result itself, or the list of results; to a type checker it is what their bodies return.

    For an argument of enqueue(), where a result stands for its value: merge.enqueue(value_of(pages)). No type can say
    that. Nothing is read, and nobody waits.
    """
    return result


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError for a timeout that is none."""
    if timeout is None or is_number(timeout, -math.inf, LONGEST) or timeout == math.inf:
        return
    raise ValueError(
        f"timeout must be a number of seconds of at most {LONGEST_IN_WORDS}, or None, not {shown(timeout)}."
    )


def import_task(path: str) -> Task[..., Any]:
    """Import the task that a row names; ImportError when there is none, TypeError when it is anything but a Task.

    A row must never be able to call what is not declared as a task.
    """
    found = import_string(path)
    if not isinstance(found, Task):
        raise TypeError(f"{path!r} is a {type(found).__qualname__}, not a task: decorate it with @task.")
    return found


def missing_task(path: str) -> Task[..., Any]:
    """Return a stand-in for a task whose code is gone, so that its results can still be read."""

    def gone() -> None:
        raise LookupError(f"The task {path!r} is not importable any more.")

    module, _, name = path.rpartition(".")
    gone.__module__, gone.__qualname__, gone.__name__ = module, name, name
    task: Task[..., Any] = _with(Task, func=gone, takes_context=False)
    return task


def task_of(task: Task[..., Any], row: Row) -> Any:
    """Return the task as it was enqueued: with the row's queue, priority, run_after and backend.

    The row is what happened, so nothing is validated against today's settings.
    """
    return changed(task, priority=row.priority, queue_name=row.queue_name, run_after=row.run_after, backend=row.backend)


def changed(task: Task[..., Any], **changes: Any) -> Any:
    """Return the task with some of its attributes changed, and not validated again."""
    for name, value in changes.items():
        if getattr(task, name) != value:
            break
    else:
        return task  # immutable
    values = {name: getattr(task, name) for name in _names(cast("Any", type(task)))}
    return _with(type(task), **{**values, **changes})


def _with(kind: type[Task[..., Any]], **values: Any) -> Any:
    task = object.__new__(kind)
    for name in _names(cast("Any", kind)):
        object.__setattr__(task, name, values.get(name))
    return task


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def task_result[**P, R](task: Task[P, R], row: Row) -> RayTaskResult[P, R]:
    """Return the result of a row; task is its task, by import_task."""
    result: RayTaskResult[P, R] = RayTaskResult(
        task=task_of(task, row),
        id=str(row.task_id),
        status=_STATUS[row.state],
        enqueued_at=row.enqueued_at,
        started_at=row.started_at,
        last_attempted_at=row.last_attempted_at,
        finished_at=row.finished_at,
        args=row.args,
        kwargs=row.kwargs,
        backend=row.backend,
        errors=[
            TaskError(exception_class_path=error.exception_class_path, traceback=error.traceback)
            for error in StoredError.all_of(row.errors)
        ],
        worker_ids=supervisors_of(row.worker_ids),
    )
    object.__setattr__(result, "_return_value", row.result)
    object.__setattr__(result, "_carrier", row.carrier)
    return result
