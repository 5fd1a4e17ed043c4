"""Wakes the main thread when the body that runs there has had its time, or has given no sign of life for too long.

One thread for all bodies, which sleeps through those that end in time: starting one for each costs as much as a body.
A sign of life does not wake it either: when the moment comes, it asks whether there is a later one now.
"""

from __future__ import annotations

import math
import signal
import threading

from django_ray.clock import seconds
from django_ray.runtime.limits import Limits

__all__ = ["Alarm"]


class Alarm:
    """Sends the main thread a signal when the limits that were set last are overrun."""

    def __init__(self, number: signal.Signals) -> None:
        self._signal = number
        self._limits: Limits | None = None  # Written by the main thread alone.
        self._looks_again = math.inf  # When the thread does; until then it hears of earlier moments only.
        self._is_earlier = threading.Event()
        threading.Thread(target=self._run, name="django-ray-alarm", daemon=True).start()

    def set(self, limits: Limits | None) -> None:
        """Watch these instead; None is never."""
        self._limits = limits
        if limits is not None and limits.due() < self._looks_again:
            self._is_earlier.set()

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None  # noqa: S101
        rung: Limits | None = None
        while True:
            self._is_earlier.clear()
            self._looks_again = math.inf  # Before it is looked: who sets limits after that sets the event.
            limits = self._limits
            if limits is rung:
                limits = None
            at = math.inf if limits is None else limits.due()
            self._looks_again = at
            if at > seconds():
                self._is_earlier.wait(None if at == math.inf else min(at - seconds(), threading.TIMEOUT_MAX))
            elif self._limits is limits:
                signal.pthread_kill(main, self._signal)
                rung = limits
