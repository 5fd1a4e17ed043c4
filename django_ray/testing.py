"""For the tests of a project: run what was enqueued here and now, or put a double in the backend's place.

    from django_ray.testing import run_tasks

    class OrderTests(TestCase):
        def test_an_order_is_confirmed(self):
            place_order(...)
            run_tasks()
            self.assertEqual(len(mail.outbox), 1)

run_tasks() works on the rows, inside the test's transaction, by the statements and the policy of the supervisor. The
doubles need no database: TASKS = {"default": {"BACKEND": "django_ray.testing.ImmediateBackend"}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast, override
from uuid import uuid4

from django.core.checks import CheckMessage
from django.db import connections
from django.db.models.functions import Now
from django.tasks import Task, TaskResultStatus, task_backends
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.utils import timezone

from django_ray.backends import RayTaskBackend
from django_ray.bounds import LONGEST
from django_ray.declaring import declared
from django_ray.doubled import Flows, is_cancelled
from django_ray.enqueueing import Checked, Enqueue
from django_ray.exceptions import TaskRefused
from django_ray.flows import Flow
from django_ray.membership import FLOW, membership
from django_ray.metadata import with_metadata
from django_ray.results import RayTaskResult, changed, task_result
from django_ray.retry import MOST_RELEASED
from django_ray.rows import ClaimedRow
from django_ray.rules import Rule, read_rule, ticks
from django_ray.runtime.entrypoint import invoke, run
from django_ray.runtime.preparation import prepare
from django_ray.runtime.reporting import in_this_thread
from django_ray.runtime.upstream import Passed
from django_ray.ticking import ticking
from django_ray.tracing import Carrier
from django_ray.upstreams import RESULTS, Upstreams, filled, ids_in

__all__ = ["DummyBackend", "ImmediateBackend", "fire_schedules", "run_tasks"]

MOST_EXECUTIONS = 1000
_ON_MEMBER = "django_ray_on_member"
_UPSTREAM_FAILED = "django_ray.exceptions.UpstreamFailed"


def run_tasks(
    *,
    backend: str = "default",
    queue_name: str | None = None,
    ahead: timedelta = timedelta(0),
    raise_errors: bool = False,
) -> list[RayTaskResult[..., Any]]:
    """Run what is queued in this process, one after the other, until nothing is due; return the results in that order.

    By priority and age, with what the tasks enqueue meanwhile, with retries and their limits, timeouts excepted; at a
    gate with a rate as if the time between two starts had passed. What falls due within ahead runs as if that time had
    passed: run_tasks(ahead=timedelta(hours=1)) includes most retries.
    With raise_errors, the exception of the first attempt that fails is raised here, after it is recorded, also where
    the task would be tried again.

    RuntimeError after 1,000 attempts: a task seems to enqueue itself without end. ValueError when ahead is less than
    nothing or more than 100 years.
    """
    if not timedelta(0) <= ahead <= timedelta(seconds=LONGEST):
        raise ValueError(f"ahead must be a timedelta of 0 to 100 years, not {ahead!r}.")
    from django_ray.models import RayGate, RayTaskExecution, RayWorker, State

    rows = cast("RayTaskBackend", task_backends[backend])
    alias = rows.database
    gates = RayGate._base_manager.using(alias).filter(backend=backend)  # noqa: SLF001
    due = RayTaskExecution._base_manager.using(alias).filter(state=State.READY, backend=backend)  # noqa: SLF001
    if queue_name is not None:
        due = due.filter(queue_name=queue_name)
    worker = RayWorker._base_manager.using(alias).create(  # noqa: SLF001
        hostname="test",
        pid=0,
        backend=backend,
        queues=[queue_name],
        concurrency=1,
        ray_address="",
        version="",
        stopped_at=Now(),
    )
    ran: dict[str, None] = {}
    for _ in range(MOST_EXECUTIONS):
        due.filter(due_at__lte=Now() + ahead).update(due_at=None)
        gates.filter(next_at__gt=Now()).update(next_at=None)
        attempt = _run_next(alias, worker.pk, backend, queue_name, rows.settings)
        if attempt is None:
            return [rows.get_result(task_id) for task_id in ran]
        if raise_errors and attempt.error is not None:
            raise attempt.error
        ran[attempt.task_id] = None
    raise RuntimeError(f"More than {MOST_EXECUTIONS} attempts: does a task enqueue itself without end?")


def fire_schedules(at: datetime, *, backend: str = "default", name: str | None = None) -> list[RayTaskResult[..., Any]]:
    """Enqueue what is due at this very moment, as supervisors do; return the results, by the names of the schedules.

    All schedules, or the one of that name. A tick is enqueued once; a paused schedule is left out, and so is one whose
    run before is unfinished, unless it says overlap="allow". run_tasks() runs them. A double of this module keeps no
    rows: it has the schedules that the code declares, and does with their tasks what it does with an enqueue.

    LookupError when there is no schedule of that name. A naive moment is one of the current time zone.
    """
    moment = (timezone.make_aware(at) if timezone.is_naive(at) else at).astimezone(UTC)
    rows = cast("RayTaskBackend", task_backends[backend])
    return rows.fire(moment, name) if isinstance(rows, _InMemory) else _fire_rows(rows, moment, name)


def _fire_rows(backend: RayTaskBackend, at: datetime, name: str | None) -> list[RayTaskResult[..., Any]]:
    """Move the rows of schedules by the statement of the supervisor."""
    from django_ray.models import RaySchedule, RayTaskExecution
    from django_ray_worker.core.schedule import Decision
    from django_ray_worker.database.statements import SQL

    alias = backend.database
    rows = RaySchedule._base_manager.using(alias).filter(backend=backend.alias)  # noqa: SLF001
    chosen = rows.order_by("name") if name is None else [_found(rows.filter(name=name).first(), name)]
    results: list[RayTaskResult[..., Any]] = []
    for row in chosen:
        if not row.is_active or not _is_due(row.rule, at):
            continue
        of_tick = RayTaskExecution._base_manager.using(alias).filter(schedule=row, tick=at)  # noqa: SLF001
        is_new = not of_tick.exists()
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT xmin::text FROM django_ray_schedule WHERE id = %s", [row.pk])
            decision = Decision(
                id=row.pk, version=cursor.fetchone()[0], name=row.name, ticks=(at,), next_at=row.rule.after(at)
            )
            parameters: dict[str, Any] = {
                "backend": backend.alias,
                "decisions": json.dumps([decision.columns]),
                "besides": [],
            }
            cursor.execute(SQL["fire"].decode(), parameters)
        results += [backend.get_result(str(task_id)) for task_id in of_tick.values_list("pk", flat=True) if is_new]
    return results


def _found[Found](found: Found | None, name: str) -> Found:
    if found is None:
        raise LookupError(f"There is no schedule {name!r}.")
    return found


def _is_due(rule: Rule, at: datetime) -> bool:
    return next(ticks(rule, at - timedelta(microseconds=1), at), None) == at


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One that is recorded; error is why it did not succeed."""

    task_id: str
    error: BaseException | None


