"""Schedules are fired at their ticks, by whichever supervisor of the backend comes first. In between it sends nothing.

A deadline of its own, by the database's clock, and not one of the claimer's: a tick must not wait until a slot is free.
Whoever edits a schedule tells it to look, and so do each new session and a pulse that finds something overdue. Promises
that a tick is enqueued once, whatever dies, because the row of the schedule and the executions are written by one
statement; and that no row, whatever stands there, keeps the others from being fired.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, current_time, move_on_after, sleep

from django_ray.presence import absence
from django_ray_worker.core.schedule import Decision, Fired, decide
from django_ray_worker.core.tries import LockWait, backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_data_fault, is_locked, is_transient, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django_ray_worker.core.metrics import Metrics
    from django_ray_worker.database.store import Store

__all__ = ["Scheduler"]

log = logging.getLogger("django_ray.schedules")

SPREAD_SECONDS = 0.02  # Peers wake at the same moment: one of them shall be first, and the others find nothing to do.


class Scheduler:
    """Of one supervisor."""

    def __init__(
        self, work: Store, metrics: Metrics, *, may_fire: Callable[[], bool], declared: tuple[str, str]
    ) -> None:
        self._store = work
        self._metrics = metrics
        self._may_fire = may_fire  # There is a session.
        self._declared = declared
        self._changed = Event()
        self._due = float("inf")  # When to look again, by the loop's clock.
        self._unread: set[int] = set()  # What cannot be read here: looked at again when somebody has changed something.
        self._has_seen_all = False
        self._locked = LockWait()
        self._tries = 0

    def look(self) -> None:
        """Look again: a schedule may have changed."""
        self._changed.set()

    async def begin(self) -> None:
        """Declare, and fire what is due, before anything else: for who ends when nothing is left to do."""
        if await self._has_declared():
            await self._turn()

    async def declare(self) -> None:
        """Have the schedules as the code says, as soon as nobody is in the way."""
        tries = 0
        while not await self._has_declared():
            await sleep(backoff(tries))
            tries += 1

    async def run(self) -> None:
        """Fire for ever."""
        while True:
            await self._wait()
            await self._turn()

    async def _wait(self) -> None:
        with move_on_after(self._due - current_time()) as deadline:
            await self._changed.wait()
        if deadline.cancelled_caught:
            await sleep(random.uniform(0, SPREAD_SECONDS))  # noqa: S311 - guards nothing

    async def _has_declared(self) -> bool:
        """Tell whether nothing is left to declare."""
        if self._declared == ("[]", "[]"):
            return True
        try:
            with CancelScope(shield=True):
                await self._store.declare(*self._declared)
        except DatabaseError as error:
            if is_transient(error):
                return False
            log.error("Schedules cannot be declared (%s).", one_line(error))  # noqa: TRY400 - one line
        return True

    async def _turn(self) -> None:
        if self._changed.is_set():
            self._changed = Event()
            self._unread.clear()
        self._due, next_in = float("inf"), None
        if not self._may_fire():
            return  # the next session looks
        try:
            # Nothing is cut off half-way. The statements have their own deadlines.
            with CancelScope(shield=True):
                next_in = await self._fire_due()
        except DatabaseError as error:
            if not is_transient(error):
                raise
            next_in = backoff(self._tries)
            if is_news(self._tries):
                log.warning("Schedules wait for the database (%s); again in %.1f s.", one_line(error), next_in)
            self._tries += 1
        else:
            self._tries = 0
        if next_in is not None:
            self._due = current_time() + next_in

    async def _fire_due(self) -> float | None:
        """Decide about what is due, until nothing is; return the seconds until the next tick, None for never."""
        everything, after = not self._has_seen_all, 0
        while True:
            waiting = await self._store.due(self._unread, after, everything=everything)
            if not waiting.rows:
                self._has_seen_all = True
                if not everything:
                    self._locked.end()
                    return waiting.next_in
                everything, after = False, 0
                continue
            after = waiting.rows[-1]["id"] if everything else 0
            decisions = [decide(row, waiting.now, absence(row["callable_path"])) for row in waiting.rows]
            self._unread |= {decision.id for decision in decisions if not decision.is_readable}
            for decision in decisions:
                if decision.has_new_problem:
                    log.warning("The schedule %r has a problem: %s", decision.name, decision.problem)
            news = [decision for decision in decisions if decision.is_news]
            if not news:
                continue
            fired = await self._fire(news)
            self._note(fired)
            if everything:
                continue
            if fired.moved < len(news) and (pause := self._mind_locked()):
                return pause
            if fired.next_in is None or fired.next_in > 0:
                self._locked.end()
                return fired.next_in

    def _mind_locked(self) -> float:
        """Return how long to wait for rows that somebody else holds: a peer's fire is over at once."""
        pause = self._locked.go_on(current_time())
        if self._locked.is_news(current_time()):
            log.warning(
                "Schedules that are due are locked by another transaction; they are fired as soon as it ends. "
                "pg_stat_activity shows which it is."
            )
        return pause

    async def _fire(self, decisions: Sequence[Decision]) -> Fired:
        """Write decisions; if the server refuses one of them for its data, or it is locked, the others all the same."""
        try:
            return await self._store.fire(decisions, self._unread)
        except DatabaseError as error:
            if not (is_data_fault(error) or is_locked(error)):
                raise
            if len(decisions) == 1:
                if is_locked(error):
                    return Fired(moved=0, enqueued=0, skipped=0, lost=0, lag=None, next_in=0)
                return await self._refuse(decisions[0], one_line(error))
        sum_of = Fired(moved=0, enqueued=0, skipped=0, lost=0, lag=None, next_in=0)
        for decision in decisions:
            sum_of = sum_of.plus(await self._fire([decision]))
        return sum_of

    async def _refuse(self, decision: Decision, problem: str) -> Fired:
        self._unread.add(decision.id)
        marked = Decision(id=decision.id, version=decision.version, name=decision.name, problem=problem)
        try:
            return await self._store.fire([marked], self._unread)
        except DatabaseError as error:
            if not is_data_fault(error):
                raise
            return Fired(moved=1, enqueued=0, skipped=0, lost=0, lag=None, next_in=0)

    def _note(self, fired: Fired) -> None:
        self._metrics.ticks += fired.enqueued
        self._metrics.ticks_skipped += fired.skipped
        self._metrics.ticks_lost += fired.lost
        if fired.lag is not None:
            self._metrics.tick_lag = fired.lag
        if fired.lost:
            log.warning("%d ticks of schedules were missed, and are not made up for.", fired.lost)
