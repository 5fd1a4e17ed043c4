"""Rows that run in our name against what we hold: whoever is in doubt asks, and both agree again.

A row that we do not hold is a claim that never reached us: it is released. What we hold and is not ours any more, or is
unwanted, is stopped. The row is the truth; a message only says "look".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anyio import Event, Lock, sleep

from django_ray_worker.core.judge import released
from django_ray_worker.core.tries import backoff
from django_ray_worker.database.errors import DatabaseError, is_transient

if TYPE_CHECKING:
    from uuid import UUID

    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.database.store import Store
    from django_ray_worker.recording.recorder import Recorder
    from django_ray_worker.running.dispatcher import Dispatcher

__all__ = ["Reconciler"]

log = logging.getLogger("django_ray.supervisor")


class Reconciler:
    """Of one supervisor."""

    def __init__(self, work: Store, worker: int, dispatcher: Dispatcher, recorder: Recorder) -> None:
        self._store = work
        self._worker = worker
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._asked = Event()
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
            await self._asked.wait()
            self._asked = Event()
            try:
                await self.reconcile()
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                await sleep(backoff(3))
                self.ask()

    async def reconcile(self) -> None:
        """Make the rows and what we hold agree."""
        async with self.claiming:
            ours, unheld = await self._store.reconcile(self._worker, self.held, released)
            self._dispatcher.reconcile(ours)
        if unheld:
            log.warning("%d claims never reached us and are released.", unheld)
