"""Verdicts to rows: batched by nature, fenced, patient with an outage.

What has queued up while the last write was in flight is the next batch; there is no delay and no timer. A verdict is
kept until the server has taken or refused it: an outage only makes it wait. What the fence refuses is logged and
dropped, because somebody else owns the row now. One row's bad data never blocks another's, nor does somebody else's
lock: the others are written without it, and it is asked for again after growing pauses.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, create_task_group, current_time, move_on_after, sleep

from django_ray_worker.core.claim import Recorded
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Fail
from django_ray_worker.core.tries import LockWait, backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_data_fault, is_locked, is_transient, one_line
from django_ray_worker.database.statements import Record
from django_ray_worker.database.store import LEFT_SECONDS, MOST_PER_RECORD, Store

if TYPE_CHECKING:
    from uuid import UUID

    from django_ray_worker.core.metrics import Metrics

__all__ = ["Recorder"]

log = logging.getLogger("django_ray.recorder")

UNSTORABLE = "django_ray.exceptions.InvalidResult"

MOST_NAMES = 20  # Of executions in one line of the log.
MOST_LEFT_BEHIND = 8  # Verdicts that a supervisor which ends leaves to the server: each takes a session of it.
LEAVE_SECONDS = 2.0  # To do so.


class Recorder:
    """The one writer of outcomes of a supervisor."""

    def __init__(self, work: Store, metrics: Metrics, *, on_recorded: Callable[[], None]) -> None:
        self._store = work
        self._metrics = metrics
        self._on_recorded = on_recorded
        self._queue: deque[Record] = deque()
        self._locked: list[Record] = []  # Their rows are locked by somebody else.
        self._lock_wait = LockWait()
        self._again = float("inf")  # When to ask for them again.
        self._changed = Event()
        self._closing = False
        self._scope = CancelScope(shield=True)  # run() ends by itself: every attempt reports, close() comes last.
        self._ended = Event()

    @property
    def pending(self) -> frozenset[UUID]:
        """The executions whose verdict is not in the database yet."""
        return frozenset(record.claim.task_id for record in (*self._queue, *self._locked))

    def put(self, record: Record) -> None:
        """Take a verdict over; it is never refused and never lost while the process lives."""
        self._queue.append(record)
        self._changed.set()

    async def close(self, patience: float) -> None:
        """Write what is left, for so many seconds at most; say what remains unwritten."""
        self._closing = True
        self._changed.set()
        for _ in range(2):
            with move_on_after(patience / 2, shield=True):
                await self._ended.wait()
                return
            self._store.drop()  # if an answer is what is missing, there is time to ask for it once more
        self._scope.cancel()
        await self._leave_behind()
        if self._queue:
            log.error(
                "%d outcomes could not be recorded; their executions run again when a supervisor finds this one gone: "
                "%s",
                len(self._queue), _names([*self._queue]),
            )  # fmt: skip

    async def _leave_behind(self) -> None:
        """Leave the verdicts on locked rows to the server: else their executions would have to run again."""
        left = self._locked[:MOST_LEFT_BEHIND]
        self._queue.extend(self._locked[MOST_LEFT_BEHIND:])
        if not left:
            return
        log.warning(
            "%d outcomes wait for rows that another transaction has locked: PostgreSQL writes them if it ends within "
            "%.0f minutes, else their executions run again: %s",
            len(left), LEFT_SECONDS / 60, _names(left),
        )  # fmt: skip
        with move_on_after(LEAVE_SECONDS, shield=True):
            async with create_task_group() as tasks:
                for record in left:
                    tasks.start_soon(self._store.leave_behind, record)

    async def run(self) -> None:
        """Write until closed and empty."""
        with self._scope:
            while self._queue or self._locked or not self._closing:
                with move_on_after(self._again - current_time()):
                    await self._changed.wait()
                self._changed = Event()
                while self._queue or current_time() >= self._again:
                    await self._write_next()
                    if current_time() >= self._again:
                        await self._ask_again()
                self._on_recorded()
        self._ended.set()

    async def _write_next(self) -> None:
        batch = list(islice(self._queue, MOST_PER_RECORD))
        locked = await self._write(batch) if batch else []
        for _ in batch:
            self._queue.popleft()
        if locked:
            self._locked += locked
            self._lock_wait.hasten()
            self._mind_locked()

    async def _ask_again(self) -> None:
        """Write what was locked and is not any more."""
        locked = self._locked
        batches = [locked[begin : begin + MOST_PER_RECORD] for begin in range(0, len(locked), MOST_PER_RECORD)]
        self._locked = [record for batch in batches for record in await self._write(batch)]
        self._mind_locked()

    def _mind_locked(self) -> None:
        if not self._locked:
            self._again = float("inf")
            self._lock_wait.end()
            return
        self._again = current_time() + self._lock_wait.go_on(current_time())
        if self._lock_wait.is_news(current_time(), len(self._locked)):
            log.warning(
                "%d outcomes wait for rows that another transaction has locked; they are recorded as soon as it ends. "
                "pg_stat_activity shows which it is: %s",
                len(self._locked), _names(self._locked),
            )  # fmt: skip

    async def _write(self, batch: Sequence[Record]) -> Sequence[Record]:
        """Write a batch, however long the database is away; return those whose rows somebody else has locked."""
        tries, is_careful = 0, bool(self._locked)
        while True:
            try:
                if is_careful:
                    recorded = await self._store.record_free(batch)
                else:
                    recorded = Recorded(written=await self._store.record(batch), locked=set())
            except DatabaseError as error:
                if is_locked(error) and not is_careful:
                    is_careful = True
                    continue
                if is_data_fault(error):
                    return await self._write_apart(batch, error)
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
                known = recorded.written | recorded.locked
                for claim, _, _ in batch:
                    if claim.task_id not in known:
                        self._metrics.refused += 1
                        log.warning(
                            "Attempt %d of %s is not ours any more; its outcome is dropped.", claim.attempt, claim,
                            extra=claim.log_fields,
                        )  # fmt: skip
                return [record for record in batch if record.claim.task_id in recorded.locked]

    async def _write_apart(self, batch: Sequence[Record], error: DatabaseError) -> Sequence[Record]:
        """Find the row whose data the server refuses, by writing one at a time; fail that row alone."""
        if len(batch) > 1:
            return [locked for record in batch for locked in await self._write([record])]
        ((claim, verdict, _),) = batch
        reason = f"The outcome cannot be stored: {one_line(error)}"
        log.error("%s: %s", claim, reason, extra=claim.log_fields)
        if isinstance(verdict, Fail) and verdict.error.exception_class_path == UNSTORABLE:
            return []  # not even that: the row stays as it is until somebody looks at what refuses it
        refusal = Error(exception_class_path=UNSTORABLE, message=reason, traceback=f"{UNSTORABLE}: {reason}\n")
        return await self._write([Record(claim, Fail(error=refusal, failures=1))])


def _names(records: Sequence[Record]) -> str:
    names = sorted(str(record.claim.task_id) for record in records)
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
