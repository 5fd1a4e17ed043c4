"""Asking Ray something that it may never answer: a head that stands still answers nobody, and Ray waits for it.

Each question has a thread of its own and a deadline, so that the event loop goes on. A thread that gets no answer
stays behind inside Ray. Nothing else of Ray's is asked: what submits and cancels calls does not wait for the head.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from anyio import move_on_after

__all__ = ["HEAD_SECONDS", "Answering", "ask"]

HEAD_SECONDS = 30.0  # That the head gets for a reply.


async def ask[Reply](question: Callable[[], Reply], seconds: float = HEAD_SECONDS) -> Reply:
    """Return the reply; TimeoutError when there is none.

    Not to be cut short: a thread that is inside Ray and Ray's shutdown had better not meet.
    """
    with move_on_after(seconds, shield=True):
        return await Answering(question).reply
    raise TimeoutError("The head of the Ray cluster does not answer.")


class Answering[Reply]:
    """A question that is asked in a thread; several may wait for the reply, each for as long as it likes.

    The thread stays until stay returns.
    """

    def __init__(self, question: Callable[[], Reply], stay: Callable[[], object] = bool) -> None:
        self._question = question
        self._stay = stay
        self._loop = asyncio.get_running_loop()
        self._reply: asyncio.Future[Reply] = self._loop.create_future()
        self._reply.add_done_callback(lambda reply: reply.exception())  # seen, although nobody may wait any more
        # Not of a pool, which ends threads that have been idle: with the thread that started them, Ray's processes end.
        threading.Thread(target=self._ask, name="django-ray-question", daemon=True).start()

    @property
    def reply(self) -> asyncio.Future[Reply]:
        """What is awaited; who stops waiting leaves it to the others."""
        return asyncio.shield(self._reply)

    @property
    def is_answered(self) -> bool:
        """Tell whether there is a reply."""
        return self._reply.done()

    def then(self, what: Callable[[Reply], object]) -> None:
        """Do this with the reply when it comes."""

        def done(reply: asyncio.Future[Reply]) -> None:
            if reply.exception() is None:
                what(reply.result())

        self._reply.add_done_callback(done)

    def _ask(self) -> None:
        try:
            reply = self._question()
        except BaseException as error:  # noqa: BLE001 - whatever Ray raises is the reply
            self._tell(partial(self._reply.set_exception, error))
        else:
            self._tell(partial(self._reply.set_result, reply))
        self._stay()

    def _tell(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what)
