"""What the signals mean: the first ends intake, the second interrupts the attempts.

SIGHUP can only be the first: a terminal that is closed sends several, and systemd may send one after its SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import CancelScope, create_task_group, sleep

from django_ray_worker.core.signals import ending

__all__ = ["Stop"]

log = logging.getLogger("django_ray.supervisor")

GUARD_SECONDS = 0.005


class Stop:
    """The two scopes that a stop cancels, in their order."""

    def __init__(self) -> None:
        self._signals = ending()
        self.intake = CancelScope()
        self.attempts = CancelScope()

    def watch(self) -> None:
        """Turn SIGTERM, SIGINT and SIGHUP into a stop.

        To be called again and again: Ray puts a handler of its own in front when it starts, which prints a stack and
        aborts the process three seconds later, and resets it when it ends.
        """
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._received, number)

    @asynccontextmanager
    async def guard(self) -> AsyncGenerator[None]:
        """Bracket what starts or ends Ray: in the middle of it, Ray takes the handlers or resets them."""
        async with create_task_group() as guard:

            async def keep() -> None:
                while True:
                    self.watch()
                    await sleep(GUARD_SECONDS)

            guard.start_soon(keep)
            try:
                yield
            finally:
                guard.cancel_scope.cancel()
                self.watch()

    def _received(self, number: signal.Signals) -> None:
        if not self.intake.cancel_called:
            log.info("%s: stopping.", number.name)
            self.intake.cancel()
        elif number != signal.SIGHUP:
            log.warning("%s again: interrupting what runs.", number.name)
            self.attempts.cancel()
