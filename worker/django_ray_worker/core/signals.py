"""The signals that end a supervisor, from its first line on."""

from __future__ import annotations

import signal

__all__ = ["ending"]


def ending() -> tuple[signal.Signals, ...]:
    """Return them: of a service manager, of a terminal, and of one that is closed, unless nohup says otherwise."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    is_left = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return numbers if is_left else (*numbers, signal.SIGHUP)
