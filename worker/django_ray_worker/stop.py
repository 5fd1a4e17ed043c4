"""What the signals mean: the first ends intake, the second interrupts the attempts.

SIGHUP can only be the first: a terminal that is closed sends several, and systemd may send one after its SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from anyio import CancelScope, create_task_group, sleep

from django_ray_worker.core.signals import ending

__all__ = ["Stop"]

log = logging.getLogger("django_ray.supervisor")

GUARD_SECONDS = 0.001


class Stop:
    """The two scopes that a stop cancels, in their order."""

    def __init__(self) -> None:
        self._signals = ending()
        self._handlers: dict[signal.Signals, Any] = {}
        self.intake = CancelScope()
        self.attempts = CancelScope()

    def watch(self) -> None:
        """Turn SIGTERM, SIGINT and SIGHUP into a stop."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._received, number)
        self._handlers = {number: signal.getsignal(number) for number in self._signals}

    def _watch_again(self) -> None:
        """Have the handlers back.

        Ray puts one of its own in front when it starts, which prints a stack and aborts the process three seconds
        later, and resets it when it ends. Python does not know of it, so ours are simply set anew. To have the event
        loop do it costs a hundred times as much, which a start of Ray would feel.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)  # noqa: FBT003 - of the standard library

    @asynccontextmanager
    async def guard(self) -> AsyncGenerator[None]:
        """Bracket what starts or ends Ray: in the middle of it, Ray takes the handlers or resets them."""
        async with create_task_group() as guard:

            async def keep() -> None:
                while True:
                    self._watch_again()
                    await sleep(GUARD_SECONDS)

            guard.start_soon(keep)
            try:
                yield
            finally:
                guard.cancel_scope.cancel()
                self._watch_again()

    def _received(self, number: signal.Signals) -> None:
        if not self.intake.cancel_called:
            log.info("%s: stopping.", number.name)
            self.intake.cancel()
        elif number != signal.SIGHUP:
            log.warning("%s again: interrupting what runs.", number.name)
            self.attempts.cancel()
