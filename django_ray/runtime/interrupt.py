"""How a body is stopped from outside: Ray's interrupt, made to reach it wherever it waits.

Ray stops a task by marking a SIGINT as received. That ends a Python loop, but not a body that sleeps or waits for a
lock, a socket or a database, because nothing wakes it. Python writes each signal to its wake-up descriptor, though: a
thread reads it and sends the main thread a real signal, which does. A coroutine is cancelled in its event loop instead.
A body is interrupted once; what swallows that is ended by killing its process, which the supervisor does. What comes
before and after the body is not interrupted: it leaves the process fit for the next one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["interruptible", "protected", "was_interrupted"]


# Does nothing but wake: nobody uses it for anything else, and unlike SIGINT it is not blocked in a Ray worker.
_WAKE = signal.SIGURG


class _Attempt:
    """What the main thread is at."""

    def __init__(self) -> None:
        self.is_interrupted = False
        self.stop: Callable[[], object] | None = None  # Set while the body runs.


_attempt: _Attempt | None = None
_previous: Any = signal.default_int_handler


@contextmanager
def protected() -> Generator[None]:
    """Bracket an attempt on the main thread of a Ray worker: outside its body an interrupt is noted, no more."""
    global _attempt  # noqa: PLW0603 - there is one main thread
    _install()
    _attempt = _Attempt()
    try:
        yield
    finally:
        _attempt = None


def was_interrupted() -> bool:
    """Tell whether the attempt on the main thread was: then only the supervisor knows why, and what follows."""
    return _attempt is not None and _attempt.is_interrupted


def _raise() -> None:
    raise KeyboardInterrupt


@contextmanager
def interruptible(stop: Callable[[], object] = _raise) -> Generator[None]:
    """Bracket the body: an interrupt calls stop, on the main thread. Outside of protected() nothing is changed."""
    attempt = _attempt
    if attempt is None:
        yield
        return
    attempt.stop = stop
    try:
        if attempt.is_interrupted:
            raise KeyboardInterrupt
        yield
    finally:
        attempt.stop = None


@cache
def _install() -> None:
    """Once per process."""
    global _previous  # noqa: PLW0603
    _previous = signal.signal(signal.SIGINT, _interrupt)
    signal.signal(_WAKE, _ignore)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_wake, args=[reading], name="django-ray-interrupt", daemon=True).start()


def _interrupt(number: int, frame: Any) -> None:
    attempt = _attempt
    if attempt is None:
        _previous(number, frame)
    elif not attempt.is_interrupted:
        attempt.is_interrupted = True
        if attempt.stop is not None:
            attempt.stop()


def _ignore(number: int, frame: Any) -> None:
    pass


def _wake(reading: int) -> None:
    main = threading.main_thread().ident
    assert main is not None  # noqa: S101
    while received := os.read(reading, 16):
        if signal.SIGINT in received:
            signal.pthread_kill(main, _WAKE)