def _run_next(alias: str, worker: int, backend: str, queue_name: str | None, options: Any) -> _Attempt | None:
    """Claim, run and record one execution, as a supervisor does; None when nothing is due."""
    from django_ray_worker.core.policy import decide
    from django_ray_worker.database.statements import (
        SQL,
        Record,
        claim_of,
        claim_parameters,
        lane_parameters,
        record_parameters,
    )
    from django_ray_worker.running.answer import missing, outcome_of

    queues = None if queue_name is None else [queue_name]
    scope = {"backend": backend, "queues": queues}
    with connections[alias].cursor() as cursor:
        if connections[alias].in_atomic_block:
            # A commit would ask whether their flow is cancelled: in a TestCase there is none.
            cursor.execute(f"SET CONSTRAINTS {_ON_MEMBER} IMMEDIATE; SET CONSTRAINTS {_ON_MEMBER} DEFERRED")
        row: dict[str, Any] = {"task_id": None}
        for statement, said in (
            ("claim", claim_parameters(worker, 1)),
            ("claim_lanes", lane_parameters(worker, 1, "{}")),
        ):
            if row["task_id"] is None:
                cursor.execute(SQL[statement].decode(), scope | said)
                names = [column.name for column in cursor.description]
                row = dict(zip(names, cursor.fetchone(), strict=True))
    if row["task_id"] is None:
        return None
    claim = claim_of(row, options)
    errors: list[BaseException] = [TaskRefused(claim.unfit)] if claim.unfit else []
    with _own_transactions(), in_this_thread():
        envelope = None if claim.unfit else invoke(claim.payload, errors.append)
    if envelope is not None and envelope.get("is_settled"):
        return _Attempt(str(claim.task_id), None)
    outcome = missing(claim.unfit) if envelope is None else outcome_of(envelope)
    # What is not here in a test does not come.
    verdict = decide(replace(claim, missing_for=math.inf, released=MOST_RELEASED), outcome, 0)
    record = Record(claim, verdict, envelope["output"] if envelope else "")
    with connections[alias].cursor() as cursor:
        cursor.execute(SQL["record"].decode(), record_parameters([record]))
    return _Attempt(str(claim.task_id), errors[0] if errors else None)


