"""Sleep until an execution is finished: mark its row as awaited, hear the NOTIFY of its end. Nothing is polled.

The trigger notifies for awaited rows alone, so results that nobody waits for cost nothing. Nothing is missed: mark and
outcome are written to the same row, one after the other. If the outcome came first, the mark finds the row finished; if
the mark came first, the outcome notifies, and the session listens since before the mark.

A notification may be lost all the same: triggers are disabled, or something between us and the server has forgotten the
connection. So a waiter looks at the row every PULSE seconds, and what is not answered then is not waited for.

A threaded caller listens on Django's own connection; all waiters of one event loop share one of their own.
"""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum, auto
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from asgiref.sync import sync_to_async
from django.db import Error, InterfaceError, OperationalError, connections, router
from django.db.transaction import TransactionManagementError

from django_ray.clock import seconds

__all__ = ["await_end", "connection_parameters", "wait_for_end"]

_MARK = """
UPDATE django_ray_execution SET awaited = true WHERE task_id = (
    SELECT task_id FROM django_ray_execution WHERE task_id = %s AND finished_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
)
"""
_LONGEST_SELECT = 86_400.0  # Seconds; the operating system wants a number.
_ANSWER_SECONDS = 10.0  # For the answer to a statement, or to connect: later, the connection is given up.
# Worth another try: the database is restarting, or another transaction was faster (40001, 40P01).
_TRANSIENT = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)


class _Mark(Enum):
    """What became of the wish to be told of an end."""

    SET = auto()
    NOT_NEEDED = auto()  # It is finished, or gone.
    LOCKED = auto()  # Somebody else has locked the row, perhaps to finish it.


def wait_for_end(result_id: UUID, timeout: float | None, pulse: float) -> None:
    """Return when the execution is finished or gone, or after timeout seconds; look every pulse seconds, 0 is never."""
    end = float("inf") if timeout is None else seconds() + timeout
    tries = 0
    while True:
        connection = _connection()
        try:
            with _listening(connection) as hear:
                looks = 0
                while (mark := _mark_awaited(result_id)) is _Mark.LOCKED and seconds() < end:
                    hear(str(result_id), min(end, seconds() + _pause(looks, 0.5)))
                    looks += 1
                if mark is _Mark.SET:
                    while not hear(str(result_id), min(end, _next_look(pulse))):
                        if seconds() >= end or _is_over(result_id):
                            break
                return
        except _TRANSIENT:
            connection.close()
            if seconds() >= end:
                raise
            time.sleep(min(_pause(tries), max(0, end - seconds())))
            tries += 1


async def await_end(result_id: UUID, pulse: float) -> None:
    """Return when the execution is finished or gone; look every pulse seconds, 0 is never."""
    tries = 0
    while True:
        try:
            async with _expecting(str(result_id)) as (ear, heard):
                looks = 0
                while (mark := await sync_to_async(_mark_awaited)(result_id)) is _Mark.LOCKED:
                    await asyncio.sleep(_pause(looks, 0.5))
                    looks += 1
                if mark is _Mark.SET:
                    while not (await asyncio.wait({heard}, timeout=pulse or None))[0]:
                        if await sync_to_async(_is_over)(result_id):
                            heard.cancel()
                            ear.renew()  # it has not heard of this
                            return
                    heard.result()
                return
        except _TRANSIENT:
            await sync_to_async(_close)()
            await asyncio.sleep(_pause(tries))
            tries += 1


def _pause(tries: int, longest: float = 5.0) -> float:
    return min(longest, 0.05 * 2.0 ** min(tries, 10)) * (0.5 + random.random() / 2)  # noqa: S311 - spreads reconnects


def _next_look(pulse: float) -> float:
    return seconds() + pulse if pulse else float("inf")


def _connection() -> Any:
    from django_ray.models import RayTaskExecution

    return connections[router.db_for_write(RayTaskExecution)]


def _close() -> None:
    _connection().close()


def _channel() -> str:
    """Return where the ends of the executions in our tables are told, as SQL names it."""
    with _answering(_connection()) as cursor:
        cursor.execute("SELECT quote_ident(django_ray_channel('results'))")
        (channel,) = cursor.fetchone()
    return str(channel)


def _mark_awaited(result_id: UUID) -> _Mark:
    """Ask for a NOTIFY of the end. Waits for nobody: in a coroutine's thread that would hold up all others."""
    connection = _connection()
    _refuse_transaction(connection)
    with _answering(connection) as cursor:
        cursor.execute(_MARK, [result_id])
        if cursor.rowcount:
            return _Mark.SET
    return _Mark.NOT_NEEDED if _is_over(result_id) else _Mark.LOCKED


