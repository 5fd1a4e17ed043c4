"""The live page's event stream: the page is sent again when something has happened. Needs psycopg 3.

It is fed by sessions that LISTEN, one with each database: supervisors say that something is new to show, queues ring
when somebody enqueues, bodies tell how far they are.
A bell that rings costs the enqueuers, so a viewer announces itself on it no more than once a second; besides that, the
page is sent every REFRESH_SECONDS, which shows what nobody tells of.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import psycopg
from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import StreamingHttpResponse

from django_ray.databases import backends_in
from django_ray.ears import MARK_REPORTING, connection_parameters

__all__ = ["stream"]

REFRESH_SECONDS = 15.0
ANSWER_SECONDS = 10.0  # For a database to answer.
PAUSE_SECONDS = 1.0  # Between two pages.
LIFETIME_SECONDS = 600.0  # Then the browser comes back, and is asked again who it is.


def stream(render: Callable[[], str], databases: Sequence[str]) -> StreamingHttpResponse:
    """Return the response that sends the page whenever there is something new in these databases."""
    response = StreamingHttpResponse(_pages(_without_connection(render), databases), content_type="text/event-stream")
    response["Cache-Control"] = "no-store, no-transform"
    response["Content-Encoding"] = "identity"  # GZipMiddleware would collect it, before Django 6.1
    response["X-Accel-Buffering"] = "no"  # nginx would collect it
    return response


def _without_connection(render: Callable[[], str]) -> Callable[[], str]:
    """Return what renders, and holds no connection until the next time that CONN_MAX_AGE does not keep."""

    def rendered() -> str:
        try:
            return render()
        finally:
            close_old_connections()  # or each viewer would hold one of a pool

    return rendered


async def _pages(render: Callable[[], str], databases: Sequence[str]) -> AsyncGenerator[str]:
    ends = asyncio.get_running_loop().time() + LIFETIME_SECONDS
    try:
        async with _bells(databases) as bells:
            while asyncio.get_running_loop().time() < ends:
                for bell in bells:
                    await bell.announce()
                    bell.forget()
                yield f"data: {json.dumps(await sync_to_async(render)())}\n\n"
                await _first(bells)
                for bell in bells:
                    await bell.leave()
                await asyncio.sleep(PAUSE_SECONDS)
    except (psycopg.OperationalError, OSError):
        return  # a database is away; the browser comes back


async def _first(bells: Sequence[_Bell]) -> None:
    """Return when one of them has heard something, or after REFRESH_SECONDS."""
    waits = [asyncio.ensure_future(bell.wait(REFRESH_SECONDS)) for bell in bells]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class _Bell:
    """The session of one viewer with a database."""

    def __init__(self, session: psycopg.AsyncConnection[Any], bells: list[str]) -> None:
        self._session = session
        self._bells = bells
        self._heard = asyncio.Event()
        session.add_notify_handler(lambda _: self._heard.set())

    async def listen(self) -> None:
        """Hear what supervisors tell and enqueuers ring."""
        activities = [bell.replace("queues:", "activity:", 1) for bell in self._bells]
        for bell in [*self._bells, *activities, "progress"]:
            cursor = await self._session.execute("SELECT quote_ident(django_ray_channel(%s))", [bell])
            (channel,) = await cursor.fetchone() or ("",)
            await self._session.execute(f"LISTEN {channel}".encode())

    async def announce(self) -> None:
        """Have enqueuers ring, and bodies tell how far they are."""
        async with _answering():
            await self._session.execute(MARK_REPORTING)
            for bell in self._bells:
                await self._session.execute("SELECT django_ray_announce(%s)", [bell])

    async def leave(self) -> None:
        """Have them ring no more."""
        async with _answering():
            for bell in self._bells:
                await self._session.execute("SELECT django_ray_leave(%s)", [bell])

    async def wait(self, seconds: float) -> None:
        """Return at the first notification after forget(), or after so many seconds."""
        loop, descriptor = asyncio.get_running_loop(), self._session.fileno()
        # psycopg's own notifies() would wake up ten times a second.
        loop.add_reader(descriptor, self._read)
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(descriptor)

    def forget(self) -> None:
        """Start to hear anew: what comes from now on is not on the page yet."""
        self._heard.clear()

    def _read(self) -> None:
        try:
            self._session.pgconn.consume_input()
        except psycopg.Error:
            self._heard.set()  # the next statement says it
        while self._session.pgconn.notifies():
            self._heard.set()


@asynccontextmanager
async def _answering() -> AsyncGenerator[None]:
    """Bracket what a database is asked: it is away if it does not answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        raise psycopg.OperationalError(f"no answer within {ANSWER_SECONDS:g} s") from None


@asynccontextmanager
async def _bells(databases: Sequence[str]) -> AsyncGenerator[list[_Bell]]:
    """Open sessions with all that answer; psycopg.OperationalError if none does. The page says which do not."""
    async with AsyncExitStack() as stack:
        opened = await asyncio.gather(*map(_open, databases), return_exceptions=True)
        for found in opened:
            if isinstance(found, _Opened):
                stack.push_async_callback(found.session.close)
        errors = [found for found in opened if isinstance(found, BaseException)]
        for error in errors:
            if len(errors) == len(opened) or not isinstance(error, psycopg.OperationalError | OSError):
                raise error
        yield [found.bell for found in opened if isinstance(found, _Opened)]


class _Opened(NamedTuple):
    session: psycopg.AsyncConnection[Any]
    bell: _Bell


async def _open(database: str) -> _Opened:
    parameters = await sync_to_async(connection_parameters)(database)
    async with _answering():
        session = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        try:
            bell = _Bell(session, [f"queues:{alias}" for alias in backends_in(database)])
            await bell.listen()
        except BaseException:
            await session.close()
            raise
    return _Opened(session, bell)
