"""Verdicts to rows: batched by nature, fenced, patient with an outage.

What has queued up while the last write was in flight is the next batch; there is no delay and no timer. A verdict is
kept until the server has taken or refused it: an outage only makes it wait. What the fence refuses is logged and
dropped, because somebody else owns the row now. One row's bad data never blocks another's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, move_on_after, sleep

from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Fail
from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_data_fault, is_transient, one_line
from django_ray_worker.database.statements import Record
from django_ray_worker.database.store import MOST_PER_RECORD, Store

if TYPE_CHECKING:
    from uuid import UUID

    from django_ray_worker.core.metrics import Metrics

__all__ = ["Recorder"]

log = logging.getLogger("django_ray.recorder")

UNSTORABLE = "django_ray.exceptions.InvalidResult"


class Recorder:
    """The one writer of outcomes of a supervisor."""

    def __init__(self, work: Store, metrics: Metrics, *, on_recorded: Callable[[], None]) -> None:
        self._store = work
        self._metrics = metrics
        self._on_recorded = on_recorded
        self._queue: deque[Record] = deque()
        self._changed = Event()
        self._closing = False
        self._scope = CancelScope(shield=True)  # run() ends by itself: every attempt reports, close() comes last.
        self._ended = Event()

    @property
    def pending(self) -> frozenset[UUID]:
        """The executions whose verdict is not in the database yet."""
        return frozenset(record.claim.task_id for record in self._queue)

    def put(self, record: Record) -> None:
        """Take a verdict over; it is never refused and never lost while the process lives."""
        self._queue.append(record)
        self._changed.set()

    async def close(self, patience: float) -> None:
        """Write what is left, for so many seconds at most; say what remains unwritten."""
        self._closing = True
        self._changed.set()
        with move_on_after(patience, shield=True):
            await self._ended.wait()
            return
        self._scope.cancel()
        log.error(
            "%d outcomes could not be recorded; their executions run again when a supervisor finds this one gone: %s",
            len(self._queue), ", ".join(str(task_id) for task_id in sorted(self.pending)),
        )  # fmt: skip

    async def run(self) -> None:
        """Write until closed and empty."""
        with self._scope:
            while self._queue or not self._closing:
                await self._changed.wait()
                self._changed = Event()
                while batch := list(islice(self._queue, MOST_PER_RECORD)):
                    await self._write(batch)
                    for _ in batch:
                        self._queue.popleft()
                self._on_recorded()
        self._ended.set()

    async def _write(self, batch: Sequence[Record]) -> None:
        tries = 0
        while True:
            try:
                written = await self._store.record(batch)
            except DatabaseError as error:
                if is_data_fault(error):
                    await self._write_apart(batch, error)
                    return
                if not is_transient(error):
                    raise
                wait = backoff(tries)
                if is_news(tries):
                    log.warning(
                        "%d outcomes wait for the database (%s); again in %.1f s.", len(batch), one_line(error), wait
                    )
                tries += 1
                await sleep(wait)
            else:
                for claim, _, _ in batch:
                    if claim.task_id not in written:
                        self._metrics.refused += 1
                        log.warning(
                            "Attempt %d of %s is not ours any more; its outcome is dropped.", claim.attempt, claim,
                            extra=claim.log_fields,
                        )  # fmt: skip
                return

    async def _write_apart(self, batch: Sequence[Record], error: DatabaseError) -> None:
        """Find the row whose data the server refuses, by writing one at a time; fail that row alone."""
        if len(batch) > 1:
            for record in batch:
                await self._write([record])
            return
        ((claim, verdict, _),) = batch
        reason = f"The outcome cannot be stored: {one_line(error)}"
        log.error("%s: %s", claim, reason, extra=claim.log_fields)
        if isinstance(verdict, Fail) and verdict.error.exception_class_path == UNSTORABLE:
            return  # not even that: the row stays as it is until somebody looks at what refuses it
        refusal = Error(exception_class_path=UNSTORABLE, message=reason, traceback=f"{UNSTORABLE}: {reason}\n")
        await self._write([Record(claim, Fail(error=refusal, failures=1))])
