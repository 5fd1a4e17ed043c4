"""Are we alive, and is our neighbour? The pulse, and the watch.

The pulse is the only thing that an idle supervisor does: a sign of life in our row, and a NOTIFY that must come back on
the listening session. If it does not, something between us and the server swallows what we say, though nothing is
closed: every connection is dropped, and the session begins anew.

The supervisors of a backend form a ring; each watches the next one by waiting for its identity, the advisory lock that
PostgreSQL frees when its session ends. Then a short grace, because a live one reconnects; then its work is taken back.
The fence makes every mistake here harmless: an execution may run again, but has one recorded outcome per attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, move_on_after, sleep, sleep_forever

from django_ray_worker.core.exceptions import SessionLost
from django_ray_worker.core.judge import abandoned
from django_ray_worker.core.tries import backoff
from django_ray_worker.database.errors import DatabaseError, is_transient

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.core.metrics import Metrics
    from django_ray_worker.database.store import Store
    from django_ray_worker.waking.listener import Session

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
        worker: int,
        period: float,
        heed: Callable[[Pulse], None],
        reconcile: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = work
        self._session = session
        self._metrics = metrics
        self._worker = worker
        self._period = period  # Seconds between two pulses; 0 is none.
        self._heed = heed
        self._reconcile = reconcile
        self._members_changed = Event()
        self._slice = CancelScope()

    def members_changed(self) -> None:
        """Look again who the neighbour is: a supervisor has come or gone."""
        self._members_changed.set()
        self._slice.cancel()

    async def begin(self) -> None:
        """On the first session: say that we live, and take back what dead predecessors left."""
        await self._store.revive(self._worker)  # a peer may have missed us until now
        await self._rescue()

    async def come_back(self) -> None:
        """On each later session, and when a peer took us for dead: say that we live, and settle what that cost."""
        await self._store.revive(self._worker)
        await self._reconcile()

    async def pulse(self) -> None:
        """Give a sign of life every period, and hear it."""
        if not self._period:
            await sleep_forever()
        while True:
            await sleep(self._period)
            try:
                pulse = await self._session.echo(partial(self._store.pulse, self._worker))
            except SessionLost:
                continue  # it is being opened, which is a sign of life
            except (TimeoutError, DatabaseError) as error:
                if not is_transient(error):
                    raise
                self._metrics.pulses_missed += 1
                log.warning("Our pulse does not come back (%s): dropping every connection.", type(error).__name__)
                self._session.drop()
                continue
            if pulse.is_lost:
                log.warning("A peer took us for dead.")
                await self.come_back()
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
        neighbour = await self._store.neighbour(self._worker)
        if neighbour is None:
            with move_on_after(SLICE_SECONDS):
                await self._members_changed.wait()
            return
        peer, is_frozen = neighbour
        if not is_frozen:
            is_gone = False
            with CancelScope() as self._slice:
                if not self._members_changed.is_set():
                    is_gone = await self._store.watch(peer, min(SLICE_SECONDS, self._period or SLICE_SECONDS))
            if not is_gone:
                return
            await sleep(GRACE_SECONDS)
            if self._session.opened != opened or not self._session.is_open:
                return  # perhaps everybody's is gone: then the longer grace is due
        await self._rescue(peer, "frozen" if is_frozen else "dead")

    async def _rescue(self, only: int | None = None, state: str = "dead") -> None:
        for dead, rows in (await self._store.rescue(self._worker, abandoned, only=only)).items():
            self._metrics.rescued += rows
            log.warning("Supervisor %d is %s; %d executions of it are taken back.", dead, state, rows)
