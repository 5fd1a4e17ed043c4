"""Units of concurrency: an attempt holds one from its claim until its outcome is known."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Slots"]


class Slots:
    """So many executions at a time."""

    def __init__(self, total: int, *, on_free: Callable[[], None]) -> None:
        self.total = total
        self.taken = 0
        self._on_free = on_free

    @property
    def free(self) -> int:
        """How many more executions may be claimed."""
        return self.total - self.taken

    def take(self) -> None:
        """Hold one."""
        self.taken += 1

    def release(self) -> None:
        """Give one back."""
        self.taken -= 1
        self._on_free()