@contextmanager
def _own_transactions() -> Generator[None]:
    """Let a task break its transaction, as it may in a Ray worker, without breaking the test's."""
    points = [
        (connection, cast("str", connection.savepoint()))
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]
    yield
    for connection, point in points:
        if connection.needs_rollback or connection.connection.info.transaction_status.name == "INERROR":
            connection.needs_rollback = False
            connection.savepoint_rollback(point)
        else:
            connection.savepoint_commit(point)


class _InMemory(RayTaskBackend):
    """A backend without rows."""

    keeps_rows = False

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.flows = Flows()

    def flow_states(self, flow: Flow) -> Mapping[str, int]:
        """Return how many executions of a flow are in which state, as FlowProgress calls them."""
        return self.flows.count(flow, self._state)

    def _state(self, result: RayTaskResult[..., Any]) -> str:
        return "cancelled" if is_cancelled(result) else result.status.value.lower()

    def cancel_flow(self, flow: Flow) -> int:
        """Cancel what has not ended, and what is enqueued into it from now on; return how many were there."""
        return self.flows.cancel(flow, self._cancel)

    def _cancel(self, result: RayTaskResult[..., Any]) -> bool:  # noqa: ARG002 - it is finished, or runs here
        return False

    def fire(self, at: datetime, name: str | None) -> list[RayTaskResult[..., Any]]:
        """Enqueue what the code declares for this moment."""
        found = declared(self)
        chosen = {row["name"]: row for row in found.definitions}
        if name is not None:
            chosen = {name: _found(chosen.get(name), name)}
        results: list[RayTaskResult[..., Any]] = []
        for each, row in sorted(chosen.items()):
            every = None if row["every"] is None else timedelta(seconds=row["every"])
            if _is_due(read_rule(row["cron"], every, row["time_zone"]), at):
                enqueue = self._enqueue(found.planned[each], row["args"], row["kwargs"])
                results += self._done(self._store([enqueue], ticking(each, at, row["time_zone"])))
        return results

    def _done(self, results: list[RayTaskResult[..., Any]]) -> list[RayTaskResult[..., Any]]:
        """Do what becomes of enqueues at once."""
        return results

    @override
    def _store(self, enqueues: list[Enqueue], carrier: Carrier | None) -> list[RayTaskResult[..., Any]]:
        now, flow = timezone.now(), membership.get()
        if flow is not None:
            carrier = {**(carrier or {}), FLOW: flow.carried}
        return [
            task_result(one.task, self._row(one.task, args, kwargs, enqueued_at=now, carrier=_carrier(one, carrier)))
            for one, args, kwargs, *_ in enqueues
        ]

    def _row(self, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any], **said: Any) -> ClaimedRow:
        run_after: Any = task.run_after
        columns = {
            "task_id": str(uuid4()),
            "state": "READY",
            "backend": self.alias,
            "queue_name": task.queue_name,
            "priority": task.priority,
            "callable_path": task.module_path,
            "args": args,
            "kwargs": kwargs,
            "run_after": said["enqueued_at"] + run_after if isinstance(run_after, timedelta) else run_after,
            "attempt_number": 0,
            "worker_ids": [],
        }
        return ClaimedRow({**columns, **said})

    @override
    def progress(self, result_id: str) -> None:
        """Nobody keeps it."""

    @override
    def check(self, **_: Any) -> list[CheckMessage]:
        return []


