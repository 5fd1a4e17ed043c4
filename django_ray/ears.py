"""What those who wait for executions share: the mark on the row, the look at it, and sessions that hear of it.

The database tells of an execution only when its row is marked as awaited: of its end (channel `results`), and of what
its body says meanwhile (channel `progress`). Results that nobody waits for cost nothing. Nothing is missed: mark and
outcome are written to the same row, one after the other. If the outcome came first, the mark finds the row finished; if
the mark came first, the outcome notifies, and the session listens since before the mark.

A threaded caller listens on Django's own connection; all waiters of one event loop share one session of their own.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum, auto
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from asgiref.sync import sync_to_async
from django.db import Error, InterfaceError, OperationalError, connections
from django.db.transaction import TransactionManagementError

from django_ray.clock import seconds
from django_ray.deadline import answered

__all__ = [
    "MARK_REPORTING", "TRANSIENT", "Mark", "amark", "answering", "close", "connection", "connection_parameters",
    "drain", "hearing", "is_over", "listening", "mark_awaited", "pause", "pause_at_lock",
]  # fmt: skip

_MARK = """
UPDATE django_ray_execution SET awaited = true WHERE task_id = (
    SELECT task_id FROM django_ray_execution WHERE task_id = %s AND finished_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
)
"""
# For who watches all that runs and says how far it is. Waits for nobody.
MARK_REPORTING = """
UPDATE django_ray_execution SET awaited = true WHERE task_id IN (
    SELECT task_id FROM django_ray_execution AS execution
    WHERE state = 'RUNNING' AND NOT awaited AND EXISTS (
        SELECT FROM django_ray_progress AS progress WHERE progress.task_id = execution.task_id
    )
    FOR NO KEY UPDATE SKIP LOCKED
)
"""
_LONGEST_SELECT = 86_400.0  # Seconds; the operating system wants a number.
KEPT_SECONDS = 10.0  # That a session which nobody waits on any more is kept for the next one.
_ANSWER_SECONDS = 10.0  # For the answer to a statement, or to connect: later, the connection is given up.
_ID_LENGTH = 36  # A notification begins with the id of its execution.
# Worth another try: the database is restarting, or another transaction was faster (40001, 40P01).
TRANSIENT = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)


class Mark(Enum):
    """What became of the wish to be told of an execution."""

    SET = auto()
    NOT_NEEDED = auto()  # It is finished, or gone.
    LOCKED = auto()  # Somebody else has locked the row, perhaps to finish it.


def pause(tries: int) -> float:
    """Return how many seconds to wait before the next try to connect."""
    return _growing(0.05, tries, 5.0)


def pause_at_lock(looks: int) -> float:
    """Return how many seconds to wait before the next look at a locked row: a claim holds it for a millisecond."""
    return _growing(0.002, looks, 0.5)


def _growing(first: float, tries: int, longest: float) -> float:
    return min(longest, first * 2.0 ** min(tries, 10)) * (0.5 + random.random() / 2)  # noqa: S311 - spreads them


def connection(database: str) -> Any:
    """Return Django's connection to a database."""
    return connections[database]


def close(database: str) -> None:
    """Close Django's connection: it has failed."""
    connection(database).close()


def connection_parameters(database: str) -> dict[str, Any]:
    """Return how Django connects, without what is its cursors' alone."""
    own = ("context", "cursor_factory", "prepare_threshold")
    return {name: value for name, value in connection(database).get_connection_params().items() if name not in own}


def mark_awaited(database: str, result_id: UUID) -> Mark:
    """Ask to be told of an execution. Waits for nobody: in a coroutine's thread that would hold up all others."""
    ours = connection(database)
    _refuse_transaction(ours)
    with answering(ours) as cursor:
        cursor.execute(_MARK, [result_id])
        if cursor.rowcount:
            return Mark.SET
    return Mark.NOT_NEEDED if is_over(database, result_id) else Mark.LOCKED