def _is_over(result_id: UUID) -> bool:
    """Look whether there is nothing to wait for."""
    with _answering(_connection()) as cursor:
        cursor.execute("SELECT 1 FROM django_ray_execution WHERE task_id = %s AND finished_at IS NULL", [result_id])
        return not cursor.rowcount


@contextmanager
def _answering(connection: Any) -> Generator[Any]:
    """Yield a cursor whose statements are answered in time, or end in an OperationalError."""
    with connection.cursor() as cursor:
        deadline = threading.Timer(_ANSWER_SECONDS, _hang_up, [connection.connection])
        deadline.daemon = True
        deadline.start()
        try:
            yield cursor
        finally:
            deadline.cancel()


def _hang_up(session: psycopg.Connection[Any]) -> None:
    """Shut the socket down: nothing else ends the wait of another thread."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(session.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _refuse_transaction(connection: Any) -> None:
    if not connection.get_autocommit():
        raise TransactionManagementError(
            "Waiting for a task inside a transaction could last for ever: what the transaction enqueued is not "
            "committed yet. Wait after the atomic block; in a test, call django_ray.testing.run_tasks() before."
        )


@contextmanager
def _listening(connection: Any) -> Generator[Callable[[str, float], bool]]:
    """Listen on Django's connection; yields what tells whether an id is heard by a moment of our clock."""
    _refuse_transaction(connection)
    channel = _channel()
    session: psycopg.Connection[Any] = connection.connection
    heard: set[str] = set()

    def note(notification: psycopg.Notify) -> None:
        heard.add(notification.payload)

    def hear(result_id: str, end: float) -> bool:
        # psycopg's own notifies() would wake up ten times a second.
        with selectors.DefaultSelector() as selector:
            selector.register(session.fileno(), selectors.EVENT_READ)
            while result_id not in heard and (left := end - seconds()) > 0:
                if selector.select(min(left, _LONGEST_SELECT)):
                    _drain(session.pgconn, heard.add)
        return result_id in heard

    session.add_notify_handler(note)
    try:
        with _answering(connection) as cursor:
            cursor.execute(f"LISTEN {channel}")
        yield hear
    finally:
        session.remove_notify_handler(note)
        try:
            with _answering(connection) as cursor:
                cursor.execute(f"UNLISTEN {channel}")
        except Error:
            connection.close()


def _drain(pgconn: Any, note: Callable[[str], None]) -> None:
    try:
        pgconn.consume_input()
    finally:
        # What came before the end of the connection counts.
        while notification := pgconn.notifies():
            note(notification.extra.decode())


class _Ear:
    """The listening session of one event loop: open while anybody waits there."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self.waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._opening = asyncio.Lock()
        self._session: psycopg.AsyncConnection[Any] | None = None
        self._socket = -1

    async def open(self) -> None:
        async with self._opening:
            if self._session is not None:
                return
            parameters = await sync_to_async(connection_parameters)()
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    session = await self._connect(parameters)
            except TimeoutError:
                raise psycopg.OperationalError(f"no answer within {_ANSWER_SECONDS:g} s") from None
            self._session, self._socket = session, session.fileno()
            asyncio.get_running_loop().add_reader(self._socket, self._read, session)

    async def _connect(self, parameters: dict[str, Any]) -> psycopg.AsyncConnection[Any]:
        session = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        try:
            await session.execute(f"LISTEN {self._channel}".encode())
        except BaseException:
            await session.close()
            raise
        return session

    def renew(self) -> None:
        """Have all who wait listen on a new session: this one is deaf."""
        self._fail(psycopg.OperationalError("the session does not hear"))

    def close(self) -> None:
        if self._session is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._session.pgconn.finish()
            self._session = None

    def _read(self, session: psycopg.AsyncConnection[Any]) -> None:
        try:
            _drain(session.pgconn, self._heard)
        except psycopg.Error as error:
            self._fail(error)

    def _fail(self, error: psycopg.Error) -> None:
        self.close()
        for future in [future for futures in self.waiting.values() for future in futures if not future.done()]:
            future.set_exception(error)

    def _heard(self, result_id: str) -> None:
        for future in self.waiting.get(result_id, ()):
            if not future.done():
                future.set_result(None)


# By channel: a project that changes its search_path has tables in more than one schema.
_ears: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Ear]] = WeakKeyDictionary()


@asynccontextmanager
async def _expecting(result_id: str) -> AsyncGenerator[tuple[_Ear, asyncio.Future[None]]]:
    """Yield who hears, and a future that is done when the end of the execution is heard, or fails with the session."""
    loop = asyncio.get_running_loop()
    channel = await sync_to_async(_channel)()
    ear = _ears.setdefault(loop, {}).setdefault(channel, _Ear(channel))
    future = loop.create_future()
    ear.waiting.setdefault(result_id, set()).add(future)
    try:
        await ear.open()
        yield ear, future
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
