"""One Ray call: one attempt, or several short ones one after the other, inside a Ray worker.

Several share a call because a call costs more than a short body. None waits long for another all the same: a call
starts no body after its first 50 ms, and hands back what it has not started. When a body turns out to be long, the
supervisor would hear of all that too late. So after 100 ms the call settles the others itself, fenced as every write:
what has returned is recorded, and what has not started is READY again.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import cache, reduce
from operator import or_
from typing import Any, TypedDict

from django.db import connections, router, transaction
from django.db.models import Case, F, Func, JSONField, Q, When
from django.db.models.functions import Now

from django_ray.rows import ClaimedRow
from django_ray.runtime.entrypoint import Envelope, ReturnedEnvelope, invoke, prepare
from django_ray.runtime.interrupt import protected, was_interrupted
from django_ray.runtime.output import label_output

__all__ = ["BUDGET_SECONDS", "PATIENCE_SECONDS", "Report", "invoke_on_ray"]

BUDGET_SECONDS = 0.05  # A call starts no body after that.
PATIENCE_SECONDS = 0.1  # The others of a call wait no longer for a long body.
MOST_CHARACTERS = 1_000_000  # A call that has so many to send is over: they travel together.


class Report(TypedDict):
    """What became of a call."""

    envelopes: list[Envelope]  # Of those that were run, in order; the others were not started.
    seconds: list[float]  # How long each took.
    is_interrupted: bool  # The last of them was stopped, or the next one would have been.
    settled: list[int]  # Which of them are recorded already.
    is_rest_ready: bool  # Those that were not started are READY already.


def invoke_on_ray(rows: Sequence[str]) -> Report:
    """Run attempts, each the JSON of its row, on the main thread of a Ray worker, where they can be interrupted."""
    prepare()
    label_output()
    with protected():
        return _Call(rows).run()


class _Call:
    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._rest = deque(rows)
        self._lock = threading.Lock()  # Around what both threads look at.
        self._is_over = False
        self._report: Report = {
            "envelopes": [], "seconds": [], "is_interrupted": False, "settled": [], "is_rest_ready": False
        }  # fmt: skip

    def run(self) -> Report:
        if len(self._rest) > 1:
            _watch().guard(self)
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
            if now - began > BUDGET_SECONDS or characters > MOST_CHARACTERS:
                break
        with self._lock:
            self._is_over = True
            self._report["is_interrupted"] = was_interrupted()
            return self._report

    def _next(self) -> str | None:
        with self._lock:
            return self._rest.popleft() if self._rest else None

    def settle(self) -> None:
        """Settle all but the body that runs, in the thread and connection of the watch."""
        with self._lock:
            if self._is_over:
                return
            returned = {
                index: envelope
                for index, envelope in enumerate(self._report["envelopes"])
                if envelope["kind"] == "returned"
            }
            if not (returned or self._rest):
                return  # the body that runs has nobody to keep waiting
            try:
                _write([(self._rows[index], envelope) for index, envelope in returned.items()], list(self._rest))
            except Exception:  # noqa: BLE001 - without the database, they wait for the body
                return
            finally:
                connections.close_all()
            self._report["settled"] = list(returned)
            self._report["is_rest_ready"] = True
            self._rest.clear()


class _Watch:
    """A thread that settles the call that has been running for too long.

    One for all calls, which sleeps through those that end in time: starting a thread for each costs as much as a body.
    """

    def __init__(self) -> None:
        self._guarded: tuple[float, _Call] | None = None  # Written by the main thread alone.
        self._changed = threading.Event()
        self._is_idle = False

    def guard(self, call: _Call) -> None:
        """Settle the call after its patience, unless another one is guarded by then."""
        self._guarded = time.monotonic() + PATIENCE_SECONDS, call
        if self._is_idle:
            self._changed.set()

    def run(self) -> None:
        """Watch for ever."""
        settled = None
        while True:
            # Idle is said before it is looked whether there is anything to do: who comes in between sets the event.
            self._changed.clear()
            self._is_idle = True
            if self._guarded is settled:
                self._changed.wait()
            self._is_idle = False
            while (guarded := self._guarded) is not None and guarded is not settled:
                at, call = guarded
                time.sleep(max(0, at - time.monotonic()))
                if self._guarded is guarded:
                    call.settle()
                    settled = guarded


@cache
def _watch() -> _Watch:
    watch = _Watch()
    threading.Thread(target=watch.run, name="django-ray-watch", daemon=True).start()
    return watch


def _write(returned: Sequence[tuple[str, ReturnedEnvelope]], unstarted: Sequence[str]) -> None:
    from django_ray.models import RayTaskExecution, State

    alias = router.db_for_write(RayTaskExecution)
    rows: Any = RayTaskExecution.objects.using(alias)
    with transaction.atomic(using=alias):
        # In the order of every writer.
        ours = reduce(or_, [*map(_fence, unstarted), *(_fence(row) for row, _ in returned)])
        list(rows.filter(ours).order_by("task_id").select_for_update().values_list("task_id"))
        for row, envelope in returned:
            rows.filter(_fence(row)).update(
                state=State.SUCCESSFUL,
                claimed_by=None,
                result=json.loads(envelope["result"]),
                output=envelope["output"] or None,
                missing_since=None,
                finished_at=Now(),
            )
        if unstarted:
            released = rows.filter(reduce(or_, map(_fence, unstarted)))
            ids = list(released.values_list("task_id", flat=True))
            released.update(state=State.READY, claimed_by=None, **_unbegun())
            rows.filter(task_id__in=ids, cancel_requested_at__isnull=False).cancel()


def _unbegun() -> dict[str, Any]:
    """Return what makes a claim look as if it had not been: as record.sql does it."""
    is_first = Q(worker_ids__1__isnull=True)
    without_last = Func(F("worker_ids"), template="%(expressions)s - -1", output_field=JSONField())
    return {
        "worker_ids": without_last,
        "started_at": Case(When(is_first, then=None), default=F("started_at")),
        "last_attempted_at": Case(When(is_first, then=None), default=F("last_attempted_at")),
    }


def _fence(row: str) -> Q:
    claim = ClaimedRow.of(row)
    return Q(task_id=claim.task_id, attempt_number=claim.attempt_number, claimed_by=int(claim.worker_ids[-1]))