async def amark(database: str, result_id: UUID) -> bool:
    """Ask until it is known whether there is anything to wait for."""
    looks = 0
    while (mark := await sync_to_async(mark_awaited)(database, result_id)) is Mark.LOCKED:
        await asyncio.sleep(pause_at_lock(looks))
        looks += 1
    return mark is Mark.SET


def is_over(database: str, result_id: UUID) -> bool:
    """Look whether there is nothing to wait for."""
    with answering(connection(database)) as cursor:
        cursor.execute("SELECT 1 FROM django_ray_execution WHERE task_id = %s AND finished_at IS NULL", [result_id])
        return not cursor.rowcount


@contextmanager
def answering(ours: Any) -> Generator[Any]:
    """Yield a cursor whose statements are answered in time, or end in an OperationalError."""
    with ours.cursor() as cursor, answered(ours, _ANSWER_SECONDS):
        yield cursor


def _refuse_transaction(ours: Any) -> None:
    if not ours.get_autocommit():
        raise TransactionManagementError(
            "Waiting for a task inside a transaction could last for ever: what the transaction enqueued is not "
            "committed yet. Wait after the atomic block; in a test, call django_ray.testing.run_tasks() before."
        )


def _channels(ours: Any, bells: tuple[str, ...]) -> tuple[str, ...]:
    """Return where it is told of the executions in our tables, as SQL names it."""
    with answering(ours) as cursor:
        cursor.execute("SELECT quote_ident(django_ray_channel(bell)) FROM unnest(%s::text[]) AS bell", [list(bells)])
        return tuple(channel for (channel,) in cursor.fetchall())


@contextmanager
def listening(ours: Any) -> Generator[Callable[[str, float], bool]]:
    """Listen for ends on Django's connection; yields what tells whether an id is heard by a moment of our clock."""
    _refuse_transaction(ours)
    (channel,) = _channels(ours, ("results",))
    session: psycopg.Connection[Any] = ours.connection
    heard: set[str] = set()

    def note(notification: psycopg.Notify) -> None:
        heard.add(notification.payload)

    def hear(result_id: str, end: float) -> bool:
        # psycopg's own notifies() would wake up ten times a second.
        with selectors.DefaultSelector() as selector:
            selector.register(session.fileno(), selectors.EVENT_READ)
            while result_id not in heard and (left := end - seconds()) > 0:
                if selector.select(min(left, _LONGEST_SELECT)):
                    drain(session.pgconn, heard.add)
        return result_id in heard

    session.add_notify_handler(note)
    try:
        with answering(ours) as cursor:
            cursor.execute(f"LISTEN {channel}")
        yield hear
    finally:
        session.remove_notify_handler(note)
        try:
            with answering(ours) as cursor:
                cursor.execute(f"UNLISTEN {channel}")
        except Error:
            ours.close()


def drain(pgconn: Any, note: Callable[[str], None]) -> None:
    """Note each message that has come, without waiting for more."""
    try:
        pgconn.consume_input()
    finally:
        # What came before the end of the connection counts.
        while notification := pgconn.notifies():
            note(notification.extra.decode())


class _Hearing:
    """What one waiter hears of one execution, in order."""

    def __init__(self, ear: _Ear) -> None:
        self._ear = ear
        self._heard: asyncio.Queue[str | psycopg.Error] = asyncio.Queue()
        self.put = self._heard.put_nowait

    async def next(self, longest: float) -> str | None:
        """Return what a notification says after the id, "" for the end; None when longest seconds (0 is ever) are over.

        psycopg.Error when the session has failed.
        """
        try:
            async with asyncio.timeout(longest or None):
                heard = await self._heard.get()
        except TimeoutError:
            return None
        if isinstance(heard, psycopg.Error):
            raise heard
        return heard

    def renew(self) -> None:
        """Have all who wait listen on a new session: this one is deaf."""
        self._ear.fail(psycopg.OperationalError("the session does not hear"))