def _carrier(checked: Checked, carrier: Carrier | None) -> Carrier | None:
    return with_metadata(carrier, checked.metadata) if checked.metadata else carrier


class ImmediateBackend(_InMemory):
    """Runs each task inside enqueue(), once; its result is finished. As Django's of that name, with our options.

    A result that is an argument is replaced by its value; if its execution has failed, so has this one.
    """

    supports_defer = False
    supports_get_result = False

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._upstreams: dict[str, Upstreams] = {}

    @override
    def _store(self, enqueues: list[Enqueue], carrier: Carrier | None) -> list[RayTaskResult[..., Any]]:
        results = super()._store(enqueues, carrier)
        for one, result in zip(enqueues, results, strict=True):
            if one.upstreams is not None:
                self._upstreams[result.id] = one.upstreams
        return results

    @override
    def enqueue_many(
        self, calls: Iterable[tuple[Task[..., Any], Sequence[Any], Mapping[str, Any]]]
    ) -> list[RayTaskResult[..., Any]]:
        return self._done(super().enqueue_many(calls))

    @override
    def _done(self, results: list[RayTaskResult[..., Any]]) -> list[RayTaskResult[..., Any]]:
        return [self._run(result) for result in results]

    def _run(self, ready: RayTaskResult[..., Any]) -> RayTaskResult[..., Any]:
        prepare()
        now = timezone.now()
        row = self._row(
            ready.task, ready.args, ready.kwargs, task_id=ready.id, state="RUNNING", enqueued_at=ready.enqueued_at,
            started_at=now, last_attempted_at=now, attempt_number=1, worker_ids=["immediate"],
            options={"retry": {"max_attempts": 1}}, carrier=getattr(ready, "_carrier"),  # noqa: B009 - for the type checkers
        )  # fmt: skip
        upstreams = self._upstreams.pop(ready.id, None)
        self.flows.note(task_result(ready.task, row))
        if self.flows.takes_no_more(ready):
            row.state, row.errors = "CANCELLED", [_error("TaskCancelled", "The flow was cancelled.")]
        elif upstreams is not None and (failed := _failed(upstreams)) is not None:
            row.state, row.errors = "FAILED", [failed]
        else:
            self._run_body(row, upstreams)
        row.finished_at = timezone.now()
        result = task_result(ready.task, row)
        self.flows.note(result)
        return result

    @staticmethod
    def _run_body(row: ClaimedRow, upstreams: Upstreams | None) -> None:
        envelope = run(row, passed=None if upstreams is None else _passed(row, upstreams))
        if envelope["kind"] == "returned":
            row.state, row.result = "SUCCESSFUL", json.loads(envelope["result"])
        elif envelope["exception_class_path"] == "builtins.KeyboardInterrupt":
            raise KeyboardInterrupt(envelope["message"])  # of the developer, as with Django's
        else:
            row.state, row.errors = "FAILED", [cast("dict[str, Any]", envelope)]

    @override
    def cancel(self, result_id: str) -> bool:
        return False  # it is finished

    @override
    def why(self, result_id: str) -> str:
        return "It has ended: ImmediateBackend runs each task inside enqueue(), once."

    @override
    def get_result(self, result_id: str) -> RayTaskResult[..., Any]:
        BaseTaskBackend.get_result(self, result_id)
        raise AssertionError("Django's own says that this is not implemented.")


