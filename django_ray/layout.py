"""Where the boxes and the lines of a graph stand: layers from left to right, few crossings, no box over another.

The same graph is always drawn in the same way. Any lines are taken, circles and all: rows may say anything. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import pairwise

__all__ = ["HEIGHT", "WIDTH", "Drawing", "arranged", "layers_of"]

WIDTH, HEIGHT = 200, 54  # Of a box.
_COLUMN = WIDTH + 60  # From one layer to the next.
_BETWEEN, _BESIDE = 16.0, 12.0  # Between two boxes of a layer, and beside a line that passes.
_MARGIN = 12.0
_SWEEPS = 8
MOST_BENDS = 2000  # More would take too long: then lines go straight, below the boxes.

type Line = tuple[int, int]  # From a box, to a box: their numbers.


@dataclass(frozen=True, slots=True)
class Drawing:
    """The upper left corners of the boxes, and the paths of the lines as SVG has them, in the order of both."""

    boxes: Sequence[tuple[float, float]]
    paths: Sequence[str]
    width: float
    height: float


def layers_of(number: int, lines: Iterable[Line]) -> list[int]:
    """Return the layer of each box: how many lines the longest way to it has.

    In a circle some line leads back: to the box of it that comes first.
    """
    after: list[list[int]] = [[] for _ in range(number)]
    left = [0] * number
    for source, target in set(lines):
        if source != target:
            after[source].append(target)
            left[target] += 1
    layers, done = [0] * number, [False] * number
    free = [box for box in range(number) if not left[box]]
    heapify(free)
    first = 0
    while True:
        while free:
            box = heappop(free)
            if done[box]:
                continue
            done[box] = True
            for target in after[box]:
                if done[target]:
                    continue
                layers[target] = max(layers[target], layers[box] + 1)
                left[target] -= 1
                if not left[target]:
                    heappush(free, target)
        while first < number and done[first]:
            first += 1
        if first == number:
            return layers
        free = [first]  # all that is left stands in circles, or behind them


def arranged(number: int, lines: Sequence[Line]) -> Drawing:
    """Return how so many boxes with these lines are drawn."""
    grid = _Grid(number, lines)
    grid.order()
    grid.place()
    return grid.drawing()


@dataclass(slots=True)
class _Item:
    """A box, or the place where a line passes through a layer."""

    layer: int
    is_box: bool
    before: list[int] = field(default_factory=list[int])
    after: list[int] = field(default_factory=list[int])
    middle: float = 0.0  # From above.

    @property
    def height(self) -> float:
        return HEIGHT if self.is_box else 0.0


class _Grid:
    def __init__(self, number: int, lines: Sequence[Line]) -> None:
        self._lines = lines
        layers = layers_of(number, lines)
        self._items = [_Item(layer, is_box=True) for layer in layers]
        forth = sorted({line for line in lines if layers[line[0]] < layers[line[1]]})
        # Lines from one box share their bends: they part as late as they can.
        farthest: dict[int, int] = {}
        for source, target in forth:
            farthest[source] = max(farthest.get(source, 0), layers[target])
        bends = sum(max(0, layer - layers[source] - 1) for source, layer in farthest.items())
        self._bends: dict[int, list[int]] = {source: [] for source in farthest}
        if bends <= MOST_BENDS:
            for source, layer in farthest.items():
                self._add_bends(source, layer)
        for source, target in forth:
            between = self._bends[source][: layers[target] - layers[source] - 1]
            self._join(between[-1] if between else source, target)
        self._columns: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
        for place, item in enumerate(self._items):
            self._columns[item.layer].append(place)

    def _add_bends(self, source: int, layer: int) -> None:
        last = source
        for between in range(self._items[source].layer + 1, layer):
            self._items.append(_Item(between, is_box=False))
            place = len(self._items) - 1
            self._bends[source].append(place)
            self._join(last, place)
            last = place

    def _join(self, source: int, target: int) -> None:
        self._items[source].after.append(target)
        self._items[target].before.append(source)

    # -- in which order the items of a layer stand

    def order(self) -> None:
        """Sort each layer by where its neighbours stand, to and fro, and keep what had the fewest crossings."""
        best, fewest = [list(column) for column in self._columns], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            self._sweep(is_back=bool(sweep % 2))
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(column) for column in self._columns], crossings
        self._columns = best

    def _sweep(self, *, is_back: bool) -> None:
        for column in reversed(self._columns) if is_back else self._columns:
            ranks = self._ranks()
            own = {place: float(rank) for rank, place in enumerate(column)}

            def weight(place: int, ranks: dict[int, int] = ranks, own: dict[int, float] = own) -> float:
                item = self._items[place]
                near = item.after if is_back else item.before
                return sum(ranks[one] for one in near) / len(near) if near else own[place]

            column.sort(key=weight)

    def _ranks(self) -> dict[int, int]:
        return {place: rank for column in self._columns for rank, place in enumerate(column)}

    def _crossings(self) -> int:
        """Count pairs of lines between two layers that cross: inversions, by a tree of sums."""
        ranks, number = self._ranks(), 0
        for column in self._columns:
            ends = [ranks[end] for place in column for end in sorted(self._items[place].after, key=ranks.__getitem__)]
            sums = [0] * (max(ends, default=0) + 2)
            for seen, end in enumerate(ends):
                at, before = end + 1, 0
                while at:
                    before += sums[at]
                    at &= at - 1
                number += seen - before
                at = end + 1
                while at < len(sums):
                    sums[at] += 1
                    at += at & -at
        return number

    # -- how far down they stand

    def place(self) -> None:
        """Put each item at the middle of its neighbours, as near as those of its layer allow."""
        for column in self._columns:
            below = 0.0
            for above, place in zip([None, *column], column, strict=False):
                below += 0.0 if above is None else self._distance(above, place)
                self._items[place].middle = below
            for place in column:
                self._items[place].middle -= below / 2
        for sweep in range(_SWEEPS):
            for column in reversed(self._columns) if sweep % 2 else self._columns:
                wished = [self._wish(place) for place in column]
                distances = [self._distance(one, other) for one, other in pairwise(column)]
                for place, middle in zip(column, _spaced(wished, distances), strict=True):
                    self._items[place].middle = middle

    def _wish(self, place: int) -> float:
        item = self._items[place]
        near = [self._items[one].middle for one in (*item.before, *item.after)]
        return sum(near) / len(near) if near else item.middle

    def _distance(self, one: int, other: int) -> float:
        above, below = self._items[one], self._items[other]
        between = _BETWEEN if above.is_box and below.is_box else _BESIDE
        return (above.height + below.height) / 2 + between

    # -- and what is drawn

    def drawing(self) -> Drawing:
        """Return it, moved to the corner."""
        top = min((item.middle - item.height / 2 for item in self._items), default=0.0) - _MARGIN
        for item in self._items:
            item.middle = round(item.middle - top, 1)
        boxes = [
            (_MARGIN + item.layer * _COLUMN, round(item.middle - HEIGHT / 2, 1)) for item in self._items if item.is_box
        ]
        bottom = max((item.middle + item.height / 2 for item in self._items), default=0.0)
        return Drawing(
            boxes=boxes,
            paths=[self._path(source, target) for source, target in self._lines],
            width=2 * _MARGIN + max(0, len(self._columns) - 1) * _COLUMN + (WIDTH if boxes else 0),
            height=round(bottom + _MARGIN, 1),
        )

    def _path(self, source: int, target: int) -> str:
        start, end = self._items[source], self._items[target]
        x, y = _MARGIN + start.layer * _COLUMN + WIDTH, start.middle
        parts = [f"M{x:g} {y:g}"]
        for place in self._bends.get(source, [])[: max(0, end.layer - start.layer - 1)]:
            bend = self._items[place]
            to = _MARGIN + bend.layer * _COLUMN
            parts.append(_curve(x, y, to, bend.middle))
            x, y = to + WIDTH, bend.middle
            parts.append(f"H{x:g}")
        parts.append(_curve(x, y, _MARGIN + end.layer * _COLUMN, end.middle))
        return "".join(parts)


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    reach = max(30.0, (to_x - x) / 2)
    return f"C{x + reach:g} {y:g} {to_x - reach:g} {to_y:g} {to_x:g} {to_y:g}"


def _spaced(wished: Sequence[float], distances: Sequence[float]) -> list[float]:
    """Return the places nearest to those wished (by squares) that are in order and as far apart as they must be."""
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    blocks: list[tuple[float, int]] = []  # The mean of some neighbours that touch, and how many these are.
    for wish, offset in zip(wished, offsets, strict=False):
        mean, size = wish - offset, 1
        while blocks and blocks[-1][0] >= mean:
            other, many = blocks.pop()
            mean, size = (mean * size + other * many) / (size + many), size + many
        blocks.append((mean, size))
    starts = [mean for mean, size in blocks for _ in range(size)]
    return [start + offset for start, offset in zip(starts, offsets, strict=False)]
