"""How a body is stopped from outside: Ray's interrupt, made to reach it wherever it waits.

Ray stops a task by marking a SIGINT as received. That ends a Python loop, but not a body that sleeps or waits for a
lock, a socket or a database, because nothing wakes it. Python writes each signal to its wake-up descriptor, though: a
thread reads it and sends the main thread a real signal, which does. A coroutine is cancelled in its event loop instead.
A body is interrupted once; what swallows that is ended by killing its process, which the supervisor does. What comes
before and after the body is not interrupted: it leaves the process fit for the next one.

A timeout counts from the moment in which the body begins, and a stall_timeout from its last sign of life. Both are
known here alone; so they end it here, in the same way.

In a Ray that a supervisor started, a SIGTERM comes from a service manager that tells all processes of its unit to end,
or from the supervisor when all is over: it does not concern a body, and ends a process that runs none, after what the
process has to do at its end.

A body that has signal handlers of its own is interrupted by these, or killed. The next one finds ours again.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from django_ray.runtime import mark, snapshot
from django_ray.runtime.alarm import Alarm
from django_ray.runtime.foreign import contained, ends_process, ignored
from django_ray.runtime.handlers import Handlers, spare_children
from django_ray.runtime.limits import Limits, Overrun
from django_ray.runtime.rayworker import is_cancelled, job, node

__all__ = [
    "LOCAL",
    "interruptible",
    "keep_signals",
    "overran",
    "protected",
    "take_signals_back",
    "was_interrupted",
]

# In the environment of every process of a Ray that a supervisor started: its folder.
LOCAL = "DJANGO_RAY_FOLDER"


class _Attempt:
    """What the main thread is at."""

    __slots__ = ("is_asked", "is_interrupted", "limits", "may_be_cancelled", "overran", "stop")

    def __init__(self) -> None:
        self.is_interrupted = False
        self.is_asked = False  # To end, by another process.
        self.may_be_cancelled = False  # The body has not returned; whether it was told to end, Ray knows.
        self.limits: Limits | None = None  # Of the body that runs.
        self.overran: Overrun | None = None  # By which it was.
        self.stop: Callable[[], object] | None = None  # Set while the body runs.


_attempt: _Attempt | None = None
_previous: Any = signal.default_int_handler


def protected() -> _Protected:
    """Bracket an attempt on the main thread of a Ray worker: outside its body an interrupt is noted, no more."""
    return _Protected()


class _Protected:
    __slots__ = ()

    def __enter__(self) -> None:
        global _attempt  # noqa: PLW0603 - there is one main thread
        _handlers().unblock()
        _attempt = _Attempt()

    def __exit__(self, *exception: object) -> None:
        global _attempt  # noqa: PLW0603
        _attempt = None


def was_interrupted() -> bool:
    """Tell whether the attempt on the main thread was: then only the supervisor knows why, and what follows."""
    attempt = _attempt
    if attempt is None:
        return False
    if attempt.may_be_cancelled:
        attempt.may_be_cancelled = False
        # With a handler of the body's own, ours has not heard of it.
        attempt.is_interrupted = attempt.is_interrupted or is_cancelled()
    return attempt.is_interrupted


def overran() -> Overrun | None:
    """Return the limit at which the attempt was interrupted; None when it was not, or not by one."""
    return None if _attempt is None else _attempt.overran


def _raise() -> None:
    raise KeyboardInterrupt


def interruptible(stop: Callable[[], object] = _raise, limits: Limits | None = None) -> _Interruptible:
    """Bracket the body: an interrupt calls stop, on the main thread; so does whoever overruns its limits.

    Outside of protected() nothing is changed.
    """
    return _Interruptible(stop, limits)


class _Interruptible:
    __slots__ = ("_attempt", "_limits", "_outer", "_stop")

    def __init__(self, stop: Callable[[], object], limits: Limits | None) -> None:
        self._stop, self._limits = stop, limits
        self._attempt = _attempt

    def __enter__(self) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        self._outer = attempt.stop, attempt.limits  # of a body that runs this one in place
        attempt.may_be_cancelled = True
        attempt.stop = self._stop
        if attempt.is_asked:
            attempt.is_interrupted = True  # by who asked while there was nothing to stop yet
        if attempt.is_interrupted:
            raise KeyboardInterrupt  # once: what stays of this is never called
        if self._limits is not None:
            self._limits.begin()
            attempt.limits = self._limits
            _alarm().set(attempt.limits)

    def __exit__(self, kind: object, *exception: object) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        attempt.stop, attempt.limits = self._outer
        if self._limits is not None:
            self._limits.end()
            _alarm().set(attempt.limits)
        attempt.may_be_cancelled = kind is not None


@cache
def _handlers() -> Handlers:
    """Once per process."""
    mark.install(job(), node())
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _put_ours()
    handlers = Handlers(writing)
    snapshot.install(writing)
    threading.Thread(target=_hear, args=[reading], name="django-ray-interrupt", daemon=True).start()
    return handlers


def _put_ours() -> None:
    global _previous  # noqa: PLW0603
    if (found := signal.signal(signal.SIGINT, _interrupt)) is not _interrupt:
        _previous = found
    signal.signal(mark.WAKE, _wake)
    if LOCAL in os.environ:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _ignore)


def keep_signals() -> None:
    """Have every body find the signal handlers that are there now, with ours in front."""
    if _attempt is not None:
        _put_ours()
        _handlers().keep()
    spare_children()


def take_signals_back() -> None:
    """Have signals do again what they did before the body. TypeError if that is not for Python to say."""
    attempt = _attempt
    if attempt is None:
        return
    try:
        _handlers().take_back()
    except BaseException as error:
        if ends_process(error):
            raise
        # A handler of the body's has struck once more, after it.
        attempt.may_be_cancelled = True
        _handlers().take_back()


@cache
def _alarm() -> Alarm:
    return Alarm(mark.WAKE)


def _interrupt(number: int, frame: Any) -> None:
    attempt = _attempt
    if attempt is None:
        _previous(number, frame)
    elif not attempt.is_interrupted:
        attempt.is_interrupted = True
        if attempt.stop is not None:
            attempt.stop()


def _wake(number: int, frame: Any) -> None:
    """Let the main thread look at what it was woken for: a signal that is marked, limits overrun, or who asks."""
    attempt = _attempt
    if attempt is None or attempt.stop is None or attempt.is_interrupted:
        return
    if attempt.limits is not None and attempt.limits.overrun is not None:
        attempt.overran = attempt.limits.overrun
        _interrupt(number, frame)
    elif attempt.is_asked:
        _interrupt(number, frame)


def _ignore(number: int, frame: Any) -> None:
    pass


def _hear(reading: int) -> None:
    main = threading.main_thread().ident
    assert main is not None  # noqa: S101
    while received := os.read(reading, 16):
        # Of a process a signal comes in any of its threads.
        if snapshot.ASKED in received:
            contained(snapshot.tell, ignored("A look at what the body does"))
        is_asked = mark.WAKE in received and mark.was_asked()
        if is_asked and (attempt := _attempt) is not None:
            attempt.is_asked = True
        if is_asked or signal.SIGINT in received:
            signal.pthread_kill(main, mark.WAKE)
        if signal.SIGTERM in received and LOCAL in os.environ and _attempt is None:
            _leave()


def _leave() -> None:
    """End the process, which runs nothing: what was to be done at its end is done, buffers of spans and events sent."""
    with suppress(BaseException):
        # The main thread waits inside Ray, and would not come back for them.
        atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    os._exit(0)
