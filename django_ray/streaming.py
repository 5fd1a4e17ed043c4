"""The live page's event stream: the page is sent again when something has happened. Needs psycopg 3.

It is fed by a session that LISTENs: supervisors say that something is new to show, queues ring when somebody enqueues,
bodies tell how far they are.
A bell that rings costs the enqueuers, so a viewer announces itself on it no more than once a second; besides that, the
page is sent every REFRESH_SECONDS, which shows what nobody tells of.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.http import StreamingHttpResponse
from django.tasks import task_backends

from django_ray.backends import RayTaskBackend
from django_ray.ears import MARK_REPORTING, connection_parameters

__all__ = ["stream"]

REFRESH_SECONDS = 15.0
PAUSE_SECONDS = 1.0  # Between two pages.
LIFETIME_SECONDS = 600.0  # Then the browser comes back, and is asked again who it is.


def stream(render: Callable[[], str]) -> StreamingHttpResponse:
    """Return the response that sends the page whenever there is something new."""
    response = StreamingHttpResponse(_pages(_without_connection(render)), content_type="text/event-stream")
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


async def _pages(render: Callable[[], str]) -> AsyncGenerator[str]:
    ends = asyncio.get_running_loop().time() + LIFETIME_SECONDS
    try:
        async with _bell() as bell:
            while asyncio.get_running_loop().time() < ends:
                await bell.announce()
                bell.forget()
                yield f"data: {json.dumps(await sync_to_async(render)())}\n\n"
                await bell.wait(REFRESH_SECONDS)
                await bell.leave()
                await asyncio.sleep(PAUSE_SECONDS)
    except (psycopg.OperationalError, OSError):
        return  # the database is away; the browser comes back


class _Bell:
    """The session of one viewer."""

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
        await self._session.execute(MARK_REPORTING)
        for bell in self._bells:
            await self._session.execute("SELECT django_ray_announce(%s)", [bell])

    async def leave(self) -> None:
        """Have them ring no more."""
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
async def _bell() -> AsyncGenerator[_Bell]:
    parameters = await sync_to_async(connection_parameters)()
    session = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
    try:
        bells = [f"queues:{alias}" for alias in task_backends if isinstance(task_backends[alias], RayTaskBackend)]
        bell = _Bell(session, bells)
        await bell.listen()
        yield bell
    finally:
        await session.close()
