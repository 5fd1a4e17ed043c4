"""The session: one connection that hears the bells, holds our identity and says that we are asleep.

These three live and die together: when the connection is gone, PostgreSQL forgets that we slept and who we were, and
a new session starts from nothing. On every connect, in this order: identity, LISTEN, self-test, what the caller does to
look again (`on_open`), ring every bell. Promises that what is committed after LISTEN is heard, and that what was
committed before is looked for.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from anyio import TASK_STATUS_IGNORED, CancelScope, Event, fail_after, sleep, wait_readable

from django_ray_worker import store
from django_ray_worker.errors import is_transient

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from django_ray_worker.database import Database
    from django_ray_worker.store import Connection

__all__ = ["Misconfigured", "Session", "SessionLost", "backoff"]

log = logging.getLogger("django_ray.listener")

SELF_TEST_SECONDS = 5.0


class Misconfigured(Exception):  # noqa: N818 - it says what to change
    """The supervisor cannot work here; the message names the remedy."""


class SessionLost(Exception):  # noqa: N818
    """There is no session now; a new one will look again, so that nothing needs repeating."""


class Statement(Protocol):
    """Something to say on the session."""

    def __call__(self, session: Connection, /) -> Awaitable[object]: ...


class _Request:
    def __init__(self, statement: Statement) -> None:
        self.statement = statement
        self.done = Event()
        self.error: BaseException | None = None


def backoff(tries: int, chance: float | None = None) -> float:
    """Return seconds to wait after that many failures in a row: 0.05 doubling to 5, a random part of it."""
    chance = random.random() if chance is None else chance  # noqa: S311 - spreads reconnects, guards nothing
    return min(5.0, 0.05 * 2.0 ** min(tries, 10)) * (0.5 + chance / 2)


class Session:
    """The listening connection of one supervisor, for ever reconnected."""

    def __init__(
        self,
        database: Database,
        *,
        worker: int,
        bells: Sequence[str],
        on_bell: Callable[[], None],
        on_open: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._worker = worker
        self._bells = bells
        self._control = f"worker:{worker}"
        self._on_bell = on_bell
        self._on_open = on_open
        self._bell_of: dict[str, str] = {}
        self._requests: deque[_Request] = deque()
        self._waiting: CancelScope | None = None
        self._self_test: Event | None = None
        self.is_open = False

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Hold the session until cancelled; started once the first one is open."""
        tries = 0
        started = False
        while True:
            wait = 0.0
            try:
                # The connection is opened under a shield of its own statements only: connecting may be cut short.
                async with await self._database.connect() as session:
                    await self._open(session)
                    tries = 0
                    if not started:
                        task_status.started()
                        started = True
                    await self._hear(session)
            except Exception as error:
                if not is_transient(error):
                    raise
                if not started:
                    raise
                wait = backoff(tries)
                log.warning("The listening session is gone (%s); connecting again in %.1f s.", _line(error), wait)
            finally:
                self._close()
            tries += 1
            await sleep(wait)

    async def say(self, statement: Statement) -> None:
        """Run a statement on the session; SessionLost when there is none, or it ends meanwhile."""
        if not self.is_open:
            raise SessionLost
        request = _Request(statement)
        self._requests.append(request)
        if self._waiting is not None:
            self._waiting.cancel()
        await request.done.wait()
        if request.error is not None:
            raise SessionLost from request.error

    async def _open(self, session: Connection) -> None:
        # LISTEN is committed before anybody looks: what is committed in between is looked for, and heard as well.
        session.add_notify_handler(lambda notification: self._heard(notification.channel))
        if not await store.identify(session, self._worker):
            raise TimeoutError(f"another session still is supervisor {self._worker}")
        self._bell_of = await store.listen(session, [*self._bells, self._control])
        await self._test(session)
        await self._on_open()
        self.is_open = True
        self._on_bell()

    async def _test(self, session: Connection) -> None:
        """Hear ourselves once. A transaction pooler swallows either the LISTEN or the session."""
        self._self_test = Event()
        await store.notify_self(session, self._control)
        try:
            with fail_after(SELF_TEST_SECONDS):
                while not self._self_test.is_set():
                    await wait_readable(session.pgconn.socket)
                    self._drain(session)
        except TimeoutError:
            raise Misconfigured(
                "A NOTIFY did not come back on the session that LISTENs: a transaction pooler seems to stand in front "
                "of PostgreSQL. Give the supervisor a direct or session-pooled connection."
            ) from None
        finally:
            self._self_test = None

    async def _hear(self, session: Connection) -> None:
        while True:
            while self._requests:
                await self._answer(session, self._requests.popleft())
            # A cancelled psycopg statement would close the connection; waiting for the socket may be cut at will.
            with CancelScope() as self._waiting:
                await wait_readable(session.pgconn.socket)
            self._waiting = None
            self._drain(session)

    async def _answer(self, session: Connection, request: _Request) -> None:
        try:
            with CancelScope(shield=True):
                await request.statement(session)
        except BaseException as error:
            request.error = error
            raise
        finally:
            request.done.set()

    def _drain(self, session: Connection) -> None:
        # psycopg's own notifies() would wake the loop ten times a second.
        session.pgconn.consume_input()
        while notification := session.pgconn.notifies():
            self._heard(notification.relname.decode())

    def _heard(self, channel: str) -> None:
        bell = self._bell_of.get(channel)
        if bell == self._control:
            if self._self_test is not None:
                self._self_test.set()
        elif bell is not None:
            self._on_bell()

    def _close(self) -> None:
        self.is_open = False
        self._waiting = None
        while self._requests:
            request = self._requests.popleft()
            request.error = SessionLost()
            request.done.set()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
