"""Who a supervisor is: the id that it claims with, and those that it had before its row was taken from it."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["Identity"]


class Identity:
    """The names of one supervisor. What was claimed under a former one still names that one, and is its to record."""

    def __init__(self, worker: int) -> None:
        self._names: tuple[int, ...] = (worker,)

    @property
    def worker(self) -> int:
        """The id of our row."""
        return self._names[0]

    @property
    def names(self) -> tuple[int, ...]:
        """All ids that are ours, the newest first."""
        return self._names

    def become(self, worker: int) -> None:
        """Go by this id from now on."""
        self._names = tuple(dict.fromkeys((worker, *self._names)))

    def keep(self, names: Container[int]) -> None:
        """Give up the former ids that are not among these: they are somebody else's."""
        self._names = (self.worker, *(name for name in self._names[1:] if name in names))
