"""Units of concurrency: a call holds one from its submission until its outcomes are known."""

from __future__ import annotations

__all__ = ["Slots"]


class Slots:
    """So many calls at a time."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self.soon = 0  # How many of them are taken by calls that should end soon.

    @property
    def free(self) -> int:
        """How many more calls may run."""
        return self.total - self.taken

    def take(self, *, soon: bool) -> None:
        """Hold one; soon is whether it should be free again soon."""
        self.taken += 1
        self.soon += soon

    def release(self, *, soon: bool) -> None:
        """Give one back, taken with the same word."""
        self.taken -= 1
        self.soon -= soon
