"""A TCP proxy in front of PostgreSQL that fails on demand; it runs in a thread and an event loop of its own.

A hole is what a firewall makes that has forgotten a connection: nothing passes any more, neither data nor the end of
the connection, and both sides believe that all is well, because the kernel still acknowledges what they send. What
was in a hole never comes out of it. One connection alone can be forgotten, too, while it carries a certain statement.
TLS must be off: the proxy reads the protocol to find a COMMIT, or that statement.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Self

__all__ = ["Proxy"]

HOST = "127.0.0.1"
SECONDS = 10  # That any order to the proxy may take.
CHUNK = 65536

# Requests that come before the start-up message, and are answered by a single byte: SSLRequest, GSSENCRequest.
_ENCRYPTION = (80877103, 80877104)
# As a statement, not as a word in a comment.
_COMMIT = re.compile(rb"(?:^|;)\s*COMMIT\b", re.IGNORECASE)
# A claim and a record are sent alone, and commit by themselves.
_ALONE = re.compile(rb"-- (?:Take up to limit rows|Write the verdicts) ")


class _Messages:
    """One direction of a connection, cut into messages: a type byte except at the start, a length, a body."""

    def __init__(self, *, type_bytes: int) -> None:
        self.type_bytes = type_bytes
        self.single_bytes = 0  # Answers to expect that are no messages.
        self._buffer = bytearray()

    def cut(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._buffer += data
        while self._buffer:
            if self.single_bytes:
                self.single_bytes -= 1
                del self._buffer[:1]
                continue
            head = self.type_bytes + 4
            if len(self._buffer) < head:
                return
            size = self.type_bytes + int.from_bytes(self._buffer[self.type_bytes : head])
            if len(self._buffer) < size:
                return
            kind, body = bytes(self._buffer[: self.type_bytes]), bytes(self._buffer[head:size])
            del self._buffer[:size]
            yield kind, body


class _Link:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._client = writer
        self._server: asyncio.StreamWriter | None = None
        self._asked = _Messages(type_bytes=0)
        self._answered = _Messages(type_bytes=1)
        self._dropping: threading.Event | None = None  # A COMMIT is on its way; set when its reply is dropped.
        self._is_alone = False  # It is no COMMIT, but a statement that commits by itself.
        self._prepared: dict[bytes, bytes] = {}  # The statements by their names; the unnamed one is b"".
        self.swallows = False

    async def run(self) -> None:
        try:
            if self.swallows:
                await self._pass(self._reader, self._client, None, self._ask)
                return
            try:
                reader, self._server = await self._proxy.connect()
            except OSError:
                return  # the server is down, and so is the client's connection
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(self._reader, self._client, self._server, self._ask))
                both.create_task(self._pass(reader, self._server, self._client, self._answer))
        finally:
            self.abort()
            if self._dropping is not None:
                self._proxy.arm(self._dropping)  # the connection ended before its COMMIT was answered

    def abort(self) -> None:
        for writer in (self._client, self._server):
            if writer is not None:
                writer.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        own: asyncio.StreamWriter,
        other: asyncio.StreamWriter | None,
        look: Callable[[bytes], bool],
    ) -> None:
        """Pass one direction on until it ends. In a hole the other side does not learn of the end."""
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self.swallows or other is None:
                    continue
                if look(data) and not other.is_closing():
                    other.write(data)
                    await other.drain()
        own.close()
        if other is not None and not self.swallows:
            other.close()

    def _ask(self, data: bytes) -> bool:
        for kind, body in self._asked.cut(data):
            if kind == b"":
                if int.from_bytes(body[:4]) in _ENCRYPTION:
                    self._answered.single_bytes += 1
                else:
                    self._asked.type_bytes = 1
            elif self._dropping is None and (statement := self._executed(kind, body)):
                if self._proxy.forgets(statement):
                    self.swallows = True
                    return False
                self._is_alone = _ALONE.match(statement) is not None
                if self._is_alone or _COMMIT.search(statement):
                    self._dropping = self._proxy.disarm()
        return True

    def _executed(self, kind: bytes, body: bytes) -> bytes:
        """Return the statement that this message has executed, if any; remember what is prepared."""
        name, _, rest = body.partition(b"\0")
        match kind:
            case b"Q":
                return name
            case b"P":
                self._prepared[name] = rest.partition(b"\0")[0]
            case b"B":
                return self._prepared.get(rest.partition(b"\0")[0], b"")
        return b""

    def _answer(self, data: bytes) -> bool:
        """Read what the server says; False when it is not to be passed on."""
        for kind, body in self._answered.cut(data):
            if kind == b"A" and self._proxy.is_deaf:
                return False
            if self._dropping is None:
                continue
            if kind == b"E" or (kind == b"C" and (self._is_alone or body in {b"COMMIT\0", b"ROLLBACK\0"})):
                self._dropping.set()
                self._dropping = None
                self.abort()
                return False
        return self._dropping is None


class Proxy:
    """Listens on a port of its own and passes on to the target; a context manager. Any thread may give orders."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._in_hole = False
        self._armed: threading.Event | None = None
        self._to_forget: tuple[bytes, threading.Event] | None = None
        # A transaction pooler's fault: what the server sends unasked, a notification, finds no client. It comes alone.
        self.is_deaf = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener = self._call(self._listen())
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def hole(self) -> None:
        """Swallow everything, of the connections that exist and of those to come, without closing any."""
        self._call(self._set_hole(to=True))

    def mend(self) -> None:
        """Pass new connections on again; those that were in the hole stay in it."""
        self._call(self._set_hole(to=False))

    def cut(self) -> None:
        """Close all connections, on both sides, those in a hole too."""
        self._call(self._cut())

    def drop_next_commit_reply(self) -> threading.Event:
        """Let the next COMMIT reach the server, swallow its reply, close the connection; the event is set then."""
        return self._call(self._arm())

    def swallow_next(self, begin: str) -> threading.Event:
        """Forget the connection that sends the next statement which begins so, from then on; the event is set then."""
        return self._call(self._forget(begin.encode()))

    def close(self) -> None:
        """End it with all its connections."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the target, which may be the folder of its Unix socket; within the loop."""
        host, port = self.target
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    @property
    def connections(self) -> int:
        """How many connections there are, those in a hole included, of which one side may be gone."""
        return len(self._links)

    def arm(self, event: threading.Event) -> None:
        """Put an order back that could not be carried out; within the loop."""
        self._armed = self._armed or event

    def disarm(self) -> threading.Event | None:
        """Take the order to drop a reply, if there is one; within the loop."""
        armed, self._armed = self._armed, None
        return armed

    def forgets(self, statement: bytes) -> bool:
        """Tell whether the connection that sends this is to be forgotten; within the loop."""
        if self._to_forget is None or not statement.startswith(self._to_forget[0]):
            return False
        _, event = self._to_forget
        self._to_forget = None
        event.set()
        return True

    def _call[Answer](self, order: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(order, self._loop).result(SECONDS)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, HOST, 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        link.swallows = self._in_hole
        task = asyncio.current_task()
        self._links[task] = link
        try:
            await link.run()
        finally:
            del self._links[task]

    async def _set_hole(self, *, to: bool) -> None:
        self._in_hole = to
        if to:
            for link in self._links.values():
                link.swallows = True

    async def _arm(self) -> threading.Event:
        self._armed = self._armed or threading.Event()
        return self._armed

    async def _cut(self) -> None:
        links = dict(self._links)
        for link in links.values():
            link.abort()
        if links:
            await asyncio.wait(links)

    async def _forget(self, begin: bytes) -> threading.Event:
        event = threading.Event()
        self._to_forget = begin, event
        return event

    async def _close(self) -> None:
        self._listener.close()
        await self._cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
