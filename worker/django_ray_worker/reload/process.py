"""A process of ours that the watching process has started: it is talked to through a socket, and ends with us."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Self

from anyio import Event, create_task_group, move_on_after, open_process

from django_ray_worker.core.signals import ending
from django_ray_worker.watcher import SOCKET

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["Started"]

LAST_WORDS_SECONDS = 0.2  # That what it has said may be on its way when it has ended.


class Started:
    """One of them. Its standard streams are ours: breakpoints work."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader, self._writer = reader, writer
        self._is_silent = Event()
        self.ended = Event()  # As attended.

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], *, unblocks: bool) -> Self:
        """Start it. One that unblocks signals has them blocked until it does: they come when it can heed them."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
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
    def has_ended(self) -> bool:
        """Tell whether it has."""
        return self._process.returncode is not None

    @property
    def code(self) -> int:
        """Its exit code; 0 as long as it runs."""
        return self._process.returncode or 0

    def tell(self, what: Mapping[str, Any]) -> None:
        """Say something, if it still hears."""
        self._writer.write(json.dumps(what).encode() + b"\n")

    async def attend(self, heed: Callable[[dict[str, Any]], None]) -> None:
        """Heed what it says until it has ended."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._hear, heed)
            await self._process.wait()
            with move_on_after(LAST_WORDS_SECONDS):
                await self._is_silent.wait()
            tasks.cancel_scope.cancel()
        self.hang_up()
        self.ended.set()

    async def next_word(self) -> dict[str, Any] | None:
        """Return what it says next; None when it says no more."""
        with suppress(ConnectionError):
            if line := await self._reader.readline():
                return json.loads(line)  # type: ignore[no-any-return]
        return None

    async def _hear(self, heed: Callable[[dict[str, Any]], None]) -> None:
        while (said := await self.next_word()) is not None:
            heed(said)
        self._is_silent.set()

    async def wait(self) -> None:
        """Wait for its end."""
        await self._process.wait()

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
