"""The session: one connection that hears the bells, holds our identity and says that we are asleep.

These three live and die together: when the connection is gone, PostgreSQL forgets that we slept and who we were, and
a new session starts from nothing. On every connect, in this order: identity, LISTEN, self-test, what the caller does to
look around, a look for work. Promises that what is committed after LISTEN is heard, and that what was
committed before is looked for. A payload is never data about rows: whatever it is, it means "look", except for our own
echo. A message to us may be a question about what a body does, which its receiver finds out.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from anyio import TASK_STATUS_IGNORED, CancelScope, Event, current_time, fail_after, sleep, wait_readable

from django_ray_worker.core.exceptions import Misconfigured, SessionLost
from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database import store
from django_ray_worker.database.connections import OPEN_SECONDS
from django_ray_worker.database.errors import is_transient, one_line

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from django_ray_worker.database.connections import Database
    from django_ray_worker.database.deadline import Connection
    from django_ray_worker.database.store import Store
    from django_ray_worker.waking.registration import Registration

__all__ = ["Session"]

log = logging.getLogger("django_ray.listener")

ECHO_SECONDS = 5.0  # A NOTIFY of our own that takes longer will not come.
ECHO = "echo"


class Statement(Protocol):
    """Something to say on the session."""

    def __call__(self, session: Connection, /) -> Awaitable[object]: ...


class _Request:
    def __init__(self, statement: Statement) -> None:
        self.statement = statement
        self.done = Event()
        self.error: BaseException | None = None


class Session:
    """The listening connection of one supervisor, for ever reconnected."""

    def __init__(self, database: Database, work: Store, registration: Registration) -> None:
        self._database = database
        self._store = work
        self._registration = registration
        self._identity = registration.identity
        self._hears: Mapping[str, Callable[[], None]] = {}
        self._obey: Callable[[str], None]
        self._bell_of: dict[str, str] = {}
        self._requests: deque[_Request] = deque()
        self._waiting: CancelScope | None = None
        self._echo = Event()
        self.opened = 0  # How often.
        self.closed_at: float | None = current_time()  # None while it is open.

    @property
    def is_open(self) -> bool:
        """Tell whether the bells are heard."""
        return self.closed_at is None

    async def run(
        self,
        *,
        hears: Mapping[str, Callable[[], None]],
        obey: Callable[[str], None],
        look_around: Callable[[], Awaitable[None]],
        look: Callable[[], None],
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Hold the session until cancelled; started once the first one is open.

        It LISTENs to the bells in hears, and calls what stands beside each; and obey for a message to us. On each new
        session it awaits look_around before it counts as open, and calls look once it does.
        """
        self._hears, self._obey = hears, obey
        tries = 0
        started = False
        while True:
            wait = 0.0
            try:
                # The connection is opened under a shield of its own statements only: connecting may be cut short.
                async with self._database.session() as session:
                    with fail_after(OPEN_SECONDS):
                        await self._open(session, look_around)
                    look()
                    tries = 0
                    if not started:
                        task_status.started()
                        started = True
                    await self._hear(session)
            except Exception as error:
                if not is_transient(error):
                    raise
                wait = backoff(tries)
                if is_news(tries):
                    log.warning(
                        "The listening session is gone (%s); connecting again in %.1f s.", one_line(error), wait
                    )
                if isinstance(error, TimeoutError):
                    self._database.drop()  # or what was swallowed once would be waited for again
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

    async def echo[Answer](self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Send what makes our echo and wait until it is heard: TimeoutError when it is not, SessionLost for no session.

        It must be sent on another connection: what a session sends to itself comes back even through a pooler.
        """
        if not self.is_open:
            raise SessionLost
        self._echo = Event()
        with fail_after(ECHO_SECONDS):
            answer = await send()
            await self._echo.wait()
        return answer

    async def assume(self) -> None:
        """Register anew if our row is gone, and be that supervisor; SessionLost when there is no session."""
        await self.say(self._assume)

    def drop(self) -> None:
        """End every connection at once: something between us and the server swallows what we say."""
        self._database.drop()

    async def _open(self, session: Connection, look_around: Callable[[], Awaitable[None]]) -> None:
        # LISTEN is committed before anybody looks: what is committed in between is looked for, and heard as well.
        session.add_notify_handler(lambda notification: self._heard(notification.channel, notification.payload))
        if self.opened:
            await self._store.drain()  # the pool's connections are as old as the session that was lost
        await self._registration.take(session)
        self._bell_of = await store.listen(session, [*self._hears, *self._controls])
        await self._test(session)
        await look_around()
        self.closed_at = None
        self.opened += 1

    async def _assume(self, session: Connection) -> None:
        with fail_after(OPEN_SECONDS):
            await self._registration.take(session)
            self._bell_of |= await store.listen(session, self._controls)

    @property
    def _controls(self) -> list[str]:
        return [f"worker:{name}" for name in self._identity.names]

    async def _test(self, session: Connection) -> None:
        """Hear ourselves once, from another connection. A transaction pooler swallows either the LISTEN or the echo."""
        self._echo = Event()
        await self._store.notify(f"worker:{self._identity.worker}", ECHO)
        try:
            with fail_after(ECHO_SECONDS):
                while not self._echo.is_set():
                    await wait_readable(session.pgconn.socket)
                    self._drain(session)
        except TimeoutError:
            if self.opened:
                raise  # it has worked before
            raise Misconfigured(
                "A NOTIFY did not come back on the session that LISTENs: a transaction pooler seems to stand in front "
                "of PostgreSQL. Give the supervisor a direct or session-pooled connection."
            ) from None

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
            self._heard(notification.relname.decode(), notification.extra.decode())

    def _heard(self, channel: str, payload: str) -> None:
        bell = self._bell_of.get(channel)
        if bell is None:
            return
        if look := self._hears.get(bell):
            look()
        elif payload == ECHO:
            self._echo.set()
        else:
            self._obey(payload)

    def _close(self) -> None:
        if self.is_open:
            self.closed_at = current_time()
        self._waiting = None
        while self._requests:
            request = self._requests.popleft()
            request.error = SessionLost()
            request.done.set()
