"""Django's database connections around a task body, as around a request.

Connections are kept between tasks (a new one costs ten times a query), dropped when they are broken, expired, or left
inside a transaction: the next task of this process finds them clean whatever this one did. One that died meanwhile, as
in a restart of the database, is replaced when the body first uses it. Nothing that goes wrong here is the task's
outcome: it is logged, and the connection dropped.
"""

from __future__ import annotations

import logging
import math
import select
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from django.db import connections

from django_ray.runtime.foreign import ends_process
from django_ray.runtime.sessions import is_as_new, keep_wrappers

__all__ = ["Upkeep", "certain", "check_pools", "close_all"]

log = logging.getLogger("django_ray.connections")

ASK_SECONDS = 5.0  # A connection that has not answered for so long is asked, however well its socket looks.

_IDLE = 0  # Of libpq's transaction statuses, the only one that says: usable, and in no transaction.
_UNKNOWN = 4  # The connection is closed.


class Upkeep:
    """Brackets one task body. A transaction that was open before it, as in a TestCase, stays open."""

    __slots__ = ("_before", "_began_at")

    def __enter__(self) -> None:
        self._began_at = time.monotonic()
        self._before: set[str] = set()
        for connection in _made():
            connection.queries_log.clear()
            keep_wrappers(connection)
            if connection.in_atomic_block:
                self._before.add(connection.alias)
            elif connection.connection is not None:
                try:
                    _make_ready(connection)
                except BaseException as error:  # noqa: BLE001 - a database engine may raise anything
                    _give_up(connection, error)

    def __exit__(self, *exception: object) -> None:
        for connection in _made():
            if connection.alias not in self._before:
                try:
                    _tidy(connection, self._began_at)
                except BaseException as error:  # noqa: BLE001 - likewise
                    _give_up(connection, error)


@contextmanager
def certain() -> Generator[None]:
    """Bracket what a thread of ours asks between pauses: a connection that may have died meanwhile is replaced first.

    To connect anew needs no deadline, and a question would: who has forgotten the connection answers nothing.
    """
    for connection in _made():
        if connection.connection is not None and _is_doubtful(connection.connection):
            _hang_up(connection)
    yield
    for connection in _made():
        if connection.connection is not None:
            _note_answer(connection.connection, time.monotonic())


def close_all() -> None:
    """Close the connections of this thread, whatever that raises."""
    for connection in _made():
        _hang_up(connection)


def _made() -> list[Any]:
    """Return the connections of this thread, as connections.all(initialized_only=True): every body asks twice."""
    made = getattr(connections, "_connections")  # noqa: B009 - for the type checkers
    return [found for alias in connections.settings if (found := getattr(made, alias, None)) is not None]


def _make_ready(connection: Any) -> None:
    """Close it if it has expired; have Django ask it before its first use if it is not certain that it lives."""
    connection.close_if_unusable_or_obsolete()
    raw = connection.connection
    if raw is not None:
        connection.health_check_enabled = connection.settings_dict["CONN_HEALTH_CHECKS"] or _is_doubtful(raw)


def _tidy(connection: Any, began_at: float) -> None:
    if connection.in_atomic_block or _is_in_transaction(connection):
        _discard(connection)
    elif not is_as_new(connection):
        if connection.connection is not None:
            connection.connection.close()  # or a pool would lend it to the next body
        _discard(connection)
    elif connection.connection is not None:
        if connection.health_check_done:  # it was opened or asked meanwhile
            # That was while the body ran, and may have been at its beginning.
            _note_answer(connection.connection, began_at)
        connection.close_if_unusable_or_obsolete()


def _is_in_transaction(connection: Any) -> bool:
    raw = connection.connection
    if raw is None:
        return False
    if not connection.autocommit and connection.settings_dict["AUTOCOMMIT"]:
        return True
    libpq = getattr(raw, "pgconn", None)
    if libpq is None:
        return False
    # What psycopg alone was told: a BEGIN sent as SQL, or that the next statement begins one, which nobody commits.
    return libpq.transaction_status not in {_IDLE, _UNKNOWN} or raw.autocommit != connection.autocommit


def _give_up(connection: Any, error: BaseException) -> None:
    """Drop what cannot be tended."""
    if ends_process(error):
        raise error
    log.warning("Dropping the connection to the database %r: its upkeep failed.", connection.alias, exc_info=error)
    with suppress(Exception):
        connection.connection.close()
    _forget(connection)


def _hang_up(connection: Any) -> None:
    try:
        if connection.connection is not None:
            connection.connection.close()  # or a pool would lend it again
        connection.close()
    except BaseException as error:  # noqa: BLE001 - a database engine may raise anything
        _give_up(connection, error)


def _discard(connection: Any) -> None:
    """Close the connection, which rolls back, and forget the wrapper with its half-finished blocks."""
    connection.in_atomic_block = False
    connection.close()
    _forget(connection)


def _forget(connection: Any) -> None:
    with suppress(AttributeError):
        del connections[connection.alias]


def _is_doubtful(raw: Any) -> bool:
    """Tell whether only a question can say that this connection of a database driver still lives."""
    try:
        line = _line(raw.fileno())
    except Exception:  # noqa: BLE001 - it is closed, or of a driver that shows no socket
        return True
    return line.is_doubtful()


def _note_answer(raw: Any, at: float) -> None:
    with suppress(Exception):
        _line(raw.fileno()).answered_at = at


class _Line:
    """The socket with one file descriptor, whichever connection has it: what can be seen without asking."""

    __slots__ = ("_poll", "answered_at")

    def __init__(self, descriptor: int) -> None:
        self.answered_at = -math.inf  # As far as it is certain.
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def is_doubtful(self) -> bool:
        # Something to read, while nothing was asked, is the end of the connection or a word of the server on it.
        return bool(self._poll.poll(0)) or time.monotonic() - self.answered_at > ASK_SECONDS


_line = cache(_Line)


def check_pools() -> None:
    """Have the pools of OPTIONS["pool"] check a connection before they lend it, once per process that runs tasks."""
    for alias, settings in connections.settings.items():
        if settings["OPTIONS"].get("pool") and not settings["CONN_HEALTH_CHECKS"]:
            settings["CONN_HEALTH_CHECKS"] = True
            with suppress(Exception):  # whoever uses that database is told what is wrong with it
                connection: Any = connections[alias]
                connection.close()
                connection.close_pool()  # one from before would not check
