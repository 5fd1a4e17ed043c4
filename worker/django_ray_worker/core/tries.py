"""After failures in a row: how long to wait before the next try, and which of them to log."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["LOCK_NEWS_SECONDS", "LockWait", "backoff", "is_news"]

LOCK_NEWS_SECONDS = 1.0  # Until it is said that somebody's lock is in the way.


def backoff(tries: int, chance: float | None = None) -> float:
    """Return seconds to wait after that many failures in a row: 0.05 doubling to 0.5, a random part of it.

    The first enqueue after an outage shall not wait for us; to be refused a connection twice a second costs nothing.
    """
    chance = random.random() if chance is None else chance  # noqa: S311 - spreads reconnects, guards nothing
    return min(0.5, 0.05 * 2.0 ** min(tries, 10)) * (0.5 + chance / 2)


def is_news(tries: int) -> bool:
    """Tell whether to log that many failures in a row: the first, second, fourth, eighth, ..."""
    return tries & (tries + 1) == 0


@dataclass(slots=True)
class LockWait:
    """Rows that somebody else has locked: nobody tells when they are free, so who waits looks after growing pauses."""

    since: float | None = None  # By the clock that go_on is told; None is that nothing is locked.
    looks: int = 0
    said: int = 0  # How many were locked when that was last said.

    def go_on(self, now: float) -> float:
        """Take note that they are locked still, at this moment; return the seconds until the next look."""
        self.since = now if self.since is None else self.since
        self.looks += 1
        return backoff(self.looks - 1)

    def hasten(self) -> None:
        """Take note that there are others, which may be free soon."""
        self.looks = 0

    def is_news(self, now: float, number: int = 1) -> bool:
        """Tell whether to say that so many are locked: after a second, and when they have become twice as many."""
        if self.since is None or now - self.since < LOCK_NEWS_SECONDS or number < 2 * self.said or number == self.said:
            return False
        self.said = number
        return True

    def end(self) -> None:
        """Take note that they are free."""
        self.since, self.looks, self.said = None, 0, 0
