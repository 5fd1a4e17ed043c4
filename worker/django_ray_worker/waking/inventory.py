"""What our cluster has in all, and our slots, as our row says it to whoever asks why something does not run.

Written when it registers, and when a look at the cluster has found something else: one UPDATE for each change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import CancelScope, Event, sleep

from django_ray_worker.core.tries import backoff
from django_ray_worker.database.errors import DatabaseError, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray_worker.core.identity import Identity
    from django_ray_worker.database.store import Store
    from django_ray_worker.waking.registration import Resources

__all__ = ["Inventory"]


class Inventory:
    """Of one supervisor, whose row says already what there is."""

    def __init__(self, work: Store, identity: Identity, resources: Resources, slots: Callable[[], int]) -> None:
        self._store = work
        self._identity = identity
        self._resources = resources
        self._slots = slots
        self._told = resources(), slots()
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
            if tries:
                await sleep(backoff(tries))

    async def _tell(self) -> bool:
        """Tell whether our row says what there is: it may be locked, or the database away."""
        has, slots = self._resources(), self._slots()
        if has is None or (has, slots) == self._told:
            return True
        try:
            with CancelScope(shield=True):  # the statement has its own deadline
                if await self._store.tell_resources(self._identity.worker, has, slots):
                    return False
        except DatabaseError as error:
            if not is_transient(error):
                raise
            return False
        self._told = has, slots
        return True
