"""How long a body may run, and how long without a sign of life. Which of both it has overrun is decided here, once.

The main thread begins and ends it, any thread of the body gives the signs, and one that watches asks when it is due. A
sign costs a look at a clock; nobody is woken for it. Who watches looks again when the last one that it knew is too old.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from django_ray.clock import seconds
from django_ray.runtime import mark

__all__ = ["Limits", "Overrun"]


class Overrun(NamedTuple):
    """What a body has overrun."""

    seconds: float  # The limit.
    has_stalled: bool  # It is the one without a sign of life, not the whole time.


class Limits:
    """Of one body; None is no limit."""

    __slots__ = ("_counts", "_ends", "_last", "_stall_timeout", "_timeout", "overrun")

    def __init__(self, timeout: float | None, stall_timeout: float | None) -> None:
        self._timeout = math.inf if timeout is None else timeout
        self._stall_timeout = math.inf if stall_timeout is None else stall_timeout
        self._ends = math.inf  # By the clock of the waiters: a body may freeze the other one.
        self._last = math.inf  # Sign of life.
        self._counts = False  # Whether a sign does.
        self.overrun: Overrun | None = None

    @property
    def wants_signs(self) -> bool:
        """Tell whether signs of life matter."""
        return self._stall_timeout < math.inf

    def begin(self) -> None:
        """Count from now on."""
        now = seconds()
        self._ends, self._last, self._counts = now + self._timeout, now, True

    def note(self) -> None:
        """Note a sign of life, from any thread; after the end, or once it is overrun, it counts no more."""
        if self._counts:
            self._last = now = seconds()
            mark.alive(now)

    def due(self) -> float:
        """Return when it is overrun unless a sign comes before. Once that moment is past, it is overrun for good."""
        stalls = self._last + self._stall_timeout
        at = min(self._ends, stalls)
        if at <= seconds() and self._counts:
            self._counts = False
            has_stalled = stalls < self._ends
            self.overrun = Overrun(self._stall_timeout if has_stalled else self._timeout, has_stalled)
        return at

    def end(self) -> None:
        """Say that the body has ended."""
        self._counts = False
