"""One Ray call: one attempt, or several short ones one after the other, inside a Ray worker.

Several share a call because a call costs more than a short body. None waits long for another all the same: a call
starts no body after its first 20 ms and hands what it has not started back to the supervisor. When a body turns out to
be long, the supervisor would hear of that too late; so the call itself makes what waits behind it READY again, after
100 ms.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, TypedDict

from django_ray.runtime.entrypoint import ClaimedRow, Envelope, invoke, prepare
from django_ray.runtime.interrupt import protected, was_interrupted

__all__ = ["BUDGET_SECONDS", "PATIENCE_SECONDS", "Report", "invoke_on_ray"]

BUDGET_SECONDS = 0.02  # A call starts no body after that.
PATIENCE_SECONDS = 0.1  # What waits in a call for longer than that is given back.
MOST_RESULT_CHARACTERS = 1_000_000  # A call that has so many in its results is over: they travel together.


class Report(TypedDict):
    """What became of a call."""

    envelopes: list[Envelope]  # Of those that were run, in order; the others were not started.
    seconds: list[float]  # How long each took.
    is_interrupted: bool  # The last of them was stopped, or would have been the next.
    is_rest_given_back: bool  # The others are READY in the database already.


def invoke_on_ray(rows: Sequence[str]) -> Report:
    """Run attempts, each the JSON of its row, on the main thread of a Ray worker, where they can be interrupted."""
    prepare()
    with protected():
        return _Call(rows).run()


class _Call:
    def __init__(self, rows: Sequence[str]) -> None:
        self._rest = deque(rows)
        self._lock = threading.Lock()  # Around what takes from the rest.
        self._is_given_back = False

    def run(self) -> Report:
        envelopes: list[Envelope] = []
        seconds: list[float] = []
        started = before = time.monotonic()
        characters = 0
        watch = threading.Timer(PATIENCE_SECONDS, self._give_back)
        watch.daemon = True
        if len(self._rest) > 1:
            watch.start()
        while not was_interrupted() and (row := self._next()) is not None:
            envelope = invoke(row)
            envelopes.append(envelope)
            now = time.monotonic()
            seconds.append(now - before)
            before = now
            characters += len(envelope["result"]) if envelope["kind"] == "returned" else len(envelope["traceback"])
            if now - started > BUDGET_SECONDS or characters > MOST_RESULT_CHARACTERS:
                break
        watch.cancel()
        with self._lock:
            return {
                "envelopes": envelopes,
                "seconds": seconds,
                "is_interrupted": was_interrupted(),
                "is_rest_given_back": self._is_given_back,
            }

    def _next(self) -> str | None:
        with self._lock:
            return self._rest.popleft() if self._rest else None

    def _give_back(self) -> None:
        """Make the rest READY, in the watch's own thread and connection; the supervisor is told when the body ends."""
        from django.db import connections

        with self._lock:
            rest = list(self._rest)
            if not rest:
                return
            try:
                _release(rest)
                self._rest.clear()
                self._is_given_back = True
            except Exception:  # noqa: BLE001 - without the database, the rest waits for the body
                return
            finally:
                connections.close_all()


def _release(rest: Sequence[str]) -> None:
    from functools import reduce
    from operator import or_

    from django.db import router, transaction
    from django.db.models import Q

    from django_ray.models import RayTaskExecution, State

    alias = router.db_for_write(RayTaskExecution)
    rows: Any = RayTaskExecution.objects.using(alias)
    claims = [ClaimedRow(**json.loads(row)) for row in rest]
    # Fenced as every write: somebody else may own some of them by now.
    fences = [
        Q(task_id=claim.task_id, attempt_number=claim.attempt_number, claimed_by=int(claim.worker_ids[-1]))
        for claim in claims
    ]
    ours = reduce(or_, fences)
    with transaction.atomic(using=alias):
        # In the order of every writer.
        ids = list(rows.filter(ours).order_by("task_id").select_for_update().values_list("task_id", flat=True))
        rows.filter(task_id__in=ids).update(state=State.READY, claimed_by=None)
        rows.filter(task_id__in=ids, cancel_requested_at__isnull=False).cancel()
