"""Flow: executions that belong together. To make one depend on another needs none: pass its result to enqueue().

    with Flow("import 42") as flow:
        pages = default_task_backend.enqueue_many([(fetch, [url], {}) for url in urls])
        report = merge.enqueue(pages)
        mail.enqueue(report, to="ada@example.org")
    flow.wait(timeout=60)

What an execution waits for is in edges.py, and what a result among the arguments becomes in upstreams.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.models import Count
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends
from django.tasks.exceptions import InvalidTaskBackend, TaskResultDoesNotExist

from django_ray import locking, tracing
from django_ray.bounds import shown
from django_ray.clock import seconds
from django_ray.databases import database_of
from django_ray.membership import Membership, membership
from django_ray.results import check_timeout
from django_ray.serialization import storable
from django_ray.tables import find

if TYPE_CHECKING:
    from django_ray.models import ExecutionQuerySet, RayFlow

__all__ = ["Flow", "FlowProgress"]

MOST_NAME = 255  # Characters of its name: the width of the column.
_PAUSE_SECONDS = 0.05  # Between two looks at executions that somebody has locked.


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowProgress:
    """How many executions of a flow are in which state."""

    blocked: int = 0  # They wait for others, or behind a gate.
    ready: int = 0
    running: int = 0
    successful: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All of them, so far: those that run may enqueue more."""
        return self.unfinished + self.finished

    @property
    def finished(self) -> int:
        """Those that have ended, in whichever way."""
        return self.successful + self.failed + self.cancelled

    @property
    def unfinished(self) -> int:
        """Those that have not."""
        return self.blocked + self.ready + self.running

    @property
    def fraction(self) -> float:
        """The part that has ended, 0 to 1; 1 for a flow without executions."""
        return self.finished / self.total if self.total else 1.0

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it is left to run."""
        return not self.unfinished


_FIELDS: Mapping[str, str] = {
    "WAITING": "blocked", "READY": "ready", "RUNNING": "running", "SUCCESSFUL": "successful", "FAILED": "failed",
    "CANCELLED": "cancelled",
}  # fmt: skip


class Flow:
    """What is enqueued inside `with Flow(name) as flow:` belongs to the flow, and so does what that enqueues.

    The block is a transaction on the database of its backend: the whole flow is there, or none of it. In a coroutine
    it is `async with`, which cannot be one. A flow can be used for one block; Flow.get(id) finds it again.
    """

    def __init__(self, name: str = "", *, backend: str = DEFAULT_TASK_BACKEND_ALIAS) -> None:
        given: Any = name
        if not isinstance(given, str) or len(given) > MOST_NAME or not storable(given):
            raise ValueError(
                f"The name of a flow must be a text of at most {MOST_NAME} characters, not {shown(given)}."
            )
        self.name = name
        self.backend = backend
        self._id: str | None = None
        self._found_in: str | None = None  # The database of its row.
        self._stack = ExitStack()

    @classmethod
    def get(cls, flow_id: str | UUID) -> Self:
        """Return the flow of that id; LookupError when there is none.

        Of a flow with a double, only as long as somebody holds it.
        """
        backends: list[Any] = list(task_backends.all())
        for double in backends:
            if not getattr(double, "keeps_rows", True) and (found := double.flows.get(str(flow_id))) is not None:
                return cast("Self", found)
        if not any(getattr(backend, "keeps_rows", False) for backend in backends):
            raise LookupError(f"There is no flow {flow_id}.")
        from django_ray.models import RayFlow

        try:
            row = find(RayFlow, UUID(str(flow_id)))
        except ValueError:
            row = None
        if row is None:
            raise LookupError(f"There is no flow {flow_id}.")
        return cls.of_row(row)

    @classmethod
    def of_row(cls, row: RayFlow) -> Self:
        """Return the flow of a row."""
        flow = cls(row.name, backend=row.backend)
        flow._id = str(row.pk)
        flow._found_in = row._state.db  # noqa: SLF001
        return flow

    @property
    def id(self) -> str:
        """Its id, a UUID. RuntimeError before the block has begun."""
        if self._id is None:
            raise RuntimeError("The flow has not begun: use it as `with Flow(name) as flow:`.")
        return self._id

    @property
    def _database(self) -> str:
        """The database in which it lives, with all that belongs to it."""
        return self._found_in or database_of(self.backend)

    def __repr__(self) -> str:
        return f"<Flow {self.name!r} {self._id or 'not begun'}>"

    @property
    def executions(self) -> ExecutionQuerySet:
        """The executions that belong to it, as rows. NotImplementedError with a double, which has none."""
        self._need_rows("executions")
        from django_ray.models import RayTaskExecution

        # Where they are written: a replica is late, and a flow that it does not know yet would have ended.
        rows: Any = RayTaskExecution.objects.using(self._database)
        return rows.filter(flow=UUID(self.id))  # type: ignore[no-any-return]

    # -- enqueueing

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._double is None:
                stack.enter_context(transaction.atomic(using=self._database))
            self._create()
            self._enter(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def __aenter__(self) -> Self:
        await sync_to_async(self._create)()
        self._enter(self._stack)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)

    def _create(self) -> None:
        if self._id is not None:
            raise RuntimeError(f"{self!r} has been used: make another one.")
        if (double := self._double) is not None:
            self._id = str(uuid4())
            double.flows.begin(self)
            return
        with connections[self._database].cursor() as cursor:
            # These columns alone: nobody needs a right to write the others.
            cursor.execute(
                "INSERT INTO django_ray_flow (backend, name) VALUES (%s, %s) RETURNING id", [self.backend, self.name]
            )
            self._id = str(cursor.fetchone()[0])

    def _enter(self, stack: ExitStack) -> None:
        stack.enter_context(tracing.flow(self.name, self.id))
        here = membership.get()
        database = self._database if self._double is None else None
        token = membership.set(Membership(self.id, None if here is None else here.parent, database, is_block=True))
        stack.callback(membership.reset, token)

    @property
    def _double(self) -> Any:
        """The backend, if it is one of django_ray.testing; None if it keeps rows. InvalidTaskBackend for another."""
        backend: Any = task_backends[self.backend]
        if not hasattr(backend, "keeps_rows"):
            raise InvalidTaskBackend(
                f"TASKS[{self.backend!r}] is a {type(backend).__module__}.{type(backend).__qualname__}, which knows no "
                "flows: use django_ray.backends.RayTaskBackend; in tests, a double of django_ray.testing."
            )
        return None if backend.keeps_rows else backend

    def _need_rows(self, what: str) -> None:
        if (double := self._double) is not None:
            raise NotImplementedError(
                f"Flow.{what} needs rows, which {type(double).__name__} does not keep: test it with "
                "RayTaskBackend and django_ray.testing.run_tasks()."
            )

    # -- what becomes of it

    def progress(self) -> FlowProgress:
        """Return how many of its executions are in which state, now."""
        if (double := self._double) is not None:
            return FlowProgress(**double.flow_states(self))
        counted = self.executions.order_by().values_list("state").annotate(number=Count("pk"))
        return FlowProgress(**{_FIELDS[state]: number for state, number in counted})

    async def aprogress(self) -> FlowProgress:
        """Do what progress does."""
        return await sync_to_async(self.progress)()

    def wait(self, timeout: float | None = None) -> FlowProgress:
        """Sleep until all of it has ended, for at most timeout seconds; return how.

        TimeoutError when the time is over before; else as result.wait(). With a double nothing ends by waiting, so it
        is raised at once.
        """
        check_timeout(timeout)
        if self._double is not None:
            return self._ended(timeout)
        end = None if timeout is None else seconds() + timeout
        while True:
            if (result := self._unfinished()) is None:
                if (progress := self.progress()).is_finished:
                    return progress
                continue  # what is left has come back between two looks
            left = None if end is None else max(0.0, end - seconds())
            try:
                result.wait(left)
            except TimeoutError:
                raise TimeoutError(self._why_not(timeout)) from None
            except TaskResultDoesNotExist:
                pass  # deleted

    async def await_end(self, timeout: float | None = None) -> FlowProgress:  # noqa: ASYNC109 - the sync one has it, too
        """Do what wait does."""
        check_timeout(timeout)
        if self._double is not None:
            return self._ended(timeout)
        end = None if timeout is None else seconds() + timeout
        while True:
            if (result := await sync_to_async(self._unfinished)()) is None:
                if (progress := await self.aprogress()).is_finished:
                    return progress
                continue  # as in wait()
            left = None if end is None else max(0.0, end - seconds())
            try:
                await result.await_result(left)
            except TimeoutError:
                raise TimeoutError(await sync_to_async(self._why_not)(timeout)) from None
            except TaskResultDoesNotExist:
                pass  # deleted

    def _unfinished(self) -> Any:
        """Return the result of the one that was enqueued last of those that have not ended: most end before it."""
        for state in ("WAITING", "READY", "RUNNING"):
            pk = self.executions.filter(state=state).order_by("-task_id").values_list("pk", flat=True).first()
            if pk is not None:
                return task_backends[self.backend].get_result(str(pk))
        return None

    def _ended(self, timeout: float | None) -> FlowProgress:
        progress = self.progress()
        if not progress.is_finished:
            raise TimeoutError(f"{self._why_not(timeout)} {type(self._double).__name__} runs nothing.")
        return progress

    def _why_not(self, timeout: float | None) -> str:
        progress = self.progress()
        number = f"{progress.finished} of {progress.total}"
        return f"{number} executions of the flow {self.name!r} have ended after {timeout} s."

    def cancel(self) -> int:
        """Cancel what has not ended, and what is enqueued into it from now on; return how many were there.

        What runs is stopped by its supervisor. Locked, an OperationalError, when another transaction has locked some of
        its executions for 10 s: all others are cancelled then.
        """
        if (double := self._double) is not None:
            return double.cancel_flow(self)  # type: ignore[no-any-return]
        alias = self._database
        end = seconds() + locking.LOCK_SECONDS
        number: int = 0
        while True:
            with locking.waiting_briefly(alias, max(0.05, end - seconds())), connections[alias].cursor() as cursor:
                cursor.execute("SELECT number, has_locked FROM django_ray_cancel_flow(%s)", [self.id])
                cancelled, has_locked = cursor.fetchone()
            number += cancelled
            if not has_locked:
                return number
            if seconds() >= end:
                raise locking.still_locked(number, list(self._left()))
            time.sleep(_PAUSE_SECONDS)

    def _left(self) -> Any:
        return (
            self.executions.filter(finished_at=None, cancel_requested_at=None)
            .order_by("pk")
            .values_list("pk", flat=True)[:100]
        )

    async def acancel(self) -> int:
        """Do what cancel does."""
        return await sync_to_async(self.cancel)()

    def retry(self) -> int:
        """Run what has failed or was cancelled once more, and what failed because of that; return how many that is.

        What has succeeded does not run again, but what needs only an end does, when it comes. For operators: it writes
        the rows. Locked, an OperationalError, when another transaction has locked some of its executions for 10 s: all
        others are retried then. NotImplementedError with a double, which has none.
        """
        self._need_rows("retry()")
        from django_ray.models import RayFlow

        alias = self._database
        # Committed by itself: whoever enqueues into the flow meanwhile waits for this row.
        with locking.waiting_briefly(alias):
            RayFlow._base_manager.using(alias).filter(pk=self.id).update(cancelled_at=None)  # noqa: SLF001
        before = self._number_failed()
        self.executions.exclude(state="FAILED", exception_type="django_ray.exceptions.UpstreamFailed").retry()
        return max(0, before - self._number_failed())

    def _number_failed(self) -> int:
        number: int = self.executions.filter(state__in=("FAILED", "CANCELLED")).count()
        return number

    async def aretry(self) -> int:
        """Do what retry does."""
        return await sync_to_async(self.retry)()
