"""A connection on which nothing waits for an answer without end.

A firewall or proxy that has forgotten a connection answers nothing more and closes nothing: the kernel still
acknowledges what we send. So each statement has a deadline of its own, here, where every exchange with the server goes
through. When it is over, the socket is shut down: whoever waits gets an OperationalError at once, as if the server had
gone, and the pool renews the connection. Cancelling would not do: it leaves the statement running, and waits for an
answer itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, override

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import DictRow

if TYPE_CHECKING:
    from psycopg.abc import RV, PQGen

__all__ = ["ANSWER_SECONDS", "Connection"]

# Longer than any wait for a lock (session_settings.sql): the server says so itself, and the connection stays whole.
ANSWER_SECONDS = 10.0


class Connection(AsyncConnection[DictRow]):
    """A connection of ours, of the pool or the one that listens."""

    _seconds = ANSWER_SECONDS
    _is_given_up = False

    @contextmanager
    def patient(self, seconds: float) -> Generator[None]:
        """Allow an answer so many seconds within the block: that of a statement that waits on purpose."""
        before, self._seconds = self._seconds, seconds
        try:
            yield
        finally:
            self._seconds = before

    @override
    async def wait(self, gen: PQGen[RV], *arguments: Any, **options: Any) -> RV:
        deadline = asyncio.get_running_loop().call_later(self._seconds, self._give_up)
        try:
            return await super().wait(gen, *arguments, **options)
        except OperationalError as error:
            if not self._is_given_up:
                raise
            raise OperationalError(f"no answer within {self._seconds:g} s") from error
        finally:
            deadline.cancel()

    def _give_up(self) -> None:
        self._is_given_up = True
        self.hang_up()

    def hang_up(self) -> None:
        """Shut the connection down, whatever it waits for: who uses it gets an OperationalError at once."""
        if not self.closed:
            with suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
