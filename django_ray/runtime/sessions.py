"""What a body sets on a session with the database does not reach the next one: that session ends with the body.

A tenant's search_path or schema_name, a statement_timeout, a role, a LISTEN, an advisory lock or a temporary table
would meet another task otherwise. So the cursors of Django are watched for statements that leave something behind.
Whoever sends none pays a look at the text of each statement, and keeps the connection. What psycopg is told past Django
is not seen, but for the isolation level.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

__all__ = ["is_as_new", "keep_wrappers", "watch_sessions"]

_LEAVES = re.compile(
    r"^\s*(?:SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)|RESET\b|LISTEN\b|CREATE\s+(?:LOCAL\s+|GLOBAL\s+)?TEMP"
    r"|DECLARE\b.*\bWITH\s+HOLD\b)|\bset_config\s*\((?![^()]*,\s*true\s*\))|\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\(",
    re.IGNORECASE | re.DOTALL,
)


class _Watch:
    """Of one session: a wrapper around each statement."""

    __slots__ = ("has_left", "wrappers")

    def __init__(self) -> None:
        self.has_left = False  # Something that outlives its statement and its transaction.
        self.wrappers: list[Any] | None = None  # All of them before the body: the project may have some of its own.

    def __call__(self, execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        # An object of psycopg's is not worth reading: they are rare.
        if not isinstance(sql, str) or _LEAVES.search(sql):
            self.has_left = True
        return execute(sql, params, many, context)


def watch_sessions() -> None:
    """Watch the sessions of this process from now on."""
    connection_created.connect(_watch, dispatch_uid="django_ray.sessions")


def _watch(*, connection: Any, **_: Any) -> None:
    if connection.vendor == "postgresql" and _watch_of(connection) is None:
        # The first: who wraps statements for a while removes the last one.
        connection.execute_wrappers.insert(0, _Watch())


def _watch_of(connection: Any) -> _Watch | None:
    return next((one for one in connection.execute_wrappers if type(one) is _Watch), None)


def keep_wrappers(connection: Any) -> None:
    """Remember what wraps the statements of a connection before a body."""
    if (watch := _watch_of(connection)) is not None:
        watch.wrappers = [*connection.execute_wrappers]


def is_as_new(connection: Any) -> bool:
    """Tell whether the next body finds this wrapper and its session as if they had just been made."""
    watch = _watch_of(connection)
    if watch is None:
        return True
    if watch.wrappers is not None:
        connection.execute_wrappers[:] = watch.wrappers
    isolation = getattr(connection.connection, "isolation_level", None)
    return (
        not watch.has_left
        and isolation in {None, connection.isolation_level}
        and all(getattr(connection, name, None) == value for name, value in _own(connection.alias).items())
    )


@cache
def _own(alias: str) -> dict[str, Any]:
    """Return what a wrapper has that is not Django's, as it is in a new one: a tenant, a schema."""
    new = connections.create_connection(alias)
    bases = [kind for kind in type(new).__mro__ if kind.__module__.startswith("django.")]
    if type(new) is bases[0]:
        return {}
    plain = vars(bases[0](new.settings_dict, alias))
    return {name: value for name, value in vars(new).items() if name not in plain}
