"""Sleep until an execution is finished: mark its row as awaited, hear the NOTIFY of its end. Nothing is polled.

A notification may be lost all the same: triggers are disabled, or something between us and the server has forgotten the
connection. So a waiter looks at the row every PULSE seconds, and what is not answered then is not waited for.
"""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from asgiref.sync import sync_to_async

from django_ray import ears
from django_ray.clock import seconds

__all__ = ["await_end", "wait_for_end"]


def wait_for_end(database: str, result_id: UUID, timeout: float | None, pulse: float) -> None:
    """Return when the execution is finished or gone, or after timeout seconds; look every pulse seconds, 0 is never."""
    end = float("inf") if timeout is None else seconds() + timeout
    tries = 0
    while True:
        connection = ears.connection(database)
        try:
            with ears.listening(connection) as hear:
                looks = 0
                while (mark := ears.mark_awaited(database, result_id)) is ears.Mark.LOCKED and seconds() < end:
                    hear(str(result_id), min(end, seconds() + ears.pause_at_lock(looks)))
                    looks += 1
                if mark is ears.Mark.SET:
                    while not hear(str(result_id), min(end, _next_look(pulse))):
                        if seconds() >= end or ears.is_over(database, result_id):
                            break
                return
        except ears.TRANSIENT:
            connection.close()
            if seconds() >= end:
                raise
            time.sleep(min(ears.pause(tries), max(0, end - seconds())))
            tries += 1


async def await_end(database: str, result_id: UUID, pulse: float) -> None:
    """Return when the execution is finished or gone; look every pulse seconds, 0 is never."""
    tries = 0
    while True:
        try:
            async with ears.hearing(database, result_id, "results") as heard:
                if await ears.amark(database, result_id):
                    while await heard.next(pulse) is None:
                        if await sync_to_async(ears.is_over)(database, result_id):
                            heard.renew()  # it has not heard of this
                            return
                return
        except ears.TRANSIENT:
            await sync_to_async(ears.close)(database)
            await asyncio.sleep(ears.pause(tries))
            tries += 1


def _next_look(pulse: float) -> float:
    return seconds() + pulse if pulse else float("inf")
