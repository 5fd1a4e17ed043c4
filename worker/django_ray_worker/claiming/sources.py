"""Where a claimer takes executions from: the queues, for the slots; the lanes, for their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django_ray_worker.claiming.lanes import Lanes
    from django_ray_worker.claiming.quotas import Quotas
    from django_ray_worker.core.claim import Batch, Claim, Turns
    from django_ray_worker.core.identity import Identity
    from django_ray_worker.database.store import Store

__all__ = ["LaneSource", "QueueSource", "Source"]

MOST_FROM_LANES = 1000  # Executions at a time.


class Source(Protocol):
    """One of them."""

    async def claim(self, room: int) -> Batch:
        """Take up to so many."""
        ...

    def is_short(self, batch: Batch, room: int) -> bool:
        """Tell whether a claim, whose executions have been started, has left nothing that could be taken now."""
        ...


class QueueSource:
    """Of one supervisor."""

    def __init__(
        self, work: Store, identity: Identity, quotas: Quotas, turns: Callable[[], Turns | None] = lambda: None
    ) -> None:
        self._store = work
        self._identity = identity
        self._quotas = quotas
        self._turns = turns
        self._place: str | None = None  # Where any queue is served, and there are very many: the one to go on after.
        self._gate_place: tuple[str | None, str | None] = (None, None)  # The one to go on after.
        self._is_gates_turn = True  # Of an odd number of slots, what waits behind gates gets one more every other time.

    async def claim(self, room: int) -> Batch:
        """Take up to so many."""
        share = (room + self._is_gates_turn) // 2
        if (turns := self._turns()) is not None:
            self._quotas.ask()
        batch = await self._store.claim(
            self._identity.worker, room, self._place, share=share, after_gate=self._gate_place, turns=turns
        )
        if turns is not None:
            self._quotas.note(turns, batch.claims)
        self._place = batch.place
        if batch.gates.is_used:
            self._gate_place, self._is_gates_turn = batch.gates.place, not self._is_gates_turn
        return batch

    def is_short(self, batch: Batch, room: int) -> bool:
        """Tell whether there were fewer."""
        # Where only some of very many queues were looked into, the others may hold more.
        is_partial = batch.place is not None and bool(batch.claims)
        return len(batch.claims) < room and not (is_partial or batch.gates.has_more)


class LaneSource:
    """Of one supervisor."""

    slots = 1  # There is always something to look for.
    room = MOST_FROM_LANES

    def __init__(self, work: Store, identity: Identity, lanes: Lanes, start: Callable[[Sequence[Claim]], None]) -> None:
        self._start = start
        self._store = work
        self._identity = identity
        self._lanes = lanes
        self._place: tuple[str | None, str | None] = (None, None)

    def start(self, claims: Sequence[Claim]) -> None:
        """Take over claims, in the order to start them."""
        self._start(claims)

    async def claim(self, room: int) -> Batch:
        """Take what lanes have room for."""
        batch = await self._store.claim_lanes(self._identity.worker, room, self._lanes.rooms, after=self._place)
        if batch.claims:
            self._place = batch.lanes.place
        return batch

    def is_short(self, batch: Batch, room: int) -> bool:  # noqa: ARG002 - the room is that of each lane
        """Tell whether none of them may have more than was taken, and room for it."""
        has_room = self._lanes.note(batch.lanes.more, is_all=not batch.lanes.is_cut)
        return not has_room and not (batch.lanes.is_cut and batch.claims)
