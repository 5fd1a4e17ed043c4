"""A process of ours that the watching process has started: it is talked to through a socket, and ends with us."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Self

from anyio import Event, open_process

from django_ray_worker.core.signals import ending
from django_ray_worker.watcher import SOCKET

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["Started"]

MOST_LINE = 1 << 20


class Started:
    """One of them. Its standard streams are ours: breakpoints work."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader, self._writer = reader, writer
        self.ended = Event()

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], *, unblocks: bool) -> Self:
        """Start it. One that unblocks signals has them blocked until it does: they come when it can heed them."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MOST_LINE)
        with _blocked() if unblocks else nullcontext():
            process = await open_process(
                command,
                stdin=None,
                stdout=None,
                stderr=None,
                env={**os.environ, **environment, SOCKET: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def code(self) -> int:
        """Its exit code; 0 as long as it runs."""
        return self._process.returncode or 0

    def tell(self, what: Mapping[str, Any]) -> None:
        """Say something, if it still hears."""
        self._writer.write(json.dumps(what).encode() + b"\n")

    async def said(self) -> AsyncIterator[dict[str, Any]]:
        """Iterate over what it says until it ends."""
        with suppress(ConnectionError):
            while line := await self._reader.readline():
                yield json.loads(line)

    async def wait(self) -> None:
        """Wait for its end."""
        await self._process.wait()
        self.ended.set()
        self.hang_up()

    def hang_up(self) -> None:
        """End the talk: it ends by itself then."""
        self._writer.close()

    def terminate(self) -> None:
        """Have it end as by SIGTERM."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()


@contextmanager
def _blocked() -> Generator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
