"""What the signals mean: the first ends intake, the second interrupts the attempts."""

from __future__ import annotations

import asyncio
import logging
import signal

from anyio import CancelScope

__all__ = ["Stop"]

log = logging.getLogger("django_ray.supervisor")


class Stop:
    """The two scopes that a stop cancels, in their order."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self.intake = CancelScope()
        self.attempts = CancelScope()

    def watch(self) -> None:
        """Turn SIGTERM and SIGINT into a stop.

        To be called again after Ray has started: it puts a handler of its own in front, which prints a stack and
        aborts the process three seconds later.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        if not self.intake.cancel_called:
            log.info("%s: stopping; running tasks have %g s.", number.name, self._grace)
            self.intake.cancel()
        else:
            log.warning("%s again: interrupting what runs.", number.name)
            self.attempts.cancel()
