"""What we ask on a connection of the project's is answered within a deadline, or that connection is hung up.

A firewall or proxy that has forgotten a connection answers nothing more and closes nothing. So its socket is shut down:
who waits gets an OperationalError at once, as if the server had gone. To cancel would not do: psycopg waits for the
answer to that, too.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from django.db import OperationalError

from django_ray.watch import Watch

__all__ = ["answered", "has_ended"]


@contextmanager
def answered(connection: Any, seconds: float, *, applies: Callable[[], bool] = lambda: True) -> Generator[None]:
    """Have what is asked within answered in time, where that applies; OperationalError if it is not."""
    line = _Line(connection.connection.fileno(), applies)
    guard = _watch().guard(seconds, line.hang_up)
    try:
        yield
    except Exception as error:
        if not line.is_given_up:
            raise
        raise OperationalError(f"The database has not answered for {seconds:g} s.") from error
    finally:
        _watch().release(guard)
        line.close()


def has_ended(connection: Any) -> bool:
    """Tell whether the other side has closed it meanwhile. Asks nothing: something to read, though nobody asked."""
    try:
        poll = select.poll()
        poll.register(connection.connection.fileno(), select.POLLIN)
    except connection.Database.Error:
        return True  # our side has
    return bool(poll.poll(0))


class _Line:
    """The socket of a connection; a copy, because the number of the other one may be another's later."""

    def __init__(self, descriptor: int, applies: Callable[[], bool]) -> None:
        self._applies = applies
        self._lock = threading.Lock()
        self._socket: socket.socket | None = socket.socket(fileno=os.dup(descriptor))
        self.is_given_up = False

    def hang_up(self) -> None:
        with self._lock, suppress(OSError):
            if self._socket is not None and self._applies():
                self.is_given_up = True
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


@cache
def _watch() -> Watch:
    return Watch("django-ray-deadline")


# A child has none of its parent's threads.
os.register_at_fork(after_in_child=_watch.cache_clear)
