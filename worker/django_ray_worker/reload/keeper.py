"""The process that keeps Ray while supervisors come and go, as the watching process sees it.

It is started when the first supervisor asks for a Ray, and again when the next one asks for another kind of Ray, or
when this one is gone. It ends when nobody talks to it any more, and Ray with it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CancelScope, Lock, move_on_after

from django_ray_worker.reload.process import Started
from django_ray_worker.watcher import TOKEN

__all__ = ["Keeper"]

COMMAND = "from django_ray_worker.running.onray.keeping import main; main()"
END_SECONDS = 30.0  # That Ray gets to end.


class Keeper:
    """None is there before it is asked for."""

    def __init__(self, log_level: str, log_format: str) -> None:
        self._logging = (log_level, log_format)
        self._lock = Lock()
        self._process: Started | None = None
        self._request: dict[str, Any] = {}
        self._reply: dict[str, Any] = {}
        # Of all who join: whether a Ray is there is known only later.
        self.environment = {TOKEN: secrets.token_hex(32)}

    @property
    def address(self) -> str | None:
        """Where Ray is, if one is kept."""
        return None if self._process is None or self._process.has_ended else self._reply.get("address")

    async def ask(
        self, gone: str, request: dict[str, Any], *, until_alone: Callable[[], Awaitable[None]]
    ) -> dict[str, Any]:
        """Return what is to be told of a Ray like that, which is started if need be; until_alone, if one has to end."""
        async with self._lock:
            address = self.address
            if address is not None and (gone == address or request != self._request):
                if gone != address:
                    await until_alone()
                await self._close()
                address = None
            if address is None:
                await self._start(request)
            return self._reply

    async def close(self) -> None:
        """End it, and Ray with all that it has started."""
        with CancelScope(shield=True):
            await self._close()

    async def _start(self, request: dict[str, Any]) -> None:
        await self._close()
        self._request, self._reply = request, {}
        self._process = await Started.start(
            [sys.executable, "-c", COMMAND, str(request["cpus"] or 0), *self._logging],
            {**self.environment, "DJANGO_SETTINGS_MODULE": request["settings"], "PYTHONPATH": request["path"]},
            unblocks=True,
        )
        self._reply = await self._process.next_word() or {"failed": "The process that keeps Ray has ended."}

    async def _close(self) -> None:
        if self._process is None:
            return
        self._process.hang_up()
        with move_on_after(END_SECONDS):
            await self._process.wait()
        self._process.kill()
        await self._process.wait()
        self._process = None
