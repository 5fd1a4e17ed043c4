"""Sleep until an execution is finished: mark its row as awaited, hear the NOTIFY of its end. Nothing is polled.

The trigger notifies for awaited rows alone, so results that nobody waits for cost nothing. Nothing is missed: mark and
outcome are written to the same row, one after the other. If the outcome came first, the mark finds the row finished; if
the mark came first, the outcome notifies, and the session listens since before the mark.

A threaded caller listens on Django's own connection; all waiters of one event loop share one of their own.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from asgiref.sync import sync_to_async
from django.db import Error, InterfaceError, OperationalError, connections, router
from django.db.transaction import TransactionManagementError

__all__ = ["await_end", "connection_parameters", "wait_for_end"]

_CHANNEL = "django_ray:results"
_LISTEN = f'LISTEN "{_CHANNEL}"'
_UNLISTEN = f'UNLISTEN "{_CHANNEL}"'
_LONGEST_SELECT = 86_400.0  # Seconds; the operating system wants a number.
# Worth another try: the database is restarting, or another transaction was faster (40001, 40P01).
_TRANSIENT = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)


def wait_for_end(result_id: UUID, timeout: float | None) -> None:
    """Return when the execution is finished or gone, or after timeout seconds."""
    end = float("inf") if timeout is None else time.monotonic() + timeout
    tries = 0
    while True:
        connection = _connection()
        try:
            with _listening(connection) as hear:
                if _mark_awaited(result_id):
                    hear(str(result_id), end)
                return
        except _TRANSIENT:
            connection.close()
            if time.monotonic() >= end:
                raise
            time.sleep(min(_pause(tries), max(0, end - time.monotonic())))
            tries += 1


async def await_end(result_id: UUID) -> None:
    """Return when the execution is finished or gone."""
    tries = 0
    while True:
        try:
            async with _expecting(str(result_id)) as heard:
                if await sync_to_async(_mark_awaited)(result_id):
                    await heard
                return
        except _TRANSIENT:
            await sync_to_async(_close)()
            await asyncio.sleep(_pause(tries))
            tries += 1


def _pause(tries: int) -> float:
    return min(5.0, 0.05 * 2.0 ** min(tries, 10)) * (0.5 + random.random() / 2)  # noqa: S311 - spreads reconnects


def _connection() -> Any:
    from django_ray.models import RayTaskExecution

    return connections[router.db_for_write(RayTaskExecution)]


def _close() -> None:
    _connection().close()


def _mark_awaited(result_id: UUID) -> bool:
    """Ask for a NOTIFY of the end; False when there is nothing to wait for."""
    connection = _connection()
    _refuse_transaction(connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_ray_execution SET awaited = true WHERE task_id = %s AND finished_at IS NULL", [result_id]
        )
        return bool(cursor.rowcount)


def _refuse_transaction(connection: Any) -> None:
    if not connection.get_autocommit():
        raise TransactionManagementError(
            "Waiting for a task inside a transaction could last for ever: what the transaction enqueued is not "
            "committed yet. Wait after the atomic block; in a test, call django_ray.testing.run_tasks() before."
        )


@contextmanager
def _listening(connection: Any) -> Generator[Callable[[str, float], None]]:
    """Listen on Django's connection; yields what returns when an id is heard, or at a moment of the monotonic clock."""
    _refuse_transaction(connection)
    session: psycopg.Connection[Any] = connection.connection
    heard: set[str] = set()

    def note(notification: psycopg.Notify) -> None:
        heard.add(notification.payload)

    def hear(result_id: str, end: float) -> None:
        # psycopg's own notifies() would wake up ten times a second.
        with selectors.DefaultSelector() as selector:
            selector.register(session.fileno(), selectors.EVENT_READ)
            while result_id not in heard and (left := end - time.monotonic()) > 0:
                if selector.select(min(left, _LONGEST_SELECT)):
                    _drain(session.pgconn, heard.add)

    session.add_notify_handler(note)
    try:
        with connection.cursor() as cursor:
            cursor.execute(_LISTEN)
        yield hear
    finally:
        session.remove_notify_handler(note)
        try:
            with connection.cursor() as cursor:
                cursor.execute(_UNLISTEN)
        except Error:
            connection.close()


def _drain(pgconn: Any, note: Callable[[str], None]) -> None:
    try:
        pgconn.consume_input()
    finally:
        # What came before the end of the connection counts.
        while notification := pgconn.notifies():
            if notification.relname.decode() == _CHANNEL:
                note(notification.extra.decode())


class _Ear:
    """The listening session of one event loop: open while anybody waits there."""

    def __init__(self) -> None:
        self.waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._opening = asyncio.Lock()
        self._session: psycopg.AsyncConnection[Any] | None = None
        self._socket = -1

    async def open(self) -> None:
        async with self._opening:
            if self._session is not None:
                return
            session = await psycopg.AsyncConnection.connect(
                **await sync_to_async(connection_parameters)(), autocommit=True
            )
            try:
                await session.execute(_LISTEN)
            except BaseException:
                await session.close()
                raise
            self._session, self._socket = session, session.fileno()
            asyncio.get_running_loop().add_reader(self._socket, self._read, session)

    def close(self) -> None:
        if self._session is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._session.pgconn.finish()
            self._session = None

    def _read(self, session: psycopg.AsyncConnection[Any]) -> None:
        try:
            _drain(session.pgconn, self._heard)
        except psycopg.Error as error:
            self.close()
            for future in [future for futures in self.waiting.values() for future in futures if not future.done()]:
                future.set_exception(error)

    def _heard(self, result_id: str) -> None:
        for future in self.waiting.get(result_id, ()):
            if not future.done():
                future.set_result(None)


_ears: WeakKeyDictionary[asyncio.AbstractEventLoop, _Ear] = WeakKeyDictionary()


@asynccontextmanager
async def _expecting(result_id: str) -> AsyncGenerator[asyncio.Future[None]]:
    """Yield a future that is done when the end of the execution is heard, or fails with the session."""
    loop = asyncio.get_running_loop()
    ear = _ears.setdefault(loop, _Ear())
    future = loop.create_future()
    ear.waiting.setdefault(result_id, set()).add(future)
    try:
        await ear.open()
        yield future
    finally:
        future.cancel()
        ear.waiting[result_id].discard(future)
        if not ear.waiting[result_id]:
            del ear.waiting[result_id]
        if not ear.waiting:
            ear.close()


def connection_parameters() -> dict[str, Any]:
    """Return how Django connects, without what is its cursors' alone."""
    own = ("context", "cursor_factory", "prepare_threshold")
    return {name: value for name, value in _connection().get_connection_params().items() if name not in own}
