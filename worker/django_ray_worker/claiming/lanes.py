"""Lanes: what does not run in a slot, which is a CPU, but in places of its own, such as those of a GPU or of a worker.

What is taken from a lane is what it has places for, and for bodies that take several, as many as fill these; so nothing
waits here for another lane, or for a CPU. A lone execution never waits for others, unless it is to: what comes while
all places are taken becomes the next batch, and one that is full is sent ahead, so that nothing idles in between.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

from anyio import current_time, sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from django_ray_worker.core.claim import Claim

__all__ = ["Lanes", "Places"]

log = logging.getLogger("django_ray.lanes")

MOST_REMEMBERED = 1000  # Lanes; of others it is not known how much room there is until something was taken from them.
MOST_CHARACTERS = 8_000_000  # That the claims of a batch carry: they travel together.
GROW_SECONDS = 1.0  # That a full batch waits before another process is asked for.
REST_SECONDS = 5.0  # Of a lane whose worker could not be built here: others may be able to.


class Places(Protocol):
    """Where calls run."""

    def places(self, claim: Claim) -> int:
        """Return how many calls like this may run at a time, as far as one knows now."""
        ...

    def grow(self, claim: Claim) -> None:
        """Have more places for calls like this, if there may be."""
        ...


class _Lane:
    def __init__(self, name: str, claim: Claim) -> None:
        self.name = name
        self.shown = claim  # For what all of them ask.
        self.waiting: deque[Claim] = deque()
        self.running: set[object] = set()
        self.has_more = False  # There may be more than there was room for.
        self.first_at = math.inf  # When the first of those that wait has come.
        self.crowded_at = math.inf  # Since when a full batch waits.
        self.rests_until = -math.inf
        self.looks_at = math.inf  # When it is looked at again.

    @property
    def batch(self) -> int:
        return self.shown.options.batch or 1

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self.running)


class Lanes:
    """Of one supervisor."""

    def __init__(
        self,
        places: Places,
        *,
        begin: Callable[[Sequence[Claim]], object],
        give_back: Callable[[Claim], None],
        on_room: Callable[[], None],
    ) -> None:
        self._places = places
        self._begin = begin  # Starts a call, and returns what stands for it.
        self._give_back = give_back
        self._on_room = on_room  # There is room in a lane that may have more.
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()
        self._lane_of: dict[object, _Lane] = {}  # By calls.
        self._waits: TaskGroup | None = None

    def open(self, waits: TaskGroup) -> None:
        """Take claims from now on; what only waits is cancelled with these tasks."""
        self._waits = waits

    @property
    def rooms(self) -> Mapping[str, int]:
        """How many more to take from each lane that is known."""
        return {lane.name: self._room(lane) for lane in self._lanes.values()}

    def has_room(self, names: Iterable[str]) -> bool:
        """Tell whether there is room in one of these."""
        return any(self._room(self._lanes[name]) > 0 for name in names if name in self._lanes)

    def note(self, names: Iterable[str]) -> None:
        """Take note of which lanes may have more than there was room for."""
        for lane in self._lanes.values():
            lane.has_more = False
        for name in names:
            if name in self._lanes:
                self._lanes[name].has_more = True

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What waits here."""
        return tuple(claim for lane in self._lanes.values() for claim in lane.waiting)

    @property
    def figures(self) -> Mapping[str, tuple[int, int]]:
        """How many calls run in each lane, and how many executions wait for one."""
        return {lane.name: (len(lane.running), len(lane.waiting)) for lane in self._lanes.values() if not lane.is_empty}

    def start(self, claims: Sequence[Claim]) -> None:
        """Run them, or have them wait for a place or for others."""
        touched = dict.fromkeys(self._put(claim) for claim in claims)
        for lane in touched:
            self._fill(lane)
        self._forget()

    def ended(self, call: object, *, is_unprepared: bool = False) -> None:
        """Take note that a call has ended; perhaps because its worker could not be built."""
        lane = self._lane_of.pop(call, None)
        if lane is None:
            return
        lane.running.discard(call)
        if is_unprepared:
            lane.rests_until = current_time() + REST_SECONDS
            self._later(REST_SECONDS, lane)
        self._fill(lane)
        self._tell(lane)

    def move(self) -> None:
        """Take note that there may be more places, or others."""
        for lane in list(self._lanes.values()):
            self._fill(lane)
            self._tell(lane)

    def remove(self, claim: Claim) -> None:
        """Forget a claim that waits."""
        lane = self._lanes[_name(claim)]
        lane.waiting.remove(claim)
        self._tell(lane)

    def clear(self) -> None:
        """Give back what waits."""
        for lane in self._lanes.values():
            while lane.waiting:
                self._give_back(lane.waiting.popleft())

    def _put(self, claim: Claim) -> _Lane:
        name = _name(claim)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(name, claim)
        self._lanes.move_to_end(name)
        lane.shown = claim
        if not lane.waiting:
            lane.first_at = current_time()
        lane.waiting.append(claim)
        return lane

    def _forget(self) -> None:
        """Forget the lanes from which nothing was taken for the longest."""
        for name, lane in list(self._lanes.items()):
            if len(self._lanes) <= MOST_REMEMBERED:
                return
            if lane.is_empty:
                del self._lanes[name]

    def _room(self, lane: _Lane) -> int:
        if current_time() < lane.rests_until:
            return 0
        # For bodies that take several one more batch for each place, which is sent ahead, or gathers.
        calls = self._places.places(lane.shown) * (1 if lane.shown.options.batch is None else 2)
        return max(0, (calls - len(lane.running)) * lane.batch - len(lane.waiting))

    def _fill(self, lane: _Lane) -> None:
        """Send what may be sent."""
        places = self._places.places(lane.shown)
        while lane.waiting:
            is_full = len(lane.waiting) >= lane.batch
            free = places - len(lane.running) + (places if is_full and lane.batch > 1 else 0)
            wait = lane.first_at + lane.shown.options.batch_wait - current_time()
            if free <= 0 or not (is_full or wait <= 0 or _is_alone(lane.waiting[0])):
                break
            call = self._begin(self._take(lane))
            lane.running.add(call)
            self._lane_of[call] = lane
            lane.first_at = current_time()
        self._mind(lane, places)

    def _mind(self, lane: _Lane, places: int) -> None:
        """Look again when something is due: a batch has waited long enough, or there should be more places."""
        wait = lane.first_at + lane.shown.options.batch_wait - current_time()
        if lane.waiting and len(lane.running) < places:
            self._later(max(0.0, wait), lane)
        if len(lane.waiting) < lane.batch or len(lane.running) < places:
            lane.crowded_at = math.inf
        elif lane.crowded_at == math.inf:
            lane.crowded_at = current_time()
            self._later(GROW_SECONDS, lane)
        elif current_time() - lane.crowded_at >= GROW_SECONDS:
            lane.crowded_at = math.inf
            self._places.grow(lane.shown)
            self._later(GROW_SECONDS, lane)

    def _later(self, seconds: float, lane: _Lane) -> None:
        at = current_time() + seconds
        if self._waits is None or at >= lane.looks_at:
            return
        lane.looks_at = at

        async def wait() -> None:
            await sleep(seconds)
            if lane.looks_at == at:  # and nobody looks earlier
                lane.looks_at = math.inf
                self._fill(lane)
                self._tell(lane)

        self._waits.start_soon(wait)

    @staticmethod
    def _take(lane: _Lane) -> list[Claim]:
        """Return the next batch: one that came back runs alone, it may be the one that ends its process."""
        first = lane.waiting.popleft()
        chosen, characters = [first], len(first.payload)
        while lane.waiting and len(chosen) < lane.batch and not _is_alone(first):
            following = lane.waiting[0]
            characters += len(following.payload)
            if characters > MOST_CHARACTERS or _is_alone(following) or following.options != first.options:
                break
            chosen.append(lane.waiting.popleft())
        return chosen

    def _tell(self, lane: _Lane) -> None:
        if lane.has_more and self._room(lane) > 0:
            self._on_room()


def _name(claim: Claim) -> str:
    return claim.lane or claim.callable_path


def _is_alone(claim: Claim) -> bool:
    return claim.released > 0 or bool(claim.unfit)