def _failed(upstreams: Upstreams) -> dict[str, Any] | None:
    """Return the error of what waits for these, None if they have ended as it needs."""
    for result in upstreams.results:
        if upstreams.needs == "success" and result.status != TaskResultStatus.SUCCESSFUL:
            for error in result.errors[-1:]:
                if error.exception_class_path == _UPSTREAM_FAILED:  # It says who is to blame.
                    return _error("UpstreamFailed", error.traceback.removeprefix(f"{_UPSTREAM_FAILED}: ").rstrip("\n"))
            how = "was cancelled" if is_cancelled(result) else "failed" if result.is_finished else "has not ended"
            return _error("UpstreamFailed", f"{result.task.module_path} {result.id} {how}.")
    return None


def _error(name: str, message: str) -> dict[str, Any]:
    path = f"django_ray.exceptions.{name}"
    return {"exception_class_path": path, "message": message, "traceback": f"{path}: {message}\n"}


def _passed(row: ClaimedRow, upstreams: Upstreams) -> Passed:
    results = {result.id: result for result in upstreams.results}

    def value_of(task_id: str) -> Any:
        result = results[task_id]
        return result if upstreams.needs == "end" else deepcopy(result.return_value)

    def fill() -> tuple[list[Any], dict[str, Any]]:
        places = ids_in(row.args, row.kwargs, {RESULTS: upstreams.paths})
        return filled(deepcopy(row.args), deepcopy(row.kwargs), places, value_of)

    return Passed(upstreams.results, fill)


class DummyBackend(_InMemory):
    """Runs nothing and keeps the results, READY, in .results. As Django's of that name, with our options.

    What is unique is kept once, as long as it is READY; of "replace", the latest.
    """

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.results: list[RayTaskResult[..., Any]] = []
        self._unique: dict[str, RayTaskResult[..., Any]] = {}
        self._waiting: dict[str, list[str]] = {}  # By their ids: for which others.

    def clear(self) -> None:
        """Forget the results."""
        self.results.clear()
        self._unique.clear()
        self._waiting.clear()
        self.flows.clear()

    @override
    def _state(self, result: RayTaskResult[..., Any]) -> str:
        if result.is_finished:
            return "cancelled"  # it can end in no other way
        unfinished = {one.id for one in self.results if not one.is_finished}
        return "ready" if unfinished.isdisjoint(self._waiting.get(result.id, ())) else "blocked"

    @override
    def _store(self, enqueues: list[Enqueue], carrier: Carrier | None) -> list[RayTaskResult[..., Any]]:
        results = super()._store(enqueues, carrier)
        for one, result in zip(enqueues, results, strict=True):
            if one.upstreams is not None:
                self._waiting[result.id] = one.upstreams.ids
        return [self._keep(one.key, result) for one, result in zip(enqueues, results, strict=True)]

    def _keep(self, key: str | None, result: RayTaskResult[..., Any]) -> RayTaskResult[..., Any]:
        """Keep a result, unless there is an equal one; return a copy of what is kept."""
        twin = None if key is None else self._unique.get(key)
        if key is None or twin is None or twin.is_finished or twin not in self.results:
            self.results.append(result)
            self.flows.note(result)
            if self.flows.takes_no_more(result):
                self._cancel(result)
            if key is not None:
                self._unique[key] = result
            return deepcopy(result)
        if key.startswith("r:"):
            for name in ("args", "kwargs", "enqueued_at"):
                object.__setattr__(twin, name, getattr(result, name))
            task = changed(twin.task, priority=result.task.priority, run_after=result.task.run_after)
            object.__setattr__(twin, "task", task)
        duplicate = deepcopy(twin)
        object.__setattr__(duplicate, "is_duplicate", True)
        return duplicate

    @override
    def cancel(self, result_id: str) -> bool:
        return self._cancel(self.get_result(result_id))

    @override
    def _cancel(self, result: RayTaskResult[..., Any]) -> bool:
        is_ready = not result.is_finished
        object.__setattr__(result, "status", TaskResultStatus.FAILED)
        return is_ready

    @override
    def why(self, result_id: str) -> str:
        if any(result.id == result_id and result.is_finished for result in self.results):
            return "It was cancelled."
        return "It is READY and stays so: DummyBackend runs nothing."

    @override
    def get_result(self, result_id: str) -> RayTaskResult[..., Any]:
        for result in self.results:
            if result.id == result_id:
                return result
        raise TaskResultDoesNotExist(result_id)