class _Ear:
    """The listening session of one event loop with a database: open while anybody waits there, and a while after."""

    def __init__(self, database: str, channels: tuple[str, ...]) -> None:
        self._database = database
        self._channels = channels
        self.waiting: dict[str, set[_Hearing]] = {}
        self._opening = asyncio.Lock()
        self._session: psycopg.AsyncConnection[Any] | None = None
        self._socket = -1
        self._kept: AsyncGenerator[None] | None = None
        self._closing: asyncio.TimerHandle | None = None

    def enter(self, name: str, one: _Hearing) -> None:
        """One more waits."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self.waiting.setdefault(name, set()).add(one)

    def leave(self, name: str, one: _Hearing) -> None:
        """One less: the next one may come soon, and another session costs more than the wait."""
        self.waiting[name].discard(one)
        if not self.waiting[name]:
            del self.waiting[name]
        if not self.waiting and self._session is not None:
            self._closing = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.close)
        elif not self.waiting:
            self._forget()

    async def open(self) -> None:
        async with self._opening:
            if self._session is not None:
                return
            parameters = await sync_to_async(connection_parameters)(self._database)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    session = await self._connect(parameters)
            except TimeoutError:
                raise psycopg.OperationalError(f"no answer within {_ANSWER_SECONDS:g} s") from None
            self._session, self._socket = session, session.fileno()
            asyncio.get_running_loop().add_reader(self._socket, self._read, session)
            self._kept = self._until_the_end(session)
            await anext(self._kept)

    async def _until_the_end(self, session: psycopg.AsyncConnection[Any]) -> AsyncGenerator[None]:
        """Close it with the event loop, which at its end closes those of these that have begun and not ended."""
        try:
            yield
        finally:
            if self._session is session:
                self.close()

    async def _connect(self, parameters: dict[str, Any]) -> psycopg.AsyncConnection[Any]:
        session = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        try:
            for channel in self._channels:
                await session.execute(f"LISTEN {channel}".encode())
        except BaseException:
            await session.close()
            raise
        return session

    def close(self) -> None:
        if self._session is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._session.pgconn.finish()
            self._session = None
        if not self.waiting:
            self._forget()

    def _forget(self) -> None:
        """Leave no trace: what is kept by its loop, and holds on to the loop, would keep both for ever."""
        ears, name = _ears.get(loop := asyncio.get_running_loop(), {}), (self._database, self._channels)
        if ears.get(name) is self:
            del ears[name]
        if not ears:
            _ears.pop(loop, None)

    def _read(self, session: psycopg.AsyncConnection[Any]) -> None:
        try:
            drain(session.pgconn, self._heard)
        except psycopg.Error as error:
            self.fail(error)

    def fail(self, error: psycopg.Error) -> None:
        """Tell all who wait."""
        self.close()
        for one in [one for several in self.waiting.values() for one in several]:
            one.put(error)

    def _heard(self, payload: str) -> None:
        for one in self.waiting.get(payload[:_ID_LENGTH], ()):
            one.put(payload[_ID_LENGTH:])


# By database and channels: a project that changes its search_path has tables in more than one schema.
_ears: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, tuple[str, ...]], _Ear]] = WeakKeyDictionary()


@asynccontextmanager
async def hearing(database: str, result_id: UUID, *bells: str) -> AsyncGenerator[_Hearing]:
    """Yield who hears what is told of an execution on `results`, `progress` or both."""
    channels = await sync_to_async(lambda: _channels(connection(database), bells))()
    ears = _ears.setdefault(asyncio.get_running_loop(), {})
    ear = ears.setdefault((database, channels), _Ear(database, channels))
    one, name = _Hearing(ear), str(result_id)
    ear.enter(name, one)
    try:
        await ear.open()
        yield one
    finally:
        ear.leave(name, one)
