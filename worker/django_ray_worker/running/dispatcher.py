"""Claims become calls, as many at a time as there are slots; what they become goes to the recorder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from django_ray_worker.claiming.backlog import Backlog
from django_ray_worker.claiming.lanes import Lanes
from django_ray_worker.claiming.pace import Pace
from django_ray_worker.claiming.quotas import Quotas
from django_ray_worker.claiming.slots import Slots
from django_ray_worker.core.judge import judge
from django_ray_worker.core.outcome import Cancelled, Interrupted, Lost, Unplaced, Unstarted
from django_ray_worker.database.statements import Record
from django_ray_worker.running.call import Call
from django_ray_worker.running.together import Together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from anyio.abc import TaskGroup

    from django_ray_worker.core.claim import Claim, Held, Turns
    from django_ray_worker.core.outcome import Outcome
    from django_ray_worker.recording.tally import Tally
    from django_ray_worker.running.executor import Executor

__all__ = ["Dispatcher"]

MOST_PARKED = 100  # Calls that wait for a node; what comes after them waits in the queue.

log = logging.getLogger("django_ray.dispatcher")


class Dispatcher:
    """Of one supervisor."""

    def __init__(
        self,
        executor: Executor,
        total: int,
        tally: Tally,
        *,
        record: Callable[[Record], None],
        on_free: Callable[[], None],
        on_room: Callable[[], None] = lambda: None,
        is_stopping: Callable[[], bool] = bool,
        ahead: int = 0,
        quotas: Quotas | None = None,
    ) -> None:
        self._executor = executor
        self._tally = tally
        self._record = record
        self._on_free = on_free
        self._is_stopping = is_stopping
        self._pace = Pace()
        self._quotas = quotas or Quotas()
        self._slots: Slots[Call] = Slots(total, ahead)
        self._backlog = Backlog(
            self._slots,
            self._pace,
            most_per_call=executor.most_per_call,
            give_back=lambda claim: self._report(claim, Unstarted()),
            on_held_up=self._take_back,
            quotas=self._quotas,
        )
        self.lanes = Lanes(
            executor,
            begin=self._begin_in_lane,
            give_back=lambda claim: self._report(claim, Unstarted()),
            on_room=on_room,
        )
        self._running: dict[UUID, tuple[Claim, Call | Together]] = {}
        self._parked = 0  # Calls without a slot.
        self._calls: TaskGroup

    def open(self, calls: TaskGroup, waits: TaskGroup) -> None:
        """Take claims from now on: calls run in one task group, and what is cancelled with intake in the other."""
        self._calls = calls
        waits.start_soon(self._backlog.watch)
        self.lanes.open(waits)

    @property
    def slots(self) -> int:
        """How many calls run at a time."""
        return self._slots.total

    def resize(self, total: int, ahead: int) -> None:
        """Have so many slots, and so many calls that may wait behind them."""
        if total != self._slots.total:
            self._slots.resize(total, ahead)
            self._backlog.move()
            self.dispatch()
            self._on_free()

    @property
    def busy(self) -> int:
        """How many calls run."""
        return self._slots.taken

    @property
    def running(self) -> int:
        """How many executions are in these calls."""
        return len(self._running)

    @property
    def room(self) -> int:
        """How many more executions to claim now."""
        room = self._backlog.room()
        # Where no queue may have more, there is nothing to claim.
        return room if room == 0 or (turns := self.turns()) is None or turns.queues else 0

    def turns(self) -> Turns | None:
        """Return what may be claimed of each queue; None where none has a quota."""
        return self._backlog.turns()

    @property
    def held(self) -> frozenset[UUID]:
        """The executions that are here."""
        waiting = frozenset(claim.task_id for claim in self.lanes.claims)
        return frozenset(self._running) | self._backlog.ids | waiting

    def company(self, task_id: UUID) -> Sequence[Claim]:
        """Return the claims that share a body with that of an execution, itself among them; none if it is not here."""
        if (found := self._running.get(task_id)) is None:
            return ()
        claim, call = found
        return call.claims if isinstance(call, Together) else (claim,)

    def start(self, claims: Sequence[Claim]) -> None:
        """Run them, in this order, or as soon as a slot is free, or a place in their lane."""
        if apart := [claim for claim in claims if claim.options.has_lane]:
            self.lanes.start(apart)
            self._backlog.put([claim for claim in claims if not claim.options.has_lane])
        else:
            self._backlog.put(claims)
        self._tally.claimed(claims)
        self.dispatch()

    def dispatch(self) -> None:
        """Fill the free slots."""
        while self._backlog.is_ready and self._executor.is_usable:
            claims = self._backlog.take()
            call = self._call(claims)
            self._slots.take(call, soon=self._backlog.is_short(claims))
            self._quotas.take(claims)
            self._backlog.move()
            self._calls.start_soon(self._run_in_slot, call)

    def _begin_in_lane(self, claims: Sequence[Claim]) -> Together:
        call = Together(claims, self._executor, self._tally, self._report)
        self._tally.batched(claims)
        for claim in claims:
            self._running[claim.task_id] = claim, call
        self._calls.start_soon(self._run_in_lane, call)
        return call

    async def _run_in_lane(self, call: Together) -> None:
        try:
            if self._executor.lacks(call.claims[0]):
                await self._executor.look()
                if lacking := self._executor.lacks(call.claims[0]):
                    self._warn(call.claims[0], lacking)
            await call.run()
        finally:
            for claim in call.claims:
                self._forget(claim)
            self.lanes.ended(call, is_unprepared=call.is_unprepared)
            self._on_free()

    def _take_back(self) -> None:
        """Give back what waits behind the calls that run."""
        for call in self._slots.ahead:
            call.take_back()

    async def _run_in_slot(self, call: Call) -> None:
        lacking: Mapping[str, float] = {}
        claims = call.claims
        try:
            if self._executor.lacks(call.claims[0]):
                await self._executor.look()
                lacking = self._executor.lacks(call.claims[0])
            if not lacking:
                await self._run(call)
        finally:
            self._slots.release(call)
            if not lacking:
                self._quotas.release(claims)
            self._backlog.move()
            self.dispatch()
            self._on_free()
        if lacking:
            try:
                await self._park(call, lacking)
            finally:
                self._quotas.release(claims)
                self._on_free()  # what such a call has settled was not reported

    async def _park(self, call: Call, lacking: Mapping[str, float]) -> None:
        """Let it wait in Ray for a node that may never come: without a slot, so that it holds up nobody."""
        claims = call.claims
        if self._parked == MOST_PARKED:
            for claim in claims:
                self._report(claim, Unplaced())
            return
        self._warn(claims[0], lacking)
        self._parked += 1
        try:
            await self._run(call)
        finally:
            self._parked -= 1

    @staticmethod
    def _warn(claim: Claim, lacking: Mapping[str, float]) -> None:
        log.warning(
            "%s asks for %s, and the cluster has less in all: it waits for a node that has it.",
            claim, lacking, extra=claim.log_fields,
        )  # fmt: skip

    def _call(self, claims: Sequence[Claim]) -> Call:
        call = Call(claims, self._executor, self._pace, self._tally, self._report)
        for claim in claims:
            self._running[claim.task_id] = claim, call
        return call

    async def _run(self, call: Call) -> None:
        try:
            await call.run()
        finally:
            for claim in call.claims:
                self._forget(claim)  # what the call has settled was never reported

    def clear(self) -> None:
        """Give back what has not started, here or behind the calls that run."""
        self._backlog.clear()
        self.lanes.clear()
        self._take_back()

    def close(self) -> None:
        """Wait for nothing any more: what has not started is given back, and calls that run may end."""
        self.clear()
        self.lanes.close()

    def reconcile(self, ours: Mapping[UUID, Held]) -> None:
        """Heed what the rows say: ours are those that run in our name."""
        for task_id, (claim, call) in list(self._running.items()):
            said = ours.get(task_id)
            if said is None or said.attempt != claim.attempt:
                call.disown(claim)
            elif said.is_unwanted:
                call.cancel(claim)
            elif said.is_paused and isinstance(call, Call) and call in self._slots.ahead:
                call.take_back()
        for waiting in (self._backlog, self.lanes):
            for claim in waiting.claims:
                said = ours.get(claim.task_id)
                if said is None or said.attempt != claim.attempt or said.is_unwanted:
                    waiting.remove(claim)
                    self._report(claim, Cancelled())
                elif said.is_paused:
                    waiting.remove(claim)
                    self._report(claim, Unstarted())
        self.lanes.move()  # what was removed may have held up others

    def _report(self, claim: Claim, outcome: Outcome, output: str = "") -> None:
        self._forget(claim)
        if isinstance(outcome, Lost) and self._is_stopping():
            outcome = Interrupted()  # who tells us to end may have told the processes of the bodies as well
        verdict = judge(claim, outcome)
        self._tally.ended(claim, verdict)
        self._record(Record(claim, verdict, output))

    def _forget(self, claim: Claim) -> None:
        held = self._running.get(claim.task_id)
        if held is not None and held[0].attempt == claim.attempt:
            del self._running[claim.task_id]
