"""Lanes: what does not run in a slot, which is a CPU, but in places of its own, such as those of a GPU or of a worker.

What is taken from a lane is what it has places for, and for bodies that take several, as many as fill these; so nothing
waits here for another lane, or for a CPU. A lone execution never waits for others, unless it is to: what comes while
all places are taken becomes the next batch, and one that is full is sent ahead, so that nothing idles in between.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

from anyio import current_time, sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from django_ray_worker.core.claim import Claim

__all__ = ["Lanes", "Places"]

MOST_REMEMBERED = 1000  # Tasks; of others it is not known how much room there is until something was taken.
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
    """What waits here of one lane."""

    def __init__(self) -> None:
        self.waiting: deque[Claim] = deque()
        self.first_at = math.inf  # When the first of them has come.

    @property
    def batch(self) -> int:
        """How many may share a call."""
        return self.waiting[0].options.batch or 1

    @property
    def is_full(self) -> bool:
        """Tell whether they are enough for a call."""
        return len(self.waiting) >= self.batch

    @property
    def due_at(self) -> float:
        """When they have waited for others long enough: one that runs alone anyway does not."""
        if self.is_full or _is_alone(self.waiting[0]):
            return -math.inf
        return self.first_at + self.waiting[0].options.batch_wait


class _Group:
    """Lanes whose calls run in the same places: those of one worker, or of what asks Ray for the same."""

    def __init__(self, claim: Claim) -> None:
        self.shown = claim  # For what all of them ask.
        self.running: set[object] = set()
        self.lanes: OrderedDict[str, _Lane] = OrderedDict()  # Those of which something waits here.
        self.families: set[str] = set()
        self.has_more = False  # There may be more than there was room for.
        self.crowded_at = math.inf  # Since when a full batch waits.
        self.rests_until = -math.inf
        self.looks_at = math.inf  # When it is looked at again.


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
        # By the part of a lane's name before a colon, which is that of a task: its group, and how many share a call.
        self._families: OrderedDict[str, tuple[_Group, int]] = OrderedDict()
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[object, _Group] = {}  # By calls.
        self._waits: TaskGroup | None = None

    def open(self, waits: TaskGroup) -> None:
        """Take claims from now on; what only waits is cancelled with these tasks."""
        self._waits = waits

    def close(self) -> None:
        """Look at nothing again by itself: the tasks that wait have ended."""
        self._waits = None

    @property
    def rooms(self) -> Mapping[str, tuple[int, int]]:
        """For how many more calls there is room, by families that are known, and how many share one there."""
        return {name: (self._room(group), batch) for name, (group, batch) in self._families.items()}

    def note(self, families: Iterable[str], *, is_all: bool) -> bool:
        """Take note of which may have more than there was room for; tell whether there is room for it now."""
        if is_all:
            for group in self._groups.values():
                group.has_more = False
        found = [self._families[family][0] for family in families if family in self._families]
        for group in found:
            group.has_more = True
        return any(self._room(group) > 0 for group in found)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What waits here."""
        return tuple(
            claim for group in self._groups.values() for lane in group.lanes.values() for claim in lane.waiting
        )

    @property
    def calls(self) -> int:
        """How many run."""
        return len(self._group_of)

    def start(self, claims: Sequence[Claim]) -> None:
        """Run them, or have them wait for a place or for others."""
        for group in {id(group): group for group in map(self._put, claims)}.values():
            self._fill(group)
        self._forget()

    def ended(self, call: object, *, is_unprepared: bool = False) -> None:
        """Take note that a call has ended; perhaps because its worker could not be built."""
        group = self._group_of.pop(call, None)
        if group is None:
            return
        group.running.discard(call)
        if is_unprepared:
            group.rests_until = current_time() + REST_SECONDS
        self._fill(group)

    def move(self) -> None:
        """Take note that there may be more places, or others."""
        for group in self._groups.values():
            self._fill(group)

    def remove(self, claim: Claim) -> None:
        """Forget a claim that waits; move() afterwards sends those that it has held up."""
        group, name = self._groups[_key(claim)], _name(claim)
        group.lanes[name].waiting.remove(claim)
        if not group.lanes[name].waiting:
            del group.lanes[name]

    def clear(self) -> None:
        """Give back what waits."""
        for group in self._groups.values():
            while group.lanes:
                _, lane = group.lanes.popitem()
                for claim in lane.waiting:
                    self._give_back(claim)

    def _put(self, claim: Claim) -> _Group:
        key, name = _key(claim), _name(claim)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(claim)
        group.shown = claim
        family = name.partition(":")[0]
        self._families[family] = group, claim.options.batch or 1
        self._families.move_to_end(family)
        group.families.add(family)
        lane = group.lanes.setdefault(name, _Lane())
        if not lane.waiting:
            lane.first_at = current_time()
        lane.waiting.append(claim)
        return group

    def _forget(self) -> None:
        """Forget the tasks of which nothing was taken for the longest."""
        while len(self._families) > MOST_REMEMBERED:
            family, (group, _) = self._families.popitem(last=False)
            group.families.discard(family)
        for key, group in list(self._groups.items()):
            if not (group.families or group.running or group.lanes):
                del self._groups[key]

    def _room(self, group: _Group) -> int:
        if current_time() < group.rests_until:
            return 0
        places, options = self._places.places(group.shown), group.shown.options
        if options.batch is not None:
            calls = 2 * places  # One more for each place is sent ahead, or gathers.
        elif options.worker is not None and places < options.replicas[1]:
            calls = places + 1  # That one waits shows that there should be another process.
        else:
            calls = places
        gathering = sum(math.ceil(len(lane.waiting) / lane.batch) for lane in group.lanes.values())
        return max(0, calls - len(group.running) - gathering)

    def _fill(self, group: _Group) -> None:
        """Send what may be sent, of each lane in turn."""
        now, places = current_time(), self._places.places(group.shown)
        for name in [*group.lanes]:
            lane = group.lanes[name]
            while lane.waiting and lane.due_at <= now:
                ahead = places if lane.is_full and lane.batch > 1 else 0
                if places + ahead <= len(group.running):
                    break
                call = self._begin(_take(lane))
                group.running.add(call)
                self._group_of[call] = group
                lane.first_at = now
                group.lanes.move_to_end(name)
            if not lane.waiting:
                del group.lanes[name]
        self._mind(group, places)
        if now < group.rests_until:
            self._look_at(group.rests_until, group)  # again, if somebody has looked at it in between
        if group.has_more and self._room(group) > 0:
            self._on_room()

    def _mind(self, group: _Group, places: int) -> None:
        """Look again when something is due: a batch has waited long enough, or there should be more places."""
        now = current_time()
        if len(group.running) < places:
            if due := [lane.due_at for lane in group.lanes.values()]:
                self._look_at(min(due), group)
        elif any(lane.is_full for lane in group.lanes.values()):
            if group.crowded_at == math.inf:
                group.crowded_at = now
            elif now - group.crowded_at >= GROW_SECONDS:
                group.crowded_at = now
                self._places.grow(group.shown)
            self._look_at(group.crowded_at + GROW_SECONDS, group)
            return
        group.crowded_at = math.inf

    def _look_at(self, moment: float, group: _Group) -> None:
        if self._waits is None or moment >= group.looks_at:
            return
        group.looks_at = moment

        async def wait() -> None:
            await sleep(max(0.0, moment - current_time()))
            if group.looks_at == moment:  # and nobody looks earlier
                group.looks_at = math.inf
                self._fill(group)

        self._waits.start_soon(wait)


def _take(lane: _Lane) -> list[Claim]:
    """Return the next call's: one that came back runs alone, it may be the one that ends its process."""
    most, first = lane.batch, lane.waiting.popleft()
    chosen, characters = [first], len(first.payload)
    while lane.waiting and len(chosen) < most and not _is_alone(first):
        following = lane.waiting[0]
        characters += len(following.payload)
        if characters > MOST_CHARACTERS or _is_alone(following) or following.options != first.options:
            break
        chosen.append(lane.waiting.popleft())
    return chosen


def _name(claim: Claim) -> str:
    return claim.lane or claim.callable_path


def _key(claim: Claim) -> str:
    options = claim.options
    return json.dumps([options.worker, options.batch is None, options.ray], sort_keys=True)


def _is_alone(claim: Claim) -> bool:
    return claim.released > 0 or bool(claim.unfit)
