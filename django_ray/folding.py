"""The graph of a flow for people: executions that are alike become one stack, and lines between stacks are one line.

Alike are those of one task that wait for alike ones, are waited for by alike ones, and were enqueued by alike ones. So
thirty pages that are fetched, then read, then merged are three boxes. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from django_ray.layout import layers_of

__all__ = ["Graph", "Link", "Member", "Stack", "folded"]

_SIDE_BY_SIDE = 12  # Alike ones that are shown each.
_FEWER = 3  # The same where there would be more than _MANY boxes.
_MANY = 60
_ROUNDS = 8  # Of comparing. What is told apart later than that is not.


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An execution, as far as the graph shows it. One that is outside belongs to another flow, or to none."""

    id: str
    path: str
    state: str
    needs: str | None = None
    parent: str | None = None  # The one that has enqueued it.
    is_outside: bool = False


@dataclass(frozen=True)
class Stack:
    """One execution, or some that are alike."""

    members: Sequence[Member]

    @property
    def first(self) -> Member:
        """The one that was enqueued first."""
        return self.members[0]

    @cached_property
    def states(self) -> Mapping[str, int]:
        """How many are in which state."""
        return Counter(member.state for member in self.members)

    @property
    def is_one(self) -> bool:
        """Whether it is no stack."""
        return len(self.members) == 1


@dataclass(slots=True)
class Link:
    """What leads from one stack to another."""

    source: int
    target: int
    number: int = 0  # Edges; 0 is that the source has enqueued the target.
    met: int = 0  # Of these.


@dataclass(frozen=True, slots=True)
class Graph:
    """Stacks, in the order of the first of each, and links."""

    stacks: Sequence[Stack] = ()
    links: Sequence[Link] = field(default=())


def folded(members: Iterable[Member], edges: Iterable[tuple[str, str, bool]]) -> Graph:
    """Return the graph of executions and their edges: upstream, downstream, met. Edges to others are left out."""
    every = sorted(members, key=lambda member: member.id)
    places = {member.id: place for place, member in enumerate(every)}
    waits = [(places[up], places[down], met) for up, down, met in edges if up in places and down in places]
    families = [
        (places[member.parent], place)
        for place, member in enumerate(every)
        if member.parent is not None and member.parent in places
    ]
    kinds = _kinds(every, [(up, down) for up, down, _ in waits], families)
    sizes = Counter(kinds)
    most = _SIDE_BY_SIDE
    if sum(1 if size > most else size for size in sizes.values()) > _MANY:
        most = _FEWER
    stacks: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        stacks.setdefault(("stack", kind) if sizes[kind] > most else ("one", place), []).append(place)
    stack_of = {place: number for number, found in enumerate(stacks.values()) for place in found}
    return Graph(
        [Stack([every[place] for place in found]) for found in stacks.values()],
        _links(stack_of, waits, families, every),
    )


def _kinds(every: Sequence[Member], waits: Sequence[tuple[int, int]], families: Sequence[tuple[int, int]]) -> list[int]:
    """Return numbers that alike ones share: told apart by their neighbours, until nothing more is."""
    # The layer tells apart what depends on each other, so that no line leads from a stack to itself.
    layers = layers_of(len(every), [*waits, *families])
    kinds = _numbered(
        (member.path, member.needs, member.is_outside, layer) for member, layer in zip(every, layers, strict=True)
    )
    for _ in range(_ROUNDS):
        near: list[set[tuple[int, int]]] = [set() for _ in every]
        for offset, lines in ((0, waits), (2, families)):
            for source, target in lines:
                near[source].add((offset, kinds[target]))
                near[target].add((offset + 1, kinds[source]))
        finer = _numbered((kind, frozenset(around)) for kind, around in zip(kinds, near, strict=True))
        if max(finer, default=0) == max(kinds, default=0):
            break
        kinds = finer
    return kinds


def _numbered(keys: Iterable[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _links(
    stack_of: Mapping[int, int],
    waits: Sequence[tuple[int, int, bool]],
    families: Sequence[tuple[int, int]],
    every: Sequence[Member],
) -> list[Link]:
    links: dict[tuple[int, int], Link] = {}
    upstreams: dict[int, list[int]] = defaultdict(list)
    for up, down, met in waits:
        upstreams[down].append(up)
        pair = stack_of[up], stack_of[down]
        if pair[0] == pair[1]:
            continue  # of a circle, which only who writes SQL can make
        link = links.setdefault(pair, Link(*pair))
        link.number += 1
        link.met += met
    for parent, child in families:
        # What follows on a sibling is not led to from the parent as well: the line by way of that one says it.
        follows = any(up == parent or every[up].parent == every[child].parent for up in upstreams[child])
        pair = stack_of[parent], stack_of[child]
        if not follows and pair[0] != pair[1]:
            links.setdefault(pair, Link(*pair))
    return sorted(links.values(), key=lambda link: (link.source, link.target))
