"""The seconds that pass while somebody waits: also in a test that has frozen Python's clocks, as freezegun does."""

from __future__ import annotations

import time

__all__ = ["seconds"]


def seconds() -> float:
    """Return the seconds since some moment, by a clock that is never set."""
    if hasattr(time, "clock_gettime"):
        return time.clock_gettime(time.CLOCK_MONOTONIC)  # freezegun stops time.monotonic(), and leaves this alone
    return time.monotonic()
