"""What a body can ask of its attempt: TaskContext as Django gives it, with more; current() for code deep below it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from asgiref.sync import sync_to_async
from django.tasks import TaskContext, TaskResult

if TYPE_CHECKING:
    _Context = TaskContext[Any, Any]
else:
    _Context = TaskContext

__all__ = ["RayTaskContext", "current", "running"]


class Done(Protocol):
    """Says what the execution returns."""

    def __call__(self, value: Any = None, /) -> None:
        """Take the result."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)  # pyright: ignore[reportGeneralTypeIssues]
class RayTaskContext(_Context):  # type: ignore[misc] # it is frozen
    """The context of an attempt, for a body with takes_context=True; django_ray.current() returns the same one."""

    _completing: Callable[[], AbstractContextManager[Done]] = field(repr=False)
    _report: Callable[[float | None, str], None] = field(repr=False)
    _save: Callable[[Any], None] = field(repr=False)
    _upstreams: Callable[[], list[Any]] = field(repr=False)
    # What using(metadata=...) gave the execution, or an attempt has saved: a copy, for the body to change.
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    # When it was due, in the time zone of its schedule; None if no schedule has enqueued it.
    tick: datetime | None = None

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Say how far the body is: a fraction of 0 to 1, a message of up to 1,000 characters, or both.

        Any number of times a second: the latest is written twice a second at most, and the last one before the
        execution ends. result.progress reads it, also of an attempt that failed. Each call is a sign of life, by which
        stall_timeout is counted, also one that says the same again.
        """
        self._report(fraction, message)

    def save_metadata(self) -> None:
        """Store metadata as it is now, for result.metadata and for later attempts.

        It is written at once, by a connection of its own: also while a transaction of the body is open, and it stays
        when that is rolled back. TypeError or ValueError when it is not JSON, or more than 65,536 bytes of it;
        TaskSuperseded when the attempt is not this process's any more; TimeoutError when the database does not answer
        within 10 s, and django_ray.locking.Locked when another transaction has locked the row for 5 s.
        """
        self._save(self.metadata)

    async def asave_metadata(self) -> None:
        """Do what save_metadata does."""
        await sync_to_async(self.save_metadata)()

    def upstreams(self) -> list[TaskResult[..., Any]]:
        """Return the results of what this execution has waited for, finished, in the order in which they were passed.

        Those of the arguments, then those of after=; read now. What was deleted since is left out.
        """
        return self._upstreams()

    async def aupstreams(self) -> list[TaskResult[..., Any]]:
        """Do what upstreams does."""
        return await sync_to_async(self.upstreams)()

    def completing(self) -> AbstractContextManager[Done]:
        """Open a transaction on the database of the executions, in which this one ends SUCCESSFUL.

            with context.completing() as done:
                ...
                done({"shipped": 3})

        What the block writes and the end of the execution are committed together, or neither is: an exception in the
        block, a result that cannot be stored and an attempt that was taken away roll all of it back. done() takes the
        result; without it, that is None. What the body does after the block changes nothing any more.

        RuntimeError inside another transaction.atomic(), and the second time. TaskSuperseded when the attempt is not
        this process's any more. Not for coroutines: Django's transactions belong to a thread.
        """
        return self._completing()


# What runs in this context makes it, when it is asked for.
running: ContextVar[Callable[[], RayTaskContext]] = ContextVar("django_ray.running")


def current() -> RayTaskContext:
    """Return the context of the attempt that runs here. RuntimeError outside the body of a task.

    Threads that a body starts, and functions of parallel_map, are outside.
    """
    try:
        context = running.get()
    except LookupError:
        raise RuntimeError("No task runs here: django_ray.current() is for what a task's body calls.") from None
    return context()
