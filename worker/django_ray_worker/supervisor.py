"""The nesting of one supervisor: who starts when, who stops in which order.

database, signals
  session                   lives longest: we must look alive while draining
    recording               ends by itself when the last attempt has reported
      attempts              get the grace as a deadline when intake has ended
        intake              starting up and claiming; the first signal cancels this scope, and only this one
"""

from __future__ import annotations

import logging
import os
import platform
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from anyio import CancelScope, Lock, create_task_group, current_time

import django_ray
from django_ray_worker.attempt import abandoned, attempt
from django_ray_worker.claimer import Claimer, Wakeup
from django_ray_worker.doorbell import Doorbell
from django_ray_worker.listener import Session
from django_ray_worker.recorder import Recorder
from django_ray_worker.slots import Slots
from django_ray_worker.stop import Stop
from django_ray_worker.store import Store

if TYPE_CHECKING:
    from uuid import UUID

    from anyio.abc import TaskGroup

    from django_ray_worker.claim import Claim
    from django_ray_worker.config import Config
    from django_ray_worker.database import Database
    from django_ray_worker.executor import RayExecutor
    from django_ray_worker.inprocess import InProcessExecutor

__all__ = ["ClusterLost", "supervise"]

log = logging.getLogger("django_ray.supervisor")

# After the grace: to write the last outcomes, or to say that they could not be written.
FLUSH_SECONDS = 5.0


async def supervise(config: Config, database: Database, executor: RayExecutor | InProcessExecutor) -> None:
    """Run until a signal, or with burst until the queues are empty. Raises what a supervisor cannot live with."""
    stop = Stop(config.grace)
    stop.watch()
    try:
        with stop.intake:
            log.info("Starting %s ...", "without Ray" if config.sync else f"Ray ({config.cluster or 'local'})")
            try:
                await executor.start()
            finally:
                stop.watch()
        if not stop.intake.cancel_called:
            async with database.pool() as pool:
                store = Store(pool, backend=config.backend, queues=config.queues, options=config.options)
                await _Life(config, database, executor, store, stop).live()
    finally:
        await executor.close()


class ClusterLost(Exception):  # noqa: N818 - named for what happened
    """The Ray that this supervisor drives is gone."""


class _Life:
    """One identity: from its registration to its goodbye."""

    def __init__(
        self,
        config: Config,
        database: Database,
        executor: RayExecutor | InProcessExecutor,
        store: Store,
        stop: Stop,
    ) -> None:
        self._config = config
        self._database = database
        self._executor = executor
        self._store = store
        self._stop = stop
        self._wakeup = Wakeup()
        self._claiming = Lock()
        total = 1 if config.sync else config.concurrency or executor.cpus
        self._slots = Slots(total, on_free=self._wakeup.nudge)
        self._recorder = Recorder(store, on_recorded=self._wakeup.nudge)
        self._running: set[UUID] = set()
        self._has_lived = False
        self._worker: int
        self._doorbell: Doorbell

    async def live(self) -> None:
        """Register, work until told to stop, say goodbye."""
        self._worker = await self._store.register(
            hostname=platform.node(),
            pid=os.getpid(),
            concurrency=self._slots.total,
            ray_address=self._executor.address,
            version=django_ray.__version__,
        )
        async with create_task_group() as session:
            try:
                async with create_task_group() as recording:
                    recording.start_soon(self._recorder.run)
                    try:
                        await self._work(session)
                    finally:
                        await self._recorder.close(FLUSH_SECONDS)
            finally:
                await self._say_goodbye()
            session.cancel_scope.cancel()

    async def _work(self, session_tasks: TaskGroup) -> None:
        with self._stop.attempts:
            async with create_task_group() as attempts, create_task_group() as waits:
                session = Session(
                    self._database,
                    worker=self._worker,
                    bells=self._config.bells,
                    on_bell=self._wakeup.look,
                    on_open=self._look_around,
                )
                self._doorbell = Doorbell(session, self._store, self._config.bells, tasks=waits, look=self._wakeup.look)
                claimer = Claimer(
                    self._store,
                    worker=self._worker,
                    session=session,
                    doorbell=self._doorbell,
                    slots=self._slots,
                    wakeup=self._wakeup,
                    claiming=self._claiming,
                    start=partial(self._start, attempts),
                )
                waits.start_soon(self._watch_executor)
                with self._stop.intake:
                    await session_tasks.start(session.run)
                    log.info("%s", self._banner())
                    await self._claim(claimer)
                waits.cancel_scope.cancel()
                self._stop.attempts.deadline = current_time() + self._config.grace

    async def _watch_executor(self) -> None:
        """End everything when Ray is gone from under us: attempts are released, and a new supervisor starts afresh."""
        await self._executor.lost.wait()
        raise ClusterLost("Ray's local raylet has died; ending, to be started again.")

    async def _claim(self, claimer: Claimer) -> None:
        if self._config.burst:
            await claimer.drain(is_idle=lambda: not (self._running or self._recorder.pending))
        else:
            await claimer.run()

    def _start(self, attempts: TaskGroup, claim: Claim) -> None:
        self._slots.take()
        self._running.add(claim.task_id)
        attempts.start_soon(self._attempt, claim)

    async def _attempt(self, claim: Claim) -> None:
        try:
            await attempt(claim, self._executor, lambda claim, verdict: self._recorder.put((claim, verdict)))
        finally:
            self._running.discard(claim.task_id)
            self._slots.release()

    async def _look_around(self) -> None:
        """On every new session, before it counts as open: settle what happened while nobody looked."""
        self._doorbell.forget()
        if not self._has_lived:
            self._has_lived = True
            for dead, rows in (await self._store.rescue(self._worker, abandoned)).items():
                log.warning("Supervisor %d died; %d executions of it are taken back.", dead, rows)
            return
        await self._store.revive(self._worker)
        async with self._claiming:
            released = await self._store.release_unheld(self._worker, self._running | self._recorder.pending)
        if released:
            log.warning("%d claims never reached us and are released.", len(released))

    async def _say_goodbye(self) -> None:
        if self._running or self._recorder.pending:
            return  # whoever finds our identity free takes the rest back
        with CancelScope(shield=True):
            try:
                await self._store.sign_off(self._worker)
            except psycopg.Error as error:
                log.warning("Could not sign off (%s).", " ".join(str(error).split()))

    def _banner(self) -> str:
        queues = "any queue" if self._config.queues is None else f"queues {', '.join(self._config.queues)}"
        slots = f"{self._slots.total} slot{'s' if self._slots.total > 1 else ''}"
        return (
            f"Supervisor {self._worker} is ready: backend {self._config.backend}, {queues}, {slots}, "
            f"{self._database}, Ray {self._executor.address}"
        )
