"""Are we alive, and is our neighbour? The pulse, and the watch.

The pulse is the only thing that an idle supervisor does: a sign of life in our row, and a NOTIFY that must come back on
the listening session. If it does not, something between us and the server swallows what we say, though nothing is
closed: every connection is dropped, and the session begins anew.

The supervisors of a backend form a ring; each watches the next one by waiting for its identity, the advisory lock that
PostgreSQL frees when its session ends. Then a short grace, because a live one reconnects; then its work is taken back.
The fence makes every mistake here harmless: an execution may run again, but has one recorded outcome per attempt.
Rows that somebody else has locked hold up nothing: what a lock keeps us from is done by tend() when it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, current_time, move_on_after, sleep, sleep_forever

from django_ray_worker.core.exceptions import SessionLost
from django_ray_worker.core.judge import abandoned
from django_ray_worker.core.tries import LockWait, backoff
from django_ray_worker.database.errors import DatabaseError, is_locked, is_transient

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.core.metrics import Metrics
    from django_ray_worker.database.store import Store
    from django_ray_worker.waking.listener import Session
    from django_ray_worker.waking.registration import Registration

__all__ = ["Liveness"]

log = logging.getLogger("django_ray.liveness")

GRACE_SECONDS = 0.7  # For a peer that has lost its session; the first attempt to reconnect takes a tenth of it.
# After our own session was lost, perhaps with everybody's: longer than the longest pause between two attempts.
RECONNECT_GRACE_SECONDS = 3.0
SLICE_SECONDS = 60.0  # Who waits for a lock holds back VACUUM: not for longer than this at a time.


class Liveness:
    """Of one supervisor."""

    def __init__(
        self,
        work: Store,
        session: Session,
        metrics: Metrics,
        *,
        registration: Registration,
        period: float,
        heed: Callable[[Pulse], None],
        reconcile: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = work
        self._session = session
        self._metrics = metrics
        self._registration = registration
        self._identity = registration.identity
        self._period = period  # Seconds between two pulses; 0 is none.
        self._heed = heed
        self._reconcile = reconcile
        self._members_changed = Event()
        self._slice = CancelScope()
        self._is_unsaid = False  # That we live: our row is locked.
        self._is_unsettled = False  # What peers did who took us for dead.
        self._left: set[int] = set()  # The dead of whom something was locked.
        self._has_left = Event()

    def members_changed(self) -> None:
        """Look again who the neighbour is: a supervisor has come or gone."""
        self._members_changed.set()
        self._slice.cancel()

    async def begin(self) -> None:
        """On the first session: say that we live, and take back what dead predecessors left."""
        await self._revive()  # a peer may have missed us until now
        await self._rescue()

    async def come_back(self) -> None:
        """On each later session: say that we live, and settle what was done meanwhile."""
        await self._revive()
        await self._reconcile()

    async def pulse(self) -> None:
        """Give a sign of life every period, and hear it."""
        if not self._period:
            await sleep_forever()
        while True:
            await sleep(self._period)
            opened = self._session.opened
            try:
                pulse = await self._session.echo(self._registration.pulse)
                if not pulse.is_registered:
                    await self._session.assume()
            except SessionLost:
                continue  # it is being opened, which is a sign of life
            except (TimeoutError, DatabaseError) as error:
                if not is_transient(error):
                    raise
                if is_locked(error):
                    self._leave_unsaid()  # the table is locked, and the server has said so: nothing swallows us
                    continue
                if self._session.opened != opened or not self._session.is_open:
                    continue  # it went to a session that has ended; the one after it has heard itself
                self._metrics.pulses_missed += 1
                log.warning("Our pulse does not come back (%s): dropping every connection.", type(error).__name__)
                self._session.drop()
                continue
            if pulse.is_locked:
                self._leave_unsaid()
            if pulse.is_lost:
                log.warning("A peer took us for dead.")
                self._leave_unsaid()
            self._metrics.oldest = pulse.oldest or 0
            # Whatever a wake-up was lost to, this finds it.
            self._heed(pulse)

    async def watch(self) -> None:
        """Watch the neighbour in the ring, and take its work back when it is gone."""
        opened = self._session.opened
        while True:
            if self._session.opened != opened or not self._session.is_open:
                await sleep(RECONNECT_GRACE_SECONDS)
                opened = self._session.opened
                continue
            self._members_changed = Event()
            try:
                await self._watch_neighbour(opened)
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                await sleep(backoff(3))

    async def _watch_neighbour(self, opened: int) -> None:
        neighbour = await self._store.neighbour(self._identity.names, self._left)
        if self._session.opened != opened or not self._session.is_open:
            return
        if neighbour is None:
            with move_on_after(self._period or SLICE_SECONDS):
                await self._members_changed.wait()
            return
        if neighbour.is_frozen and await self._rescue(neighbour.id, "frozen"):
            return
        is_gone = False
        with CancelScope() as self._slice:
            if not self._members_changed.is_set():
                is_gone = await self._store.watch(neighbour.id, min(SLICE_SECONDS, self._period or SLICE_SECONDS))
        if not is_gone:
            return
        await sleep(GRACE_SECONDS)
        if self._session.opened != opened or not self._session.is_open:
            return  # perhaps everybody's is gone: then the longer grace is due
        await self._rescue(neighbour.id)

    async def tend(self) -> None:
        """Do what a lock of somebody else, or a failure of the database, has kept us from, as soon as it is gone."""
        wait = LockWait()
        while True:
            if not (self._left or self._is_unsaid or self._is_unsettled):
                wait.end()
                await self._has_left.wait()
            self._has_left = Event()
            await sleep(wait.go_on(current_time()))
            try:
                await self._tend()
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                continue
            if (self._left or self._is_unsaid) and wait.is_news(current_time()):
                log.warning(
                    "Rows of supervisors %s are locked by another transaction: what is to be written there is written "
                    "as soon as it ends. pg_stat_activity shows which it is.",
                    ", ".join(map(str, sorted(self._left | ({self._identity.worker} if self._is_unsaid else set())))),
                )

    async def _tend(self) -> None:
        if self._is_unsaid:
            await self._revive()
        if self._is_unsettled and not self._is_unsaid:
            self._is_unsettled = False
            try:
                await self._reconcile()
            except DatabaseError:
                self._is_unsettled = True
                raise
        for dead in [*self._left]:
            if not await self._rescue(dead):
                self._left.discard(dead)  # it lives, or somebody else was faster

    async def _revive(self) -> None:
        if await self._store.revive(self._identity.worker):
            self._is_unsaid = False
        else:
            self._leave_unsaid()

    def _leave_unsaid(self) -> None:
        """Have tend() say that we live: a peer may miss us until then, or has done so."""
        self._is_unsaid = self._is_unsettled = True
        self._has_left.set()

    async def _rescue(self, only: int | None = None, state: str = "dead") -> bool:
        """Take back what the dead have left, or one of them; tell whether there was anybody."""
        rescued = await self._store.rescue(self._identity.worker, abandoned, only=only)
        for dead, found in rescued.items():
            self._metrics.rescued += found.rows
            if found.rows or dead not in self._left:
                log.warning("Supervisor %d is %s; %d executions of it are taken back.", dead, state, found.rows)
            if found.locked or not found.is_marked:
                self._left.add(dead)
                self._has_left.set()
            else:
                self._left.discard(dead)
        return bool(rescued)
