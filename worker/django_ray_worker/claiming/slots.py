"""Units of concurrency: a call holds one from its submission until its outcomes are known.

While the calls that run should end soon, one more for each of them waits behind it where calls run: between two calls
nothing has to come and go then. Which ones wait is known by their order: calls begin in the order of their submission.
"""

from __future__ import annotations

__all__ = ["Slots"]


class Slots[Holder]:
    """So many calls at a time, and so many that may wait behind them. A holder is whatever stands for a call."""

    def __init__(self, total: int, ahead: int = 0) -> None:
        self.total = total
        self._most_ahead = ahead
        self._running: dict[Holder, bool] = {}  # And whether it should end soon.
        self._ahead: dict[Holder, bool] = {}  # In the order of their submission.
        self.soon = 0  # How many of those that run should end soon.

    @property
    def taken(self) -> int:
        """How many calls run."""
        return len(self._running)

    @property
    def free(self) -> int:
        """How many more calls may run."""
        return self.total - len(self._running)

    @property
    def free_ahead(self) -> int:
        """How many more calls may wait behind those that run."""
        return max(0, min(self.soon, self._most_ahead) - len(self._ahead)) if self.free <= 0 else 0

    @property
    def ahead(self) -> tuple[Holder, ...]:
        """Those that wait."""
        return tuple(self._ahead)

    def resize(self, total: int, ahead: int) -> None:
        """Have so many. Calls that run beyond that go on, and their slots are not given out again."""
        self.total, self._most_ahead = total, ahead
        self._begin_next()

    def take(self, holder: Holder, *, soon: bool) -> None:
        """Hold one; soon is whether it should be free again soon."""
        if self.free > 0:
            self._run(holder, soon=soon)
        else:
            self._ahead[holder] = soon

    def release(self, holder: Holder) -> None:
        """Give it back."""
        if holder in self._ahead:
            del self._ahead[holder]
            return
        self.soon -= self._running.pop(holder)
        self._begin_next()

    def _begin_next(self) -> None:
        """Count as running what has waited, where calls run: it begins there by itself."""
        while self._ahead and self.free > 0:
            first = next(iter(self._ahead))
            self._run(first, soon=self._ahead.pop(first))

    def hold_up(self) -> None:
        """Take note that those that run take longer than they should: nothing is sent ahead of them."""
        self._running = dict.fromkeys(self._running, False)
        self.soon = 0

    def _run(self, holder: Holder, *, soon: bool) -> None:
        self._running[holder] = soon
        self.soon += soon
