"""Going to sleep without missing anything: announce, wait for who looked before, look once more.

While announced, every commit that brings work notifies. An enqueuer that did not notify had looked before we announced;
we wait until its transaction has ended and ring our own bell. Nobody ever blocks an enqueuer, and a long transaction
behind one bell delays no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, sleep

from django_ray_worker.core.exceptions import SessionLost
from django_ray_worker.core.tries import backoff
from django_ray_worker.database import store
from django_ray_worker.database.errors import DatabaseError, is_transient

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from django_ray_worker.database.store import Store
    from django_ray_worker.waking.listener import Session

__all__ = ["Doorbell"]


class Doorbell:
    """The bells that one claimer sleeps on."""

    def __init__(
        self,
        session: Session,
        work: Store,
        bells: Sequence[str],
        *,
        most_waits: int,
        look: Callable[[], None],
    ) -> None:
        self._session = session
        self._store = work
        self._bells = bells
        self._look = look
        self._tasks: TaskGroup
        self._announced = -1  # On which session: once lost, it is never open again.
        self._waiting: set[str] = set()  # The bells with a wait of ours in the queue.
        self._places = CapacityLimiter(most_waits)

    def open(self, tasks: TaskGroup) -> None:
        """Wait in these tasks from now on."""
        self._tasks = tasks

    @property
    def is_announced(self) -> bool:
        """Tell whether every commit rings, as far as we have asked."""
        return self._announced == self._session.opened

    async def announce(self) -> None:
        """From now on every commit rings; who looked before is waited for in the background."""
        if self.is_announced or not self._session.is_open:
            return  # the next session looks by itself
        self._announced = self._session.opened
        try:
            await self._session.say(partial(store.announce, bells=self._bells))
        except SessionLost:
            return
        self._tasks.start_soon(self._settle)

    async def leave(self) -> None:
        """Spare the enqueuers: we look again by ourselves."""
        if not self.is_announced:
            return
        self._announced = -1
        try:
            await self._session.say(partial(store.leave, bells=self._bells))
        except SessionLost:
            return

    async def _settle(self) -> None:
        """Ring our own bell when those who looked before we announced have ended: for each bell at its own time."""
        try:
            unsettled = await self._store.unsettled(self._bells)
        except DatabaseError as error:
            if not is_transient(error):
                raise
            unsettled = list(self._bells)
        # A wait that is in the queue already is enough: as long as it is, nobody gets IN_FLIGHT, so everybody notifies.
        for bell in set(unsettled) - self._waiting:
            self._waiting.add(bell)
            self._tasks.start_soon(self._await_in_flight, bell)
        self._look()

    async def _await_in_flight(self, bell: str) -> None:
        # This may last as long as a user's transaction; notifications and due times wake us meanwhile.
        tries = 0
        async with self._places:
            while True:
                try:
                    await self._store.await_in_flight(bell)
                    break
                except DatabaseError as error:
                    if not is_transient(error):
                        raise
                await sleep(backoff(tries))
                tries += 1
        self._waiting.discard(bell)
        self._look()
