"""The nesting of one supervisor: who starts when, who stops in which order.

database, signals
  session, pulse, watch     live longest: we must look alive while draining
    recording               ends by itself when the last attempt has reported
      attempts              get the grace as a deadline when intake has ended
        intake              starting up and claiming; the first signal cancels this scope, and only this one
"""

from __future__ import annotations

import logging
import os
import platform
from contextlib import nullcontext
from typing import TYPE_CHECKING

import psycopg
from anyio import CancelScope, Event, Lock, create_task_group, current_time, move_on_after, sleep

import django_ray
from django_ray_worker.claiming.claimer import Claimer, Wakeup
from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.core.judge import abandoned, released
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database.errors import is_transient, one_line
from django_ray_worker.database.store import Store
from django_ray_worker.recording.pruning import Pruning
from django_ray_worker.recording.recorder import Recorder
from django_ray_worker.recording.tally import Tally
from django_ray_worker.running.dispatcher import Dispatcher
from django_ray_worker.showing.monitor import Monitor
from django_ray_worker.stop import Stop
from django_ray_worker.waking.doorbell import Doorbell
from django_ray_worker.waking.listener import Session
from django_ray_worker.waking.liveness import Liveness

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.core.config import Config
    from django_ray_worker.database.connections import Database
    from django_ray_worker.running.inprocess import InProcessExecutor
    from django_ray_worker.running.onray.executor import RayExecutor
    from django_ray_worker.showing.endpoint import Endpoint

__all__ = ["supervise"]

log = logging.getLogger("django_ray.supervisor")

# After the grace: to write the last outcomes, or to say that they could not be written.
FLUSH_SECONDS = 5.0


async def supervise(
    config: Config, database: Database, executor: RayExecutor | InProcessExecutor, endpoint: Endpoint | None = None
) -> None:
    """Run until a signal, or with burst until the queues are empty. Raises what a supervisor cannot live with."""
    stop = Stop(config.grace)
    stop.watch()
    monitor = Monitor(stop, executor, observer=None if endpoint is None else endpoint.observer)
    with nullcontext() if endpoint is None else endpoint.serving(monitor):
        await _supervise(config, database, executor, stop, monitor)


async def _supervise(
    config: Config, database: Database, executor: RayExecutor | InProcessExecutor, stop: Stop, monitor: Monitor
) -> None:
    try:
        with stop.intake:
            log.info("Starting %s ...", "without Ray" if config.sync else f"Ray ({config.cluster or 'local'})")
            await _start(executor, stop)
        if not stop.intake.cancel_called:
            async with database.pool() as pool:
                store = Store(pool, backend=config.backend, queues=config.queues, options=config.options)
                await _Life(config, database, executor, store, stop, monitor=monitor).live()
    finally:
        with CancelScope(shield=True):
            async with stop.guard():
                await executor.close()


async def _start(
    executor: RayExecutor | InProcessExecutor, stop: Stop, *, waits_out: tuple[type[Exception], ...] = (OSError,)
) -> None:
    """Start it, however long that takes."""
    tries = 0
    while True:
        try:
            async with stop.guard():
                await executor.start()
        except* waits_out as errors:
            reason = str(errors.exceptions[0])
        else:
            return
        wait = backoff(tries)
        if is_news(tries):
            log.warning("%s Again in %.1f s.", reason, wait)
        tries += 1
        await sleep(wait)


