"""One Ray call: one attempt, or several short ones one after the other, inside a Ray worker.

Several share a call because a call costs more than a short body. None waits long for another all the same: a call
starts no body after its first 50 ms, and hands back what it has not started. When a body turns out to be long, the
supervisor would hear of all that too late. So after 100 ms the call settles the others itself, fenced as every write:
what has returned is recorded, and what has not started is READY again. Rows that somebody else has locked are left to
the supervisor, and a database that does not answer holds up nobody.

A process that cannot set Django up begins none, and says so.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache, reduce
from operator import or_
from typing import Any, NotRequired, TypedDict
from uuid import UUID

from django.db import connections
from django.db.models import Case, DateTimeField, F, Func, JSONField, Q, Value, When
from django.db.models.functions import Least, Now

from django_ray import locking
from django_ray.deadline import answered
from django_ray.exceptions import Unprepared
from django_ray.retry import MOST_RELEASED, pause
from django_ray.rows import Fence
from django_ray.runtime.claimed import database_of_claim, fenced
from django_ray.runtime.completion import succeeded
from django_ray.runtime.connections import close_all
from django_ray.runtime.entrypoint import Envelope, ReturnedEnvelope, envelope_of, invoke
from django_ray.runtime.interrupt import interruptible, overran, protected, was_interrupted
from django_ray.runtime.preparation import settle_in
from django_ray.runtime.rayworker import end_after_answer
from django_ray.runtime.surroundings import spoiled_by
from django_ray.watch import Watch

__all__ = ["BUDGET_SECONDS", "PATIENCE_SECONDS", "Report", "invoke_on_ray", "unprepared"]

BUDGET_SECONDS = 0.05  # A call starts no body after that.
PATIENCE_SECONDS = 0.1  # The others of a call wait no longer for a long body.
SETTLE_SECONDS = 3.0  # For the database to settle: longer than that a body which has ended does not wait for it.
ANSWER_SECONDS = 10.0  # For the database to answer all the same, or the connection is hung up.
MOST_CHARACTERS = 1_000_000  # A call that has so many to send is over: they travel together.
# A process that cannot begin anything answers no sooner: who fails at once gets all the work. Its node's CPU is taken
# meanwhile, so that Ray gives the work to other nodes.
REST_SECONDS = 5.0


class Report(TypedDict):
    """What became of a call. Versions differ: its reader ignores what it does not know, and can do without all."""

    envelopes: list[Envelope]  # Of those that were run, in order; the others were not started.
    seconds: list[float]  # How long each took.
    is_interrupted: bool  # The last of them was stopped, or the next one would have been.
    overran: float | None  # It was stopped at its timeout, of so many seconds,
    has_stalled: NotRequired[bool]  # or at its stall_timeout.
    settled: list[int]  # Which of them are recorded already.
    is_rest_ready: bool  # Those that were not started are READY already, or will be found by a reconciliation.
    locked: NotRequired[list[int]]  # Which of those are not: somebody else has locked their rows.
    is_spoiled: NotRequired[bool]  # No other body may run in the process, which Ray does not end by itself: an actor's.
    is_unprepared: NotRequired[bool]  # None was begun: Django cannot be set up here.


def invoke_on_ray(rows: Sequence[str]) -> Report:
    """Run attempts, each the JSON of its row, on the main thread of a Ray worker, where they can be interrupted.

    Without rows it only sets Django up: Unprepared if it cannot.
    """
    with protected():
        try:
            settle_in()
        except Unprepared as error:
            if not rows:
                raise
            return unprepared(rows, error)
        report = _Call(rows).run()
    if spoiled_by():
        end_after_answer()
    return report


def unprepared(rows: Sequence[str], error: Unprepared) -> Report:
    """Say of each, after a while, that it was not begun: this process cannot, others may."""
    with suppress(KeyboardInterrupt), interruptible():
        time.sleep(REST_SECONDS)
    return {
        "envelopes": [envelope_of("missing", error) for _ in rows],
        "seconds": [0.0] * len(rows),
        "is_interrupted": False,  # whatever for: it says that none was begun
        "overran": None,
        "settled": [],
        "is_rest_ready": False,
        "is_unprepared": True,
    }


class _Call:
    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._rest = deque(rows)
        self._lock = threading.Lock()  # Around what both threads look at.
        self._is_over = False
        self._report: Report = {
            "envelopes": [], "seconds": [], "is_interrupted": False, "overran": None, "settled": [],
            "is_rest_ready": False,
        }  # fmt: skip
        self._has_settled = threading.Event()  # Not while that is under way.
        self._has_settled.set()

    def run(self) -> Report:
        guard = _watch().guard(PATIENCE_SECONDS, self.settle) if len(self._rest) > 1 else None
        began = before = time.monotonic()
        characters = 0
        while not was_interrupted() and (row := self._next()) is not None:
            envelope = invoke(row)
            now = time.monotonic()
            with self._lock:
                self._report["envelopes"].append(envelope)
                self._report["seconds"].append(now - before)
            before = now
            characters += len(envelope["output"])
            characters += len(envelope["result"]) if envelope["kind"] == "returned" else len(envelope["traceback"])
            if now - began > BUDGET_SECONDS or characters > MOST_CHARACTERS or spoiled_by():
                break
        if guard is not None:
            _watch().release(guard)
        self._has_settled.wait(SETTLE_SECONDS)
        with self._lock:
            self._is_over = True
            self._report["is_interrupted"] = was_interrupted()
            if (overrun := overran()) is not None:
                self._report["overran"], self._report["has_stalled"] = overrun
            # Perhaps they are READY, and run elsewhere by now: what is not, a reconciliation finds.
            self._report["is_rest_ready"] |= not self._has_settled.is_set()
            self._report["settled"] += [
                index for index, envelope in enumerate(self._report["envelopes"]) if envelope.get("is_settled")
            ]
            return self._report

    def _next(self) -> str | None:
        with self._lock:
            # What is being settled is READY soon, and may run elsewhere.
            return self._rest.popleft() if self._rest and self._has_settled.is_set() else None

    def settle(self) -> None:
        """Settle all but the body that runs, in the thread and connection of the watch."""
        with self._lock:
            if self._is_over:
                return
            returned = {
                index: envelope
                for index, envelope in enumerate(self._report["envelopes"])
                if envelope["kind"] == "returned" and not envelope.get("is_settled")
            }
            if not (returned or self._rest):
                return  # the body that runs has nobody to keep waiting
            unstarted = range(len(self._rows) - len(self._rest), len(self._rows))
            self._has_settled.clear()
        try:
            written = _write(
                [(self._rows[index], envelope) for index, envelope in returned.items()],
                [self._rows[index] for index in unstarted],
            )
        except Exception:  # noqa: BLE001 - without the database, they wait for the body
            return
        else:
            self._take_note(written, list(returned), list(unstarted))
        finally:
            self._has_settled.set()
            close_all()

    def _take_note(self, written: set[str], returned: Sequence[int], unstarted: Sequence[int]) -> None:
        with self._lock:
            if self._is_over:
                return  # the report is on its way
            self._report["settled"] = [index for index in returned if self._rows[index] in written]
            self._report["locked"] = [index for index in unstarted if self._rows[index] not in written]
            self._report["is_rest_ready"] = True
            self._rest.clear()


@cache
def _watch() -> Watch:
    return Watch("django-ray-watch")


def _write(returned: Sequence[tuple[str, ReturnedEnvelope]], unstarted: Sequence[str]) -> set[str]:
    """Write what nobody else has locked; return which of the rows are written, or are not ours any more."""
    from django_ray.models import RayTaskExecution, State

    # A call has claims of one supervisor, and so of one backend.
    alias = database_of_claim(json.loads(unstarted[0] if unstarted else returned[0][0]))
    connection: Any = connections[alias]
    connection.ensure_connection()
    rows: Any = RayTaskExecution.objects.using(alias)
    fence_of = {row: _fence(row) for row in (*unstarted, *(row for row, _ in returned))}
    # There is one thread that settles: a connection that a firewall has forgotten must not keep it for ever.
    with answered(connection, ANSWER_SECONDS), locking.waiting_briefly(alias, SETTLE_SECONDS):
        # In the order of every writer.
        ours = rows.filter(reduce(or_, fence_of.values())).order_by("task_id")
        free = set(ours.select_for_update(skip_locked=True, no_key=True).values_list("task_id", flat=True))
        locked = set(ours.exclude(task_id__in=free).values_list("task_id", flat=True))
        written = {row for row in fence_of if UUID(str(Fence.of(json.loads(row)).task_id)) not in locked}
        for row, envelope in returned:
            if row not in written:
                continue
            rows.filter(fence_of[row]).update(**succeeded(json.loads(envelope["result"]), envelope["output"]))
        if to_release := [fence_of[row] for row in unstarted if row in written]:
            released = rows.filter(reduce(or_, to_release))
            counts = dict(released.values_list("task_id", "released"))
            released.update(state=State.READY, claimed_by=None, **_unbegun(counts.values()))
            rows.filter(task_id__in=counts, cancel_requested_at__isnull=False).cancel()
    return written


def _unbegun(counts: Iterable[int]) -> dict[str, Any]:
    """Return what makes a claim look as if it had not been, as record.sql does it; counts are those that occur."""
    waits = {count: seconds for count in set(counts) if (seconds := pause(count + 1))}
    due = [When(released=count, then=Now() + timedelta(seconds=seconds)) for count, seconds in waits.items()]
    is_first = Q(worker_ids__1__isnull=True)
    without_last = Func(F("worker_ids"), template="%(expressions)s - -1", output_field=JSONField())
    return {
        "released": Least(F("released") + 1, Value(MOST_RELEASED)),
        "due_at": Case(*due, default=Value(None), output_field=DateTimeField()),
        "worker_ids": without_last,
        "started_at": Case(When(is_first, then=None), default=F("started_at")),
        "last_attempted_at": Case(When(is_first, then=None), default=F("last_attempted_at")),
    }


def _fence(row: str) -> Q:
    return fenced(Fence.of(json.loads(row)))
