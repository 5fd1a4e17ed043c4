"""Going to sleep without missing anything: announce, wait for who looked before, look once more.

While announced, every commit that brings work notifies. An enqueuer that did not notify had looked before we announced;
we wait until its transaction has ended and ring our own bell. Nobody ever blocks an enqueuer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from django_ray_worker import store
from django_ray_worker.errors import is_transient
from django_ray_worker.listener import SessionLost

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from django_ray_worker.listener import Session
    from django_ray_worker.store import Store

__all__ = ["Doorbell"]


class Doorbell:
    """The bells that one claimer sleeps on."""

    def __init__(
        self,
        session: Session,
        work: Store,
        bells: Sequence[str],
        *,
        tasks: TaskGroup,
        look: Callable[[], None],
    ) -> None:
        self._session = session
        self._store = work
        self._bells = bells
        self._tasks = tasks
        self._look = look
        self._announced = False

    def forget(self) -> None:
        """Start from nothing: the session is new, and nobody knows of us."""
        self._announced = False

    async def announce(self) -> None:
        """From now on every commit rings; who looked before is waited for in the background."""
        if self._announced:
            return
        try:
            await self._session.say(partial(store.announce, bells=self._bells))
        except SessionLost:
            return  # the next session looks by itself
        self._announced = True
        self._tasks.start_soon(self._await_in_flight)

    async def leave(self) -> None:
        """Spare the enqueuers: we look again by ourselves."""
        if not self._announced:
            return
        self._announced = False
        try:
            await self._session.say(partial(store.leave, bells=self._bells))
        except SessionLost:
            return

    async def _await_in_flight(self) -> None:
        # This may last as long as a user's transaction; notifications and due times wake us meanwhile.
        try:
            for bell in self._bells:
                await self._store.await_in_flight(bell)
        except psycopg.Error as error:
            if not is_transient(error):
                raise
        self._look()
