"""Does something when a moment has come, unless what it was for has ended by then.

One thread for all that is guarded so, which sleeps through what ends in time: starting one for each costs as much as a
body.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

__all__ = ["Guard", "Watch"]

log = logging.getLogger("django_ray.watch")


class Guard:
    """What is to be done, and when."""

    __slots__ = ("act", "at")

    def __init__(self, seconds: float, act: Callable[[], object]) -> None:
        self.at = time.monotonic() + seconds
        self.act = act


class Watch:
    """A thread of that name. It outlives whatever the code that it calls raises."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._guards: set[Guard] = set()
        self._looks_at = math.inf  # When the thread looks again by itself.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def guard(self, seconds: float, act: Callable[[], object]) -> Guard:
        """Call act in so many seconds, in the thread; no sooner, and a little later while that is at another one."""
        guard = Guard(seconds, act)
        with self._changed:
            self._guards.add(guard)
            if guard.at < self._looks_at:
                self._changed.notify()
        return guard

    def release(self, guard: Guard) -> None:
        """Do not; it may be under way."""
        with self._changed:
            self._guards.discard(guard)

    def _run(self) -> None:
        while True:
            for guard in self._due():
                try:
                    guard.act()
                except BaseException:
                    log.exception("What %s had to do has failed.", self._name)

    def _due(self) -> list[Guard]:
        with self._changed:
            while True:
                now = time.monotonic()
                if due := [guard for guard in self._guards if guard.at <= now]:
                    self._guards.difference_update(due)
                    return due
                self._looks_at = min((guard.at for guard in self._guards), default=math.inf)
                self._changed.wait(None if self._looks_at == math.inf else self._looks_at - now)
