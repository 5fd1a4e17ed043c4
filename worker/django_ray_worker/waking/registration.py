"""The row of a supervisor: written before its first session, written anew when it is gone, ended with the supervisor.

Rows can be taken from a living supervisor: TRUNCATE, flush, a clean-up by hand, a fixture that is loaded over them. Its
id may be given out again then. So it goes on under a new one; what runs under the former id is recorded under that one.
"""

from __future__ import annotations

import logging
import os
import platform
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio import sleep

import django_ray
from django_ray_worker.core.identity import Identity
from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database import store
from django_ray_worker.database.errors import DatabaseError, is_transient, one_line

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.core.stock import Stock
    from django_ray_worker.database.deadline import Connection
    from django_ray_worker.database.store import Store

__all__ = ["Registration", "register"]

log = logging.getLogger("django_ray.supervisor")

# In a row, of our identity: a peer that looks after us has it for a moment only.
MOST_REFUSALS = 5
REFUSED_SECONDS = 0.05  # Until the second try; each one that follows waits longer by that.


async def register(work: Store, *, stock: Callable[[], Stock], ray_address: str, pulse: float) -> Registration:
    """Insert our row, however long that takes; one whose reply is lost is found dead by the next."""
    tries = 0
    while True:
        try:
            worker = await _insert(work, stock(), ray_address, pulse)
            return Registration(work, worker, stock=stock, ray_address=ray_address, pulse=pulse)
        except DatabaseError as error:
            if not is_transient(error):
                raise
            if is_news(tries):
                log.warning("Waiting for the database (%s).", one_line(error))
        await sleep(backoff(tries))
        tries += 1


async def _insert(work: Store, stock: Stock, ray_address: str, pulse: float) -> int:
    return await work.register(
        stock,
        hostname=platform.node(),
        pid=os.getpid(),
        ray_address=ray_address,
        version=django_ray.__version__,
        pulse=pulse,
    )


class Registration:
    """Of one supervisor that has a row, or had one."""

    def __init__(self, work: Store, worker: int, *, stock: Callable[[], Stock], ray_address: str, pulse: float) -> None:
        self.identity = Identity(worker)
        self._store = work
        self._stock = stock
        self._ray_address, self._pulse = ray_address, pulse
        self._pids: deque[int] = deque(maxlen=8)  # Of the sessions that were ours lately.

    async def take(self, session: Connection) -> None:
        """Have the session be us: that of our row, which must be there, or of a new one if another session is it."""
        worker = await self._confirmed()
        self._pids.append(session.info.backend_pid)
        refusals = 0
        while not await store.identify(session, worker):
            if await self._store.hang_up(worker, self._pids):
                refusals = 0  # it was a session of ours that has ended, and the server is told now
            elif refusals == MOST_REFUSALS:
                # A living supervisor whose row was deleted is that one. End the row, which is ours.
                await self._store.sign_off(worker)
                worker, refusals = await self._renew(worker, "Another session has its identity"), 0
                continue
            refusals += 1
            await sleep(refusals * REFUSED_SECONDS)
        self.identity.become(worker)
        # While we hold a former id, nobody takes back what runs under it.
        self.identity.keep([name for name in self.identity.names[1:] if await store.identify(session, name)])

    async def _confirmed(self) -> int:
        """Return the id of our row; of another one if it is gone."""
        worker = self.identity.worker
        if await self._store.is_registered(worker, platform.node(), os.getpid()):
            return worker
        return await self._renew(worker, "Its row is gone, or somebody else's")

    async def _renew(self, worker: int, reason: str) -> int:
        successor = await _insert(self._store, self._stock(), self._ray_address, self._pulse)
        log.warning("%s: supervisor %d goes on as supervisor %d.", reason, worker, successor)
        return successor

    async def pulse(self) -> Pulse:
        """Give a sign of life, NOTIFY our own session, and return what no one may have told us."""
        return await self._store.pulse(self.identity.names, platform.node(), os.getpid())

    async def sign_off(self) -> None:
        """Say that this supervisor ended by itself; one that cannot is found dead."""
        try:
            await self._store.sign_off(self.identity.worker)
        except DatabaseError as error:
            log.warning("Could not sign off (%s).", one_line(error))
