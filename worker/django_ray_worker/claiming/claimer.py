"""Free slots are filled from the queues. Between the work it sleeps on the doorbell and sends nothing.

A notification means "claim until a claim comes back short". Everything that may concern the claimer sets the same
event: a bell, a freed slot, a due time, a new session. It then looks at the state; so no order of events can be missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from anyio import CancelScope, Event, Lock, current_time, move_on_after, sleep

from django_ray_worker.core.claim import Gates
from django_ray_worker.core.tries import LOCK_NEWS_SECONDS, LockWait, backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_data_fault, is_transient, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django_ray_worker.claiming.gatekeeper import Gatekeeper
    from django_ray_worker.claiming.sources import Source
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.database.store import Store
    from django_ray_worker.waking.doorbell import Doorbell

__all__ = ["Claimer", "Wakeup"]

log = logging.getLogger("django_ray.claimer")


class Wakeup:
    """Why the claimer should look, and the event that wakes it."""

    def __init__(self) -> None:
        self._changed = Event()
        self.is_hungry = True  # There may be rows that we have not looked for.
        self.has_heard = False  # A bell rang since the last claim.

    def ring(self) -> None:
        """Look for work: a bell says that it has come."""
        self.has_heard = True
        self.look()

    def look(self) -> None:
        """Look for work: it may have come."""
        self.is_hungry = True
        self._changed.set()

    def nudge(self) -> None:
        """Something changed here: a slot is free, an outcome is written."""
        self._changed.set()

    async def wait(self) -> None:
        """Return after the next look or nudge, or at once after one that nobody has waited for."""
        await self._changed.wait()
        self._changed = Event()


class Starter(Protocol):
    """Who starts what is claimed."""

    @property
    def room(self) -> int:
        """How many more executions to claim now."""
        ...

    def start(self, claims: Sequence[Claim]) -> None:
        """Take over claims, in the order to start them."""
        ...


class Claimer:
    """Takes executions for one supervisor."""

    def __init__(
        self,
        work: Store,
        source: Source,
        *,
        may_claim: Callable[[], bool],
        doorbell: Doorbell,
        gatekeeper: Gatekeeper,
        gate_bell: Doorbell | None = None,
        starter: Starter,
        wakeup: Wakeup,
        claiming: Lock,
        on_doubt: Callable[[], None],
        on_crowded: Callable[[], None] = lambda: None,
        on_calm: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = work
        self._source = source
        self._may_claim = may_claim  # There is a session, and a Ray.
        self._doorbell = doorbell
        self._gate_bell = gate_bell  # A place behind a gate is free: for who has seen somebody wait at one.
        self._gatekeeper = gatekeeper
        self._starter = starter
        self._wakeup = wakeup
        self._claiming = claiming  # Held from the claim until its attempts have started: who reconciles waits for it.
        self._on_doubt = on_doubt  # A claim has failed, and may have been committed all the same.
        self._on_crowded = on_crowded  # There may be more than there is room for.
        self._on_calm = on_calm  # There is not.
        self._due = float("inf")  # When the next row falls due, by the loop's clock.
        self._has_due = False  # That moment has passed, and the rows are not promoted yet.
        self._again = float("inf")  # When to look again: for rows that were locked, or for the next start at a gate.
        self.claimed = 0  # Executions, by now.
        self._locked = LockWait()
        self._tries = 0

    async def run(self) -> None:
        """Claim for ever."""
        while True:
            await self._turn()
            with move_on_after(min(self._due, self._again) - current_time()):
                await self._wakeup.wait()

    async def drain(self, *, is_idle: Callable[[], bool]) -> None:
        """Claim until nothing is claimable and nothing runs that might still enqueue."""
        while True:
            await self._turn()
            is_drained = not self._wakeup.is_hungry and current_time() < min(self._due, self._again)
            if is_drained and is_idle() and not self._waits_briefly:
                return
            with move_on_after(min(self._due, self._again) - current_time()):
                await self._wakeup.wait()
            self._wakeup.is_hungry = True

    @property
    def _waits_briefly(self) -> bool:
        """Tell whether it waits for rows that are locked, and not for long: others lock them for milliseconds."""
        since = self._locked.since
        return since is not None and current_time() - since < LOCK_NEWS_SECONDS

    async def _turn(self) -> None:
        if current_time() >= self._due:
            # Taken note of once: a due time that cannot be used now must not keep the loop spinning.
            self._due, self._has_due = float("inf"), True
            self._wakeup.is_hungry = True
        if current_time() >= self._again:
            self._again, self._wakeup.is_hungry = float("inf"), True
        if not self._wakeup.is_hungry or not self._may_claim():
            return
        if not self._starter.room:
            self._on_crowded()
            if self._wakeup.has_heard:
                # Rings that we cannot use only cost the enqueuers.
                self._wakeup.has_heard = False
                if self._gate_bell is not None:
                    await self._gate_bell.leave()
                await self._doorbell.leave()
            return
        # Cleared before the claim, never after: a bell during the claim means another one.
        self._wakeup.is_hungry = self._wakeup.has_heard = False
        try:
            is_short = await self._claim()
        except DatabaseError as error:
            # No row ends a supervisor, not even one that cannot be taken at all.
            if not (is_transient(error) or is_data_fault(error)):
                raise
            await self._wait_out(error)
            return
        self._tries = 0
        if is_short:
            self._on_calm()
            await self._doorbell.announce()
        else:
            self._on_crowded()
            self._wakeup.is_hungry = True
            self._wakeup.nudge()

    async def listen(self) -> None:
        """Hear of what is enqueued although there is no room for it."""
        if not self._starter.room:
            await self._doorbell.announce()

    async def _claim(self) -> bool:
        """Claim what there is room for; tell whether it came back short."""
        is_short, gates = False, Gates()
        # Nothing may come between the claim and the start of its attempts. The statements have their own deadlines.
        with CancelScope(shield=True):
            if has_promoted := self._has_due:
                await self._store.promote()
                self._has_due = False
            room = self._starter.room
            async with self._claiming:
                batch = await self._source.claim(room)
                self._starter.start(batch.claims)
            self.claimed += len(batch.claims)
            self._gatekeeper.expire_in(batch.next_expiry)
            # What is still overdue after it was promoted is locked by somebody, too.
            is_locked = has_promoted and batch.next_due is not None and batch.next_due <= 0
            next_due = batch.next_later if is_locked else batch.next_due
            self._due = float("inf") if next_due is None else current_time() + next_due
            is_short = self._source.is_short(batch, room)
            self._mind_skipped(batch.has_skipped or is_locked, is_short)
            gates = batch.gates
            if gates.next_in is not None:
                self._again = min(self._again, current_time() + gates.next_in)
        await self._mind_gates(gates)
        return is_short

    async def _mind_gates(self, gates: Gates) -> None:
        if self._gate_bell is None:
            return
        if gates.is_used:
            await self._gate_bell.announce()
        else:
            await self._gate_bell.leave()

    def _mind_skipped(self, has_skipped: bool, is_short: bool) -> None:  # noqa: FBT001 - facts, not choices
        """Look again soon for rows that were locked: if their transaction is rolled back, nobody will ring."""
        if not has_skipped:
            self._again = float("inf")
            self._locked.end()
            return
        self._again = current_time() + self._locked.go_on(current_time())
        # While there is more to claim than there is room, it may be the claims of peers that are met again and again.
        if is_short and self._locked.is_news(current_time()):
            log.warning(
                "Executions that are due are locked by another transaction; they are claimed as soon as it ends. "
                "pg_stat_activity shows which it is."
            )

    async def _wait_out(self, error: DatabaseError) -> None:
        wait = backoff(self._tries)
        if is_news(self._tries):
            log.warning("Claiming waits for the database (%s); again in %.1f s.", one_line(error), wait)
        self._tries += 1
        self._on_doubt()  # now, since a stop may end the wait
        await sleep(wait)
        self._on_doubt()  # and once more: the claim may have been committed since
        self._wakeup.look()
