"""Charts of what a queue did, as shapes to be drawn: bars with a scale beside them and a time axis below. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["HEIGHT", "WIDTH", "Bar", "Chart", "Series", "chart"]

WIDTH, HEIGHT = 840, 180  # Of the bars, in units of the drawing.


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Numbers of one kind, one for each step."""

    kind: str  # The class of its bars.
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A rectangle."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line across, or a mark below, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """All of it."""

    bars: Sequence[Bar]
    scale: Sequence[Tick]
    axis: Sequence[Tick]
    width: int = WIDTH
    height: int = HEIGHT


def chart(series: Sequence[Series], labels: Sequence[str], *, written: Callable[[float], str], every: int) -> Chart:
    """Return the bars of each step, those of the first series at the bottom.

    labels says when each step is, and every how many of them one stands below; written is how a number is written.
    """
    highest = _round_above(
        max((sum(values) for values in zip(*(one.values for one in series), strict=True)), default=0)
    )
    room = WIDTH / max(1, len(labels))
    bars: list[Bar] = []
    for step, label in enumerate(labels):
        y: float = HEIGHT
        for one in series:
            if (value := one.values[step]) > 0:
                height = max(1.0, HEIGHT * value / highest)
                y -= height
                bars.append(
                    Bar(
                        kind=one.kind,
                        x=round(step * room, 2),
                        y=round(max(0.0, y), 2),
                        width=round(max(0.5, room - 1), 2),
                        height=round(height, 2),
                        title=f"{label}: {written(value)}",
                    )
                )
    return Chart(
        bars=bars,
        scale=[Tick(at=round(HEIGHT * (1 - part), 2), text=written(highest * part)) for part in (0.0, 0.5, 1.0)],
        axis=[Tick(at=round(step * room, 2), text=label) for step, label in enumerate(labels) if step % every == 0],
    )


def _round_above(value: float) -> float:
    """Return the next number from here on that is easy to read: 1, 2, 5, 10, 20, 50 ..."""
    if value <= 0:
        return 1
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value)
