"""The signal handlers of a process that runs bodies: each body finds them as they were, and those that it leaves go.

Also the wake-up descriptor, timers and the signals that are blocked. Processes that a body forks get none of ours.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from importlib import import_module
from typing import Any

from django_ray.runtime.mark import DUMP

__all__ = ["Handlers", "spare_children"]

# Without the enums that module signal makes of what it finds, which cost more than the rest.
_plain: Any = import_module("_signal")
_getsignal, _sigmask = _plain.getsignal, _plain.pthread_sigmask

# Those that programs handle. To look at all of them after each body would cost a tenth of a short one.
_USUAL = (
    signal.SIGINT, signal.SIGTERM, signal.SIGURG, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGPIPE, signal.SIGQUIT, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
)  # fmt: skip


class Handlers:
    """Of the main thread, which alone may use this."""

    def __init__(self, wakeup: int) -> None:
        self._wakeup = wakeup
        self.keep()

    def keep(self) -> None:
        """Take those that are there now for those that shall be."""
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._usual = list(map(_getsignal, _USUAL))
        self._all = {number: _getsignal(number) for number in signal.valid_signals() - {DUMP}}
        self._blocked = _sigmask(signal.SIG_BLOCK, ())

    def take_back(self) -> None:
        """Put right what differs. TypeError if a handler was not set by Python, and cannot be by Python."""
        signal.alarm(0)  # before its handler is gone, without which it would end the process
        if list(map(_getsignal, _USUAL)) != self._usual:
            for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
                signal.setitimer(timer, 0)
            for number, handler in self._all.items():
                if _getsignal(number) != handler:
                    signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)

    def unblock(self) -> None:
        """Block the signals that were, and no others. Apart, because it costs as much as the rest."""
        _sigmask(signal.SIG_SETMASK, self._blocked)


@cache
def spare_children() -> None:
    """Have the processes that bodies fork end by signals as others do: what is there now means nothing to them.

    Handlers that a body has set itself are inherited. What comes to them is not written where this process hears of
    its own signals.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGURG)
    ours = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}

    def be_a_child() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    os.register_at_fork(after_in_child=be_a_child)
