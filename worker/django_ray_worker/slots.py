"""Units of concurrency: a call holds one from its submission until its outcomes are known."""

from __future__ import annotations

__all__ = ["Slots"]


class Slots:
    """So many calls at a time."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    @property
    def free(self) -> int:
        """How many more calls may run."""
        return self.total - self.taken

    def take(self) -> None:
        """Hold one."""
        self.taken += 1

    def release(self) -> None:
        """Give one back."""
        self.taken -= 1
