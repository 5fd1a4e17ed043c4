"""The nesting of one supervisor: who starts when, who stops in which order.

database, signals, executor
  session, pulse, watch     live longest: we must look alive while draining
    recording               ends by itself when the last attempt has reported
      attempts              get the grace as a deadline when intake has ended
        intake              starting up and claiming; the first signal cancels this scope, and only this one
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from anyio import CancelScope, create_task_group, current_time, move_on_after

from django_ray_worker.claiming.claimer import Claimer, Wakeup
from django_ray_worker.claiming.demand import Demand
from django_ray_worker.claiming.gatekeeper import Gatekeeper
from django_ray_worker.claiming.quotas import Quotas
from django_ray_worker.claiming.scheduler import Scheduler
from django_ray_worker.claiming.sources import LaneSource, QueueSource
from django_ray_worker.core.exceptions import Stuck
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.stock import Stock
from django_ray_worker.database.store import Store
from django_ray_worker.recording.pruning import Pruning
from django_ray_worker.recording.recorder import Recorder
from django_ray_worker.recording.tally import Tally
from django_ray_worker.running.dispatcher import Dispatcher
from django_ray_worker.running.executor import restart_when_gone, start
from django_ray_worker.running.reconciler import Reconciler
from django_ray_worker.running.teller import Teller
from django_ray_worker.showing.monitor import Monitor
from django_ray_worker.stop import Stop
from django_ray_worker.waking.doorbell import Doorbell
from django_ray_worker.waking.inventory import Inventory
from django_ray_worker.waking.listener import Session
from django_ray_worker.waking.liveness import Liveness
from django_ray_worker.waking.registration import register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup

    from django_ray_worker.core.claim import Pulse
    from django_ray_worker.core.config import Config
    from django_ray_worker.database.connections import Database
    from django_ray_worker.running.executor import Executor
    from django_ray_worker.showing.endpoint import Endpoint
    from django_ray_worker.waking.registration import Registration

__all__ = ["Supervisor", "slots_of", "stock_of", "supervise"]

log = logging.getLogger("django_ray.supervisor")

# After the grace: to write the last outcomes, or to say that they could not be written.
FLUSH_SECONDS = 5.0


async def supervise(
    config: Config,
    database: Database,
    executor: Executor,
    endpoint: Endpoint | None = None,
    *,
    on_ready: Callable[[], object] = bool,
) -> None:
    """Run until a signal, or with burst until the queues are empty. Raises what a supervisor cannot live with."""
    stop = Stop()
    stop.watch()
    try:
        await _supervise(config, database, executor, stop=stop, endpoint=endpoint, on_ready=on_ready)
    except* Stuck:
        if not stop.intake.cancel_called:
            raise


async def _supervise(
    config: Config,
    database: Database,
    executor: Executor,
    *,
    stop: Stop,
    endpoint: Endpoint | None,
    on_ready: Callable[[], object],
) -> None:
    monitor = Monitor(stop, executor, observer=None if endpoint is None else endpoint.observer, on_ready=on_ready)
    with nullcontext() if endpoint is None else endpoint.serving(monitor):
        try:
            with stop.intake:
                log.info("Starting %s ...", "without Ray" if config.sync else f"Ray ({config.cluster or 'local'})")
                await start(executor, stop.guard)
            if not stop.intake.cancel_called:
                async with database.pool() as pool:
                    store = Store(pool, backend=config.backend, queues=config.queues, options=config.options)
                    await _live(config, executor, database=database, store=store, stop=stop, monitor=monitor)
        finally:
            with CancelScope(shield=True):
                async with stop.guard():
                    await executor.close()


async def _live(
    config: Config, executor: Executor, *, database: Database, store: Store, stop: Stop, monitor: Monitor
) -> None:
    """Register, and be that supervisor until told to stop."""
    registration = None
    with stop.intake:
        registration = await register(
            store,
            stock=partial(stock_of, config, executor),
            ray_address=executor.address,
            pulse=config.pulse,
        )
    if registration is not None:
        supervisor = Supervisor(
            registration, config, executor, database=database, store=store, stop=stop, monitor=monitor
        )
        await supervisor.live()


def slots_of(config: Config, executor: Executor) -> int:
    """Return how many calls run at a time."""
    if config.sync:
        return 1
    return config.concurrency or min(executor.cpus, config.options.max_concurrency or executor.cpus)


def ahead_of(config: Config, executor: Executor) -> int:
    """Return how many calls may wait behind those that run: none where Ray might run them at once, beyond the limit."""
    slots = slots_of(config, executor)
    is_limited = slots < executor.cpus or (config.concurrency is not None and config.cluster is not None)
    return 0 if config.sync or is_limited else slots


def stock_of(config: Config, executor: Executor) -> Stock:
    """Return what there is to run things on."""
    return Stock(
        slots=slots_of(config, executor),
        resources=executor.resources,
        replicas=executor.replicas,
        wanted=executor.wanted,
    )


class Supervisor:
    """From its first session to its goodbye."""

    def __init__(
        self,
        registration: Registration,
        config: Config,
        executor: Executor,
        *,
        database: Database,
        store: Store,
        stop: Stop,
        monitor: Monitor,
    ) -> None:
        self._registration, self._identity = registration, registration.identity
        self._config, self._database, self._executor = config, database, executor
        self._store, self._stop = store, stop
        self.metrics = Metrics()
        self._wakeup, self._lane_wakeup = Wakeup(), Wakeup()
        self._tally = Tally(store, monitor.observer)
        self._recorder = Recorder(store, self.metrics, on_recorded=self._has_recorded)
        self._inventory = Inventory(store, self._identity, partial(stock_of, config, executor))
        slots = slots_of(config, executor)
        quotas = Quotas(config.queues, config.quotas, on_room=self._wakeup.look)
        self._dispatcher = Dispatcher(
            executor,
            slots,
            self._tally,
            record=self._recorder.put,
            on_free=self._has_freed,
            on_room=self._lane_wakeup.look,
            is_stopping=lambda: stop.intake.cancel_called,
            ahead=ahead_of(config, executor),
            quotas=quotas,
        )
        self._demand = Demand(
            store,
            executor,
            most=config.options.max_concurrency,
            on_resized=self._resize,
            listen=self._listen,
            parts=lambda: quotas.parts,
        )
        self._reconciler = Reconciler(store, self._identity, self._dispatcher, self._recorder)
        self._teller = Teller(store, self._dispatcher, executor)
        self._session = Session(database, store, registration)
        self._doorbell = Doorbell(
            self._session, store, config.bells, most_waits=database.most_waits, look=self._wakeup.look
        )
        self._gate_bell = Doorbell(self._session, store, [config.gate_bell], most_waits=1, look=self._wakeup.look)
        self._gatekeeper = Gatekeeper(store, self.metrics, may_write=lambda: self._session.is_open)
        self._liveness = Liveness(
            store,
            self._session,
            self.metrics,
            registration=registration,
            period=config.pulse,
            heed=self._heed,
            reconcile=self._reconciler.reconcile,
        )
        self._lane_bell = Doorbell(self._session, store, [config.lane_bell], most_waits=1, look=self._lane_wakeup.look)
        self._claimer = Claimer(
            store,
            QueueSource(store, self._identity, quotas, self._dispatcher.turns),
            may_claim=self._may_claim,
            doorbell=self._doorbell,
            gate_bell=self._gate_bell,
            gatekeeper=self._gatekeeper,
            starter=self._dispatcher,
            wakeup=self._wakeup,
            claiming=self._reconciler.claiming,
            on_doubt=self._reconciler.ask,
            on_crowded=self._demand.crowd,
            on_calm=self._demand.calm,
        )
        lanes = LaneSource(store, self._identity, self._dispatcher.lanes, self._dispatcher.start)
        self._lane_claimer = Claimer(
            store,
            lanes,
            may_claim=self._may_claim,
            doorbell=self._lane_bell,
            gatekeeper=self._gatekeeper,
            starter=lanes,
            wakeup=self._lane_wakeup,
            claiming=self._reconciler.claiming,
            on_doubt=self._reconciler.ask,
        )
        self._scheduler = Scheduler(
            store, self.metrics, may_fire=lambda: self._session.is_open, declared=config.declared
        )
        self._monitor = monitor
        monitor.watch(self._session, self._dispatcher, self.metrics)

    async def live(self) -> None:
        """Work until told to stop, finish what runs, say goodbye."""
        async with create_task_group() as session:
            try:
                async with create_task_group() as recording:
                    recording.start_soon(self._recorder.run)
                    try:
                        with self._stop.attempts:
                            async with create_task_group() as attempts:
                                await self._take_in_and_clear(session, attempts)
                    finally:
                        await self._recorder.close(FLUSH_SECONDS)
            finally:
                await self._say_goodbye()
            session.cancel_scope.cancel()
            # Whatever still waits for an answer gets none.
            self._database.drop()

    async def _take_in_and_clear(self, session: TaskGroup, attempts: TaskGroup) -> None:
        """Claim until told to stop, and give back what has not begun, however that ends."""
        try:
            async with create_task_group() as waits:
                try:
                    with self._stop.intake:
                        await self._take_in(session, attempts, waits)
                finally:
                    waits.cancel_scope.cancel()
                    self._dispatcher.clear()
                    self._grant_grace()
        finally:
            self._dispatcher.close()  # what a claim that was under way has brought since, too

    async def _take_in(self, session: TaskGroup, attempts: TaskGroup, waits: TaskGroup) -> None:
        """Claim until told to stop: what runs goes on in attempts, what only waits is cancelled with waits."""
        self._dispatcher.open(attempts, waits)
        self._doorbell.open(waits)
        self._gate_bell.open(waits)
        self._lane_bell.open(waits)
        await session.start(
            partial(
                self._session.run,
                hears=self._hears(),
                obey=self._obey,
                look_around=self._look_around,
                look=self._look,
            )
        )
        session.start_soon(self._liveness.pulse)
        session.start_soon(self._liveness.watch)
        session.start_soon(self._liveness.tend)
        session.start_soon(self._reconciler.run)
        session.start_soon(self._teller.run)
        session.start_soon(self._tally.run, self._identity)
        waits.start_soon(self._gatekeeper.run)
        waits.start_soon(self._inventory.run)
        waits.start_soon(self._tend_executor)
        waits.start_soon(self._follow_executor)
        if self._config.is_elastic:
            waits.start_soon(self._demand.run)
        waits.start_soon(Pruning(self._store, self.metrics, self._config.options.prune_after).run)
        log.info("%s", self._banner())
        self._monitor.tell_ready()
        if self._config.burst:
            await self._scheduler.begin()
        waits.start_soon(self._scheduler.declare)
        waits.start_soon(self._scheduler.run)
        if self._config.burst:
            await self._drain()
        else:
            waits.start_soon(self._lane_claimer.run)
            await self._claimer.run()

    async def _drain(self) -> None:
        """Claim until nothing is left: what one finds may enqueue what the other has to."""
        before = -1
        while before != (before := self._claimer.claimed + self._lane_claimer.claimed):
            self._look_for_work()  # what the other has run may have rung, and the bell may not have been heard yet
            for claimer in (self._claimer, self._lane_claimer):
                await claimer.drain(is_idle=lambda: not self._reconciler.held)

    def _may_claim(self) -> bool:
        return self._session.is_open and self._executor.is_usable and not self._stop.intake.cancel_called

    def _has_freed(self) -> None:
        self._wakeup.nudge()
        self._lane_wakeup.nudge()

    async def _listen(self) -> None:
        await self._claimer.listen()

    def _grant_grace(self) -> None:
        self._stop.attempts.deadline = current_time() + self._config.grace
        if self._stop.intake.cancel_called:
            running = self._dispatcher.running
            tasks = "1 task runs and has" if running == 1 else f"{running} tasks run and have"
            log.info("%s", f"{tasks} {self._config.grace:g} s." if running else "Nothing is running.")

    def _obey(self, message: str) -> None:
        """Do what a message to us says: answer a question, or look what the rows say."""
        if not self._teller.hear(message):
            self._reconciler.ask()

    def _hears(self) -> Mapping[str, Callable[[], None]]:
        """Return what to do when a bell rings."""
        return {
            **dict.fromkeys(self._config.bells, self._wakeup.ring),
            self._config.gate_bell: self._wakeup.ring,
            self._config.lane_bell: self._lane_wakeup.ring,
            f"full:{self._config.backend}": self._gatekeeper.look,
            f"pauses:{self._config.backend}": self._reconciler.ask,
            f"schedules:{self._config.backend}": self._scheduler.look,
            f"supervisors:{self._config.backend}": self._members_changed,
        }

    def _members_changed(self) -> None:
        self._liveness.members_changed()
        self._demand.crowd()  # our part of what waits is another one

    def _look(self) -> None:
        """On every new session: something may be due that nobody rang for."""
        self._look_for_work()
        self._gatekeeper.look()
        self._gatekeeper.expire_in(0.0)
        self._scheduler.look()

    def _look_for_work(self) -> None:
        self._wakeup.look()
        self._lane_wakeup.look()

    async def _look_around(self) -> None:
        """On every new session, before it counts as open: settle what happened while nobody looked."""
        if self._session.opened:
            self.metrics.reconnects += 1
            await self._liveness.come_back()
        else:
            await self._liveness.begin()

    def _has_recorded(self) -> None:
        self._has_freed()
        self._tally.publish()

    def _resize(self) -> None:
        """Have as many slots as the cluster has CPUs, or as may be."""
        self._dispatcher.resize(slots_of(self._config, self._executor), ahead_of(self._config, self._executor))
        self._look_for_work()

    def _heed(self, pulse: Pulse) -> None:
        """Find what no one thought of: rows that nobody rang for, requests and claims that never reached us."""
        self._executor.glance()
        if pulse.oldest is not None or pulse.has_gated:
            self._look_for_work()
        if pulse.has_impatient or pulse.has_late:
            self._gatekeeper.look()
        if pulse.has_expired:
            self._gatekeeper.expire_in(0.0)
        if pulse.has_overdue:
            self._scheduler.look()
        self.metrics.schedule_problems = pulse.problems
        self._reconciler.heed(pulse)

    async def _tend_executor(self) -> None:
        while True:
            await restart_when_gone(self._executor, self._stop.guard, on_gone=self._has_lost_executor)
            if self._config.is_elastic:
                self._resize()  # what came back may be smaller or larger
            self._look_for_work()

    async def _follow_executor(self) -> None:
        while True:
            await self._executor.until_changed()
            self._dispatcher.lanes.move()
            self._inventory.look()

    def _has_lost_executor(self) -> None:
        self.metrics.clusters_lost += 1
        self._dispatcher.clear()

    async def _say_goodbye(self) -> None:
        if self._reconciler.held:
            return  # whoever finds our identity free takes the rest back
        with move_on_after(FLUSH_SECONDS, shield=True):
            await self._tally.write(self._identity.worker)
            await self._registration.sign_off()
        log.info("Supervisor %d has ended: %s.", self._identity.worker, self._tally.sum)

    def _quota(self, queue: str) -> str:
        quota = self._config.quotas.get(queue)
        return queue if quota is None else f"{queue} (at most {quota} at once)"

    def _banner(self) -> str:
        queues = (
            "any queue" if self._config.queues is None else f"queues {', '.join(map(self._quota, self._config.queues))}"
        )
        slots = f"{self._dispatcher.slots} slot{'' if self._dispatcher.slots == 1 else 's'}"
        return (
            f"Supervisor {self._identity.worker} is ready: backend {self._config.backend}, {queues}, {slots}, "
            f"{self._database}, Ray {self._executor.address}"
        )
