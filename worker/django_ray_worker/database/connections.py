"""Connections to the database that Django's settings name: the pool for transactions, and the listening session."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, override
from weakref import WeakSet

from anyio import fail_after, to_thread
from psycopg import OperationalError, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from django_ray_worker.database.deadline import Connection
from django_ray_worker.database.store import apply_settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["CONNECT_SECONDS", "MOST_CONNECTIONS", "OPEN_SECONDS", "Database"]

# The session, claimer, recorder, reconciliation, pulse, the watch of a neighbour, counts, pruning. Those of the pool
# that nobody needs are closed after a while.
OWN_CONNECTIONS = 8
# Waits for transactions in flight, each behind a bell of its own; more of them stand in line.
MOST_WAITS = 8
MOST_CONNECTIONS = OWN_CONNECTIONS + MOST_WAITS
# Seconds to wait for a connection of the pool: longer means that the database is away, which callers wait for anyway.
POOL_TIMEOUT = 5.0

RECONNECT_TIMEOUT = 0.5
OPEN_SECONDS = 15.0  # To prepare a connection, or to open the session: longer means that nobody answers.

CONNECT_SECONDS = 5  # That one host gets.

# Django's own, which make no sense outside its cursors.
_DJANGO_ONLY = ("context", "cursor_factory", "prepare_threshold")
# A peer that vanished without a word is noticed after about a minute, whatever the system's default.
_KEEPALIVES: Mapping[str, Any] = {
    "keepalives": 1, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3,
    "connect_timeout": CONNECT_SECONDS,
}  # fmt: skip


class Database:
    """How to connect as Django does, including TLS, service files and SET ROLE."""

    def __init__(self, django: BaseDatabaseWrapper, *, places: int = MOST_CONNECTIONS) -> None:
        self._places = places
        self._django = django
        self._shown = self._ask_django()
        self._opened: WeakSet[Connection] = WeakSet()
        self._role = django.settings_dict["OPTIONS"].get("assume_role")

    @override
    def __str__(self) -> str:
        place = self._shown.get("host") or "local socket"
        return f"PostgreSQL at {place}, database {self._shown.get('dbname', '')}"

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Connection]:
        """Open a connection of its own, for as long as the block lasts."""
        # connect_timeout is for each host that the settings name, and for each address of it.
        connection = await Connection.connect(**await self._parameters())
        # Not psycopg's own block: that says goodbye first, and leaves the connection open when that is cancelled.
        try:
            await self._prepare(connection)
            yield connection
        finally:
            await connection.close()  # which sends nothing, and needs no answer

    @asynccontextmanager
    async def pool(self) -> AsyncGenerator[AsyncConnectionPool[Connection]]:
        """Open the pool; it connects in the background and reconnects by itself."""
        pool = AsyncConnectionPool[Connection](
            connection_class=Connection,
            kwargs=self._parameters,
            min_size=1,
            max_size=self._places - 1,
            timeout=POOL_TIMEOUT,
            # Or an attempt that failed during an outage is repeated at growing intervals; we ask again ourselves.
            reconnect_timeout=RECONNECT_TIMEOUT,
            configure=self._prepare,
            check=None,
            open=False,
            name="django-ray",
        )
        async with pool:
            yield pool

    @property
    def most_waits(self) -> int:
        """Return how many may wait in the database for long, so that the others need not."""
        return max(1, self._places - OWN_CONNECTIONS)

    def drop(self) -> None:
        """Shut every connection down, whatever it waits for: who uses one gets an OperationalError at once."""
        for connection in self._opened:
            connection.hang_up()

    async def _parameters(self) -> dict[str, Any]:
        """Return those of the next connection. Django is asked each time: a password may be good for minutes only.

        In a thread, because an engine may have to fetch it; what goes wrong there is an outage like any other.
        """
        try:
            return await to_thread.run_sync(self._ask_django, abandon_on_cancel=True)
        except Exception as error:
            if isinstance(error, OperationalError):
                raise
            raise OperationalError(f"Django has no connection parameters: {type(error).__name__}: {error}") from error

    def _ask_django(self) -> dict[str, Any]:
        parameters = self._django.get_connection_params()
        return {
            **_KEEPALIVES,
            **{name: value for name, value in parameters.items() if name not in _DJANGO_ONLY},
            "application_name": "django-ray-listen",
            "autocommit": True,
            "row_factory": dict_row,
        }

    async def _prepare(self, connection: Connection) -> None:
        self._opened.add(connection)
        with fail_after(OPEN_SECONDS):
            if self._role:
                await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self._role)))
            await apply_settings(connection)
