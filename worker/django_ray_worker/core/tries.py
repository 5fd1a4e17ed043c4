"""After failures in a row: how long to wait before the next try, and which of them to log."""

from __future__ import annotations

import random

__all__ = ["backoff", "is_news"]


def backoff(tries: int, chance: float | None = None) -> float:
    """Return seconds to wait after that many failures in a row: 0.05 doubling to 0.5, a random part of it.

    The first enqueue after an outage shall not wait for us; to be refused a connection twice a second costs nothing.
    """
    chance = random.random() if chance is None else chance  # noqa: S311 - spreads reconnects, guards nothing
    return min(0.5, 0.05 * 2.0 ** min(tries, 10)) * (0.5 + chance / 2)


def is_news(tries: int) -> bool:
    """Tell whether to log that many failures in a row: the first, second, fourth, eighth, ..."""
    return tries & (tries + 1) == 0
