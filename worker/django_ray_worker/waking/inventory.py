"""What we have to run things on, as our row says it to the pages, and to whoever asks why something does not run.

Written when it registers, and when it is something else by now: one UPDATE for what changes within a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import CancelScope, Event, sleep

from django_ray_worker.core.tries import backoff
from django_ray_worker.database.errors import DatabaseError, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray_worker.core.identity import Identity
    from django_ray_worker.core.stock import Stock
    from django_ray_worker.database.store import Store

__all__ = ["Inventory"]

PAUSE_SECONDS = 1.0  # Between two UPDATEs.


class Inventory:
    """Of one supervisor, whose row says already what there is."""

    def __init__(self, work: Store, identity: Identity, stock: Callable[[], Stock]) -> None:
        self._store = work
        self._identity = identity
        self._stock = stock
        self._told = stock()
        self._changed = Event()

    def look(self) -> None:
        """Say it again, if it is something else by now."""
        self._changed.set()

    async def run(self) -> None:
        """Say it for ever."""
        tries = 0
        while True:
            if not tries:
                await self._changed.wait()
                self._changed = Event()
            tries = 0 if await self._tell() else tries + 1
            await sleep(backoff(tries) if tries else PAUSE_SECONDS)

    async def _tell(self) -> bool:
        """Tell whether our row says what there is: it may be locked, or the database away."""
        stock = self._stock()
        if stock == self._told:
            return True
        try:
            with CancelScope(shield=True):  # the statement has its own deadline
                if await self._store.tell_stock(self._identity.worker, stock):
                    return False
        except DatabaseError as error:
            if not is_transient(error):
                raise
            return False
        self._told = stock
        return True
