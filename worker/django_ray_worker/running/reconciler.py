"""Rows that run in our name against what we hold: whoever is in doubt asks, and both agree again.

A row that we do not hold is a claim that never reached us: it is released. What we hold and is not ours any more, or is
unwanted, is stopped. The row is the truth; a message only says "look".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anyio import Event, Lock, current_time, move_on_after, sleep

from django_ray_worker.core.judge import released
from django_ray_worker.core.tries import LockWait, backoff
from django_ray_worker.database.errors import DatabaseError, is_transient

if TYPE_CHECKING:
    from uuid import UUID

    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.core.identity import Identity
    from django_ray_worker.database.store import Store
    from django_ray_worker.recording.recorder import Recorder
    from django_ray_worker.running.dispatcher import Dispatcher

__all__ = ["Reconciler"]

log = logging.getLogger("django_ray.supervisor")


class Reconciler:
    """Of one supervisor."""

    def __init__(self, work: Store, identity: Identity, dispatcher: Dispatcher, recorder: Recorder) -> None:
        self._store = work
        self._identity = identity
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._asked = Event()
        self._locked = LockWait()
        self._again = float("inf")  # When to look again for what was locked.
        self.claiming = Lock()  # Held from a claim until its attempts have started: what is in between is not held yet.

    @property
    def held(self) -> frozenset[UUID]:
        """The executions that are here: to be run, running, or with an outcome that is not written yet."""
        return self._dispatcher.held | self._recorder.pending

    def ask(self) -> None:
        """Reconcile soon."""
        self._asked.set()

    def heed(self, pulse: Pulse) -> None:
        """Reconcile soon if the rows say something else than what we hold."""
        if pulse.has_unwanted or pulse.running > len(self.held):
            self.ask()

    async def run(self) -> None:
        """Reconcile whenever somebody asks, for ever."""
        while True:
            with move_on_after(self._again - current_time()):
                await self._asked.wait()
            self._asked = Event()
            try:
                await self._reconcile()
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                await sleep(backoff(3))
                self.ask()

    async def reconcile(self) -> None:
        """Make the rows and what we hold agree; what somebody else has locked is left to run()."""
        await self._reconcile()
        if self._locked.since is not None:
            self.ask()

    async def _reconcile(self) -> None:
        async with self.claiming:
            found = await self._store.reconcile(self._identity.names, self.held, released)
            self._dispatcher.reconcile(found.ours)
        if found.unheld:
            log.warning("%d claims never reached us and are released.", found.unheld)
        if not found.locked:
            self._locked.end()
            self._again = float("inf")
            return
        self._again = current_time() + self._locked.go_on(current_time())
        if self._locked.is_news(current_time()):
            log.warning(
                "%d claims that never reached us are locked by another transaction; they are released as soon as it "
                "ends.",
                found.locked,
            )
