"""What the signals mean: the first ends intake, the second interrupts the attempts."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from anyio import TASK_STATUS_IGNORED, CancelScope, open_signal_receiver

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

__all__ = ["Stop"]

log = logging.getLogger("django_ray.supervisor")


class Stop:
    """The two scopes that a stop cancels, in their order."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self.intake = CancelScope()
        self.attempts = CancelScope()

    async def on_signals(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Turn SIGTERM and SIGINT into a stop; started once the receiver is in place."""
        with open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for received in signals:
                if not self.intake.cancel_called:
                    log.info("%s: stopping; running tasks have %g s.", signal.Signals(received).name, self._grace)
                    self.intake.cancel()
                else:
                    log.warning("%s again: interrupting what runs.", signal.Signals(received).name)
                    self.attempts.cancel()
