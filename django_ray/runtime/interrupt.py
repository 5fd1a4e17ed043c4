"""How a body is stopped from outside: Ray's interrupt, made to reach it wherever it waits.

Ray stops a task by marking a SIGINT as received. That ends a Python loop, but not a body that sleeps or waits for a
lock, a socket or a database, because nothing wakes it. Python writes each signal to its wake-up descriptor, though: a
thread reads it and sends the main thread a real signal, which does. A coroutine is cancelled in its event loop instead.
A body is interrupted once; what swallows that is ended by killing its process, which the supervisor does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["cancelled_by", "interruptible"]


class _Body:
    """What runs on the main thread now."""

    def __init__(self) -> None:
        self.is_interrupted = False
        self.is_prodded = False
        self.cancel: Callable[[], object] | None = None


_lock = threading.Lock()
_body: _Body | None = None
_previous: Any = signal.default_int_handler
_is_echo = False  # The next SIGINT outside of a body may be our own, come late.


@contextmanager
def interruptible() -> Generator[None]:
    """Bracket a body on the main thread of a Ray worker."""
    global _body  # noqa: PLW0603 - there is one main thread
    _install()
    _body = _Body()
    try:
        yield
    finally:
        with _lock:
            _body = None


@contextmanager
def cancelled_by(cancel: Callable[[], object]) -> Generator[None]:
    """Call cancel instead of raising KeyboardInterrupt; may be entered on any thread."""
    body = _body
    if body is not None:
        body.cancel = cancel
    try:
        yield
    finally:
        if body is not None:
            body.cancel = None


@cache
def _install() -> None:
    """Once per process."""
    global _previous  # noqa: PLW0603
    _previous = signal.signal(signal.SIGINT, _interrupt)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_prod, args=[reading], name="django-ray-interrupt", daemon=True).start()


def _interrupt(number: int, frame: Any) -> None:
    global _is_echo  # noqa: PLW0603
    body = _body
    if body is None:
        if _is_echo:
            _is_echo = False
        else:
            _previous(number, frame)
    elif not body.is_interrupted:
        body.is_interrupted = True
        if body.cancel is None:
            raise KeyboardInterrupt
        body.cancel()


def _prod(reading: int) -> None:
    """Wake the main thread, once per body."""
    global _is_echo  # noqa: PLW0603
    main = threading.main_thread().ident
    assert main is not None  # noqa: S101
    while received := os.read(reading, 16):
        with _lock:
            if signal.SIGINT in received and _body is not None and not _body.is_prodded:
                _body.is_prodded = _is_echo = True
                signal.pthread_kill(main, signal.SIGINT)
