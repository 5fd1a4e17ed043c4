"""What we ask on a connection of the project's is answered within a deadline, or that connection is hung up.

A firewall or proxy that has forgotten a connection answers nothing more and closes nothing. So its socket is shut down:
who waits gets an OperationalError at once, as if the server had gone. To cancel would not do: psycopg waits for the
answer to that, too.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from django.db import OperationalError

from django_ray.runtime.watch import Watch

__all__ = ["ANSWER_SECONDS", "transaction_answered"]

# A row that a stranger has locked is waited for, and so are the deferred constraints of the body's writes. If the
# server is still at it when the time is over, nothing is lost: whoever writes the row next waits for the same lock, and
# then finds whether the transaction has been committed.
ANSWER_SECONDS = 30.0


@contextmanager
def transaction_answered(connection: Any) -> Generator[None]:
    """Have what is asked from here to the COMMIT answered in time; OperationalError if it is not.

    What is called after the COMMIT takes its time.
    """
    line = _Line(connection)
    guard = _watch().guard(ANSWER_SECONDS, line.hang_up)
    try:
        yield
    except Exception as error:
        if not line.is_given_up:
            raise
        raise OperationalError(f"The database has not answered for {ANSWER_SECONDS:g} s.") from error
    finally:
        _watch().release(guard)
        line.close()


class _Line:
    """The socket of a connection; a copy, because the number of the other one may be another's later."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._socket: socket.socket | None = socket.socket(fileno=os.dup(connection.connection.fileno()))
        self.is_given_up = False

    def hang_up(self) -> None:
        with self._lock, suppress(OSError):
            # Django turns autocommit on between the COMMIT and the callbacks that wait for it.
            if self._socket is not None and not self._connection.autocommit:
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
