"""What a body has overrun of which nothing is heard, and when it will have. Pure."""

from __future__ import annotations

import math

from django_ray.requirements import TaskOptions
from django_ray_worker.core.outcome import Stalled, TimedOut

__all__ = ["has_limits", "left", "overrun"]


def has_limits(options: TaskOptions) -> bool:
    """Tell whether there is anything to overrun."""
    return options.timeout is not None or options.stall_timeout is not None


def left(options: TaskOptions, ran: float = 0.0, quiet: float = 0.0) -> tuple[float, float]:
    """Return how many seconds are left of the timeout and of the stall_timeout; infinity where there is none.

    The body has been running for so long, and has given no sign of life for so long.
    """
    return (
        math.inf if options.timeout is None else options.timeout - ran,
        math.inf if options.stall_timeout is None else options.stall_timeout - quiet,
    )


def overrun(options: TaskOptions, ran: float, quiet: float) -> TimedOut | Stalled | None:
    """Return what becomes of that body; None while it is within its limits. The limit that came first counts."""
    of_time, of_silence = left(options, ran, quiet)
    if options.timeout is not None and of_time <= 0 and of_time <= of_silence:
        return TimedOut(options.timeout)
    if options.stall_timeout is not None and of_silence <= 0:
        return Stalled(options.stall_timeout)
    return None
