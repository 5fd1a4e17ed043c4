"""Wakes the main thread when the body that runs there has had its time.

One thread for all bodies, which sleeps through those that end in time: starting one for each costs as much as a body.
"""

from __future__ import annotations

import math
import signal
import threading
import time

__all__ = ["Alarm"]


class Alarm:
    """Sends the main thread a signal at a moment of time.monotonic(), unless another one is set by then."""

    def __init__(self, number: signal.Signals) -> None:
        self._signal = number
        self._at = math.inf  # Written by the main thread alone.
        self._looks_again = math.inf  # When the thread does; until then it hears of earlier moments only.
        self._is_earlier = threading.Event()
        threading.Thread(target=self._run, name="django-ray-alarm", daemon=True).start()

    def set(self, at: float) -> None:
        """Ring at that moment instead; infinity is never."""
        self._at = at
        if at < self._looks_again:
            self._is_earlier.set()

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None  # noqa: S101
        rung = math.inf
        while True:
            self._is_earlier.clear()
            self._looks_again = math.inf  # Before it is looked: who sets a moment after that sets the event.
            at = math.inf if self._at == rung else self._at
            self._looks_again = at
            if at > time.monotonic():
                self._is_earlier.wait(None if at == math.inf else min(at - time.monotonic(), threading.TIMEOUT_MAX))
            elif self._at == at:
                signal.pthread_kill(main, self._signal)
                rung = at
