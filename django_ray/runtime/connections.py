"""Django's database connections around a task body, as around a request.

Connections are kept between tasks (a new one costs ten times a query), dropped when they are broken, expired, or left
inside a transaction: the next task of this process finds them clean whatever this one did.
"""

from __future__ import annotations

from typing import Any

from django.db import connections

__all__ = ["Upkeep"]


class Upkeep:
    """Brackets one task body. A transaction that was open before it, as in a TestCase, stays open."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before: set[str] = set()
        for connection in connections.all(initialized_only=True):
            connection.queries_log.clear()
            if connection.in_atomic_block:
                self._before.add(connection.alias)
            else:
                connection.close_if_unusable_or_obsolete()

    def __exit__(self, *exception: object) -> None:
        for connection in connections.all(initialized_only=True):
            if connection.alias in self._before:
                continue
            if connection.in_atomic_block or _is_in_transaction(connection):
                _discard(connection)
            else:
                connection.close_if_unusable_or_obsolete()


def _is_in_transaction(connection: Any) -> bool:
    if connection.connection is None:
        return False
    if not connection.get_autocommit() and connection.settings_dict["AUTOCOMMIT"]:
        return True
    # A BEGIN sent as SQL is known to psycopg alone.
    status = getattr(getattr(connection.connection, "info", None), "transaction_status", None)
    return status is not None and status.name in {"INTRANS", "INERROR", "ACTIVE"}


def _discard(connection: Any) -> None:
    """Close the connection, which rolls back, and forget the wrapper with its half-finished blocks."""
    alias = connection.alias
    try:
        connection.in_atomic_block = False
        connection.close()
    finally:
        del connections[alias]
