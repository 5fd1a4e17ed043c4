"""Claims that wait for a slot, and how they share calls.

A claim costs a round trip, so that short executions are claimed some way ahead: as many as will run soon. What has to
wait all the same, because a slot is taken by something long, goes back to the queue, where another supervisor finds it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anyio import Event, move_on_after

from django_ray.runtime.call import BUDGET_SECONDS, PATIENCE_SECONDS
from django_ray_worker.claiming.quotas import Quotas

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from django_ray_worker.claiming.pace import Pace
    from django_ray_worker.claiming.slots import Slots
    from django_ray_worker.core.claim import Claim, Turns

__all__ = ["Backlog"]

# Calls to have claims for, per slot: one that may start, one that waits, and one for the error of the estimate.
AHEAD = 3
PLANNED_SECONDS = 0.8 * BUDGET_SECONDS  # Of a call: its bodies may take longer than expected, and still all be run.
MOST_CHARACTERS = 1_000_000  # That the claims of one call carry: they travel together, and are kept until it has ended.
SOON_SECONDS = 0.75 * PATIENCE_SECONDS
MOST_PER_CALL_AHEAD = 10  # Bodies of 3 ms and more: the gap of 6 ms between two calls is a part of these that counts.
# A call of several stops whoever runs at its timeout: it must be far longer than what came before in the call.
SHORTEST_SHARED_TIMEOUT = 1.0


class Backlog:
    """Of one supervisor."""

    def __init__(
        self,
        slots: Slots[Any],
        pace: Pace,
        *,
        most_per_call: int,
        give_back: Callable[[Claim], None],
        on_held_up: Callable[[], object] = bool,
        quotas: Quotas | None = None,
    ) -> None:
        self._slots = slots
        self._pace = pace
        self._most = most_per_call
        self._give_back = give_back
        self._on_held_up = on_held_up  # Nothing has moved for a while.
        self._quotas = quotas or Quotas()
        self._claims: deque[Claim] = deque()
        self._per_call = 1  # Of those claimed last, so many would fit.
        self._trust = most_per_call  # In what fits: after a return to the queue it grows again, call by call.
        self._filled = Event()
        self._moved = Event()

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def is_ready(self) -> bool:
        """Tell whether a call may be sent now."""
        if not self._claims or (first := self._first) is None:
            return False
        return self._slots.free > 0 or (self._free_ahead > 0 and _takes_a_cpu(self._claims[first]))

    @property
    def _first(self) -> int | None:
        """The place of the claim that is the next to run: the first whose queue may have another call."""
        if not self._quotas:
            return 0
        may_run = self._quotas.has_place
        return next((place for place, claim in enumerate(self._claims) if may_run(claim.queue_name)), None)

    @property
    def _free_ahead(self) -> int:
        """How many calls may wait behind those that run; where one carries many, only with enough for a whole one."""
        is_worth_it = self._per_call <= MOST_PER_CALL_AHEAD or len(self._claims) >= self._per_call
        return self._slots.free_ahead if is_worth_it else 0

    def room(self) -> int:
        """Return how many more to claim; 0 for not yet."""
        # Ahead for the slots that will be free soon; what waits for a long body would only be given back.
        ahead = self._slots.soon * self._per_call if self._most > 1 else 0
        room = (self._slots.free + self._free_ahead) * self._per_call + ahead - len(self._claims)
        # Not a few at a time: each claim is a statement.
        return room if room > 0 and 2 * room >= ahead else 0

    def turns(self) -> Turns | None:
        """Return what may be claimed of each queue; None where none has a quota."""
        return self._quotas.turns(self._claims, self._per_call)

    def put(self, claims: Sequence[Claim]) -> None:
        """Take over what was claimed."""
        if not claims:
            return
        expected = sum(map(self._pace.of, claims)) / len(claims)
        self._per_call = max(1, min(self._trust, int(PLANNED_SECONDS / expected)))
        self._claims.extend(claims)
        self._give_back_beyond_quotas()
        # They are longer than those before: what will not run soon is for whoever can run it.
        most = max(self._slots.free, AHEAD * self._slots.total * self._per_call)
        while len(self._claims) > most:
            self._give_back(self._claims.pop())
        self._filled.set()

    def _give_back_beyond_quotas(self) -> None:
        """Give back what no call of its queue could carry soon: the newest."""
        if turns := self.turns():
            for queue, room in turns.rooms.items():
                held = [claim for claim in self._claims if claim.queue_name == queue]
                most = room + len(held) if room else (self._quotas.left(queue) or 0) * self._per_call
                for claim in held[max(0, most) :]:
                    self._claims.remove(claim)
                    self._give_back(claim)

    def _share(self, first: Claim) -> int:
        """Return how many claims the next call gets, which begins with this one: spread over the calls that may be."""
        places, waiting = self._slots.free + self._free_ahead, len(self._claims)
        if (left := self._quotas.left(first.queue_name)) is not None:
            places = min(places, left)
            waiting = sum(claim.queue_name == first.queue_name for claim in self._claims)
        return min(self._most, math.ceil(waiting / max(1, places)))

    def take(self) -> list[Claim]:
        """Return the next claims for one call, when a slot is free: what fits, spread over the free slots."""
        place = self._first or 0
        first = self._claims[place]
        share = self._share(first)
        del self._claims[place]
        chosen, seconds, characters = [first], self._pace.of(first), len(first.payload)
        while place < len(self._claims) and len(chosen) < share:
            other = self._claims[place]
            if self._quotas and not self._quotas.are_shared(first.queue_name, other.queue_name):
                place += 1  # the queues come in turn, and each has calls of its own
                continue
            seconds += self._pace.of(other)
            characters += len(other.payload)
            if seconds > PLANNED_SECONDS or characters > MOST_CHARACTERS or not _fits(first, other):
                break
            chosen.append(other)
            del self._claims[place]
        self._trust = min(self._most, 2 * self._trust)
        return chosen

    def is_short(self, claims: Sequence[Claim]) -> bool:
        """Tell whether a call of these should end soon; of a task that was never seen nobody knows."""
        return all(map(self._pace.knows, claims)) and sum(map(self._pace.of, claims)) < SOON_SECONDS

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What waits."""
        return tuple(self._claims)

    @property
    def ids(self) -> frozenset[UUID]:
        """The executions that wait."""
        return frozenset(claim.task_id for claim in self._claims)

    def remove(self, claim: Claim) -> None:
        """Forget a claim."""
        self._claims.remove(claim)
        self._quotas.withdraw(claim)

    def clear(self) -> None:
        """Give everything back."""
        self._per_call = self._trust = 1
        while self._claims:
            self._give_back(self._claims.popleft())

    def move(self) -> None:
        """Take note that a call was sent, or has ended."""
        self._moved.set()
        self._filled.set()

    async def watch(self) -> None:
        """Give back what waits while nothing moves, here or behind the calls that run."""
        while True:
            await self._filled.wait()
            self._filled = Event()
            while self._claims or self._slots.ahead:
                self._moved = Event()
                with move_on_after(PATIENCE_SECONDS):
                    await self._moved.wait()
                    continue
                self.clear()
                self._slots.hold_up()
                self._on_held_up()
                break


def _takes_a_cpu(claim: Claim) -> bool:
    """Tell whether it waits where all CPUs are taken: others would run at once, more at a time than there are slots."""
    cpus: float = claim.options.ray.get("num_cpus", 1)
    return cpus >= 1


def _fits(first: Claim, other: Claim) -> bool:
    """Tell whether both may run in one call: a fresh process is for one, and a timeout for all or none."""
    timeouts = first.options.timeout, first.options.stall_timeout
    return (
        first.options.ray == other.options.ray
        and timeouts == (other.options.timeout, other.options.stall_timeout)
        and all(timeout is None or timeout >= SHORTEST_SHARED_TIMEOUT for timeout in timeouts)
        and not first.options.ray.get("max_calls")
        and not (first.unfit or other.unfit)
    )
