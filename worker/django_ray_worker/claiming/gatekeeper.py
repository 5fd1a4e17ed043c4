"""What will not begin is turned away: what has expired, and at a full gate what does not want to wait there.

And what waits in a flow is looked at again if somebody was in the way before. An actor of its own, because none of this
may depend on free slots. It sends nothing unless somebody has told it to look: an enqueue, a claim that saw what
expires next, an expiry that saw the one after it, a new session, or a pulse that found what was missed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, current_time, move_on_after

from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_data_fault, is_transient, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray_worker.core.metrics import Metrics
    from django_ray_worker.database.store import Store

__all__ = ["Gatekeeper"]

log = logging.getLogger("django_ray.claimer")


class Gatekeeper:
    """Of one supervisor."""

    def __init__(self, work: Store, metrics: Metrics, *, may_write: Callable[[], bool]) -> None:
        self._store = work
        self._metrics = metrics
        self._may_write = may_write  # There is a session.
        self._changed = Event()
        # Somebody may stand at a full gate who does not want to wait, or be late in a flow.
        self._is_full = False
        self._expires = float("inf")  # When something expires, by the loop's clock.
        self._tries = 0

    def look(self) -> None:
        """Look at the gates: somebody has come who does not want to wait; and at flows: somebody was in the way."""
        self._is_full = True
        self._changed.set()

    def expire_in(self, seconds: float | None) -> None:
        """Take note when something expires next, as far as one has seen; None is never."""
        if seconds is None:
            return
        at = current_time() + max(0.0, seconds)
        if at < self._expires:
            self._expires = at
            self._changed.set()

    async def run(self) -> None:
        """Turn away for ever."""
        while True:
            with move_on_after(self._expires - current_time()):
                await self._changed.wait()
            self._changed = Event()
            await self._turn()

    async def _turn(self) -> None:
        if not self._may_write():
            self._expires = float("inf")
            return  # the next session looks
        is_full, self._is_full, has_skipped, is_locked = self._is_full, False, False, False
        try:
            # The statements have their own deadlines.
            with CancelScope(shield=True):
                if is_full:
                    has_skipped = await self._make_way()
                    has_skipped = await self._store.settle_late() or has_skipped
                is_locked = await self._expire()
        except DatabaseError as error:
            # No row ends a supervisor.
            if not (is_transient(error) or is_data_fault(error)):
                raise
            if is_news(self._tries):
                log.warning("Gates wait for the database (%s); it is tried again.", one_line(error))
            self._try_again(is_full=is_full)
        else:
            if has_skipped or is_locked:  # somebody's lock was in the way: it is looked again after growing pauses
                self._try_again(is_full=has_skipped)
            else:
                self._tries = 0

    async def _make_way(self) -> bool:
        made = await self._store.make_way()
        self._metrics.turned_away += made.refused
        return made.has_skipped

    async def _expire(self) -> bool:
        """End what has expired; tell whether somebody has locked some of it."""
        if current_time() < self._expires:
            return False
        self._expires = float("inf")  # before it is asked: what somebody takes note of meanwhile counts
        while (expired := await self._store.expire()).number:  # so many at a time
            self._metrics.expired += expired.number
        self.expire_in(expired.next_in)
        return expired.was_due

    def _try_again(self, *, is_full: bool) -> None:
        self._is_full = self._is_full or is_full
        at = current_time() + backoff(self._tries)
        self._expires = at if self._expires <= current_time() else min(self._expires, at)
        self._tries += 1