class _Life:
    """One identity: from its registration to its goodbye."""

    def __init__(
        self,
        config: Config,
        database: Database,
        executor: RayExecutor | InProcessExecutor,
        store: Store,
        stop: Stop,
        *,
        monitor: Monitor,
    ) -> None:
        self._config = config
        self._database = database
        self._executor = executor
        self._store = store
        self._stop = stop
        self._monitor = monitor
        self.metrics = Metrics()
        self._wakeup = Wakeup()
        self._claiming = Lock()
        total = 1 if config.sync else config.concurrency or executor.cpus
        self._tally = Tally(store, monitor.observer)
        self._pruning = Pruning(store, config.options.prune_after)
        self._recorder = Recorder(store, self.metrics, on_recorded=self._has_recorded)
        self._dispatcher = Dispatcher(
            executor, total, self._tally, record=self._recorder.put, on_free=self._wakeup.nudge
        )
        self._requests = Event()  # Somebody may want one of ours cancelled or not begun.
        self._worker: int
        self._session: Session
        self._doorbell: Doorbell
        self._liveness: Liveness

    async def live(self) -> None:
        """Register, work until told to stop, say goodbye."""
        with self._stop.intake:
            self._worker = await self._register()
        if self._stop.intake.cancel_called:
            return
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
            # Whatever still waits for an answer gets none.
            self._database.drop()

    async def _register(self) -> int:
        """Insert our row, however long that takes; one whose reply is lost is found dead by the next supervisor."""
        tries = 0
        while True:
            try:
                return await self._store.register(
                    hostname=platform.node(),
                    pid=os.getpid(),
                    concurrency=self._dispatcher.slots,
                    ray_address=self._executor.address,
                    version=django_ray.__version__,
                    pulse=self._config.pulse,
                )
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                if is_news(tries):
                    log.warning("Waiting for the database (%s).", one_line(error))
            await sleep(backoff(tries))
            tries += 1

    async def _work(self, living: TaskGroup) -> None:
        with self._stop.attempts:
            async with create_task_group() as attempts, create_task_group() as waits:
                self._connect(waits)
                claimer = Claimer(
                    self._store,
                    worker=self._worker,
                    may_claim=lambda: self._session.is_open and self._executor.is_usable,
                    doorbell=self._doorbell,
                    dispatcher=self._dispatcher,
                    wakeup=self._wakeup,
                    claiming=self._claiming,
                    on_doubt=self._hear_request,
                )
                self._dispatcher.open(attempts, waits)
                with self._stop.intake:
                    await living.start(self._session.run)
                    living.start_soon(self._liveness.pulse)
                    living.start_soon(self._liveness.watch)
                    living.start_soon(self._heed_requests)
                    living.start_soon(self._tally.run, self._worker)
                    waits.start_soon(self._tend_executor)
                    waits.start_soon(self._pruning.run)
                    log.info("%s", self._banner())
                    await self._claim(claimer)
                waits.cancel_scope.cancel()
                self._dispatcher.clear()
                self._stop.attempts.deadline = current_time() + self._config.grace

    def _connect(self, waits: TaskGroup) -> None:
        """Make what hears and tells whether we are alive; nothing is opened yet."""
        self._session = Session(
            self._database,
            work=self._store,
            worker=self._worker,
            bells=self._config.bells,
            messages={
                f"worker:{self._worker}": self._hear_request,
                f"supervisors:{self._config.backend}": self._hear_members,
                f"pauses:{self._config.backend}": self._hear_request,
            },
            on_bell=self._wakeup.look,
            on_open=self._look_around,
        )
        self._monitor.watch(self._session, self._dispatcher, self.metrics)
        self._doorbell = Doorbell(self._session, self._store, self._config.bells, tasks=waits, look=self._wakeup.look)
        self._liveness = Liveness(
            self._store,
            self._session,
            self.metrics,
            worker=self._worker,
            period=self._config.pulse,
            heed=self._heed_pulse,
            come_back=self._come_back,
        )

    def _has_recorded(self) -> None:
        self._wakeup.nudge()
        self._tally.publish()

    def _hear_request(self) -> None:
        self._requests.set()

    def _heed_pulse(self, pulse: Pulse) -> None:
        """Find what no one thought of: rows that nobody rang for, requests and claims that never reached us."""
        if pulse.oldest is not None:
            self._wakeup.look()
        if pulse.has_unwanted or pulse.running > len(self._dispatcher.held | self._recorder.pending):
            self._requests.set()

    def _hear_members(self) -> None:
        self._liveness.members_changed()

    async def _tend_executor(self) -> None:
        """When Ray is gone: release what it ran, claim nothing, start it again and go on."""
        while True:
            reason = await self._executor.until_gone()
            self.metrics.clusters_lost += 1
            log.warning("%s Releasing what it ran, and starting Ray again.", reason)
            self._dispatcher.clear()
            async with self._stop.guard():
                await self._executor.abandon()
            # What may be wrong with it now was not when it started first.
            await _start(self._executor, self._stop, waits_out=(OSError, Misconfigured))
            log.info("Ray is back: %s", self._executor.address)
            self._wakeup.look()

    async def _heed_requests(self) -> None:
        """Stop what is unwanted, give back what is paused. The row is the truth; a message only says "look"."""
        while True:
            await self._requests.wait()
            self._requests = Event()
            try:
                await self._reconcile()
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                await sleep(backoff(3))
                self._requests.set()

    async def _claim(self, claimer: Claimer) -> None:
        if self._config.burst:
            await claimer.drain(is_idle=lambda: not (self._dispatcher.held or self._recorder.pending))
        else:
            await claimer.run()

    async def _look_around(self) -> None:
        """On every new session, before it counts as open: settle what happened while nobody looked."""
        self._doorbell.forget()
        if not self._session.opened:
            await self._store.revive(self._worker)  # a peer may have missed us until now
            for dead, rows in (await self._store.rescue(self._worker, abandoned)).items():
                self.metrics.rescued += rows
                log.warning("Supervisor %d died; %d executions of it are taken back.", dead, rows)
            return
        self.metrics.reconnects += 1
        await self._come_back()

    async def _come_back(self) -> None:
        await self._store.revive(self._worker)
        await self._reconcile()

    async def _reconcile(self) -> None:
        """Compare the rows that run in our name with what we hold, and make them agree."""
        async with self._claiming:
            held = self._dispatcher.held | self._recorder.pending
            ours, unheld = await self._store.reconcile(self._worker, held, released)
            self._dispatcher.reconcile(ours)
        if unheld:
            log.warning("%d claims never reached us and are released.", unheld)

    async def _say_goodbye(self) -> None:
        if self._dispatcher.held or self._recorder.pending:
            return  # whoever finds our identity free takes the rest back
        with move_on_after(FLUSH_SECONDS, shield=True):
            try:
                await self._tally.write(self._worker)
                await self._store.sign_off(self._worker)
            except psycopg.Error as error:
                log.warning("Could not sign off (%s).", one_line(error))

    def _banner(self) -> str:
        queues = "any queue" if self._config.queues is None else f"queues {', '.join(self._config.queues)}"
        slots = f"{self._dispatcher.slots} slot{'s' if self._dispatcher.slots > 1 else ''}"
        return (
            f"Supervisor {self._worker} is ready: backend {self._config.backend}, {queues}, {slots}, "
            f"{self._database}, Ray {self._executor.address}"
        )
