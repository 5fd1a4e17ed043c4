"""PRUNE_AFTER: what ended long enough ago is deleted, oldest first: executions, and rows of supervisors and gates.

In batches, each one statement that skips what somebody else has locked: several supervisors share the work, and nobody
waits for it. Nothing depends on it, so no error of it ends the supervisor. Without PRUNE_AFTER it sends nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from anyio import current_time, sleep

from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_transient, one_line

if TYPE_CHECKING:
    from django_ray_worker.core.metrics import Metrics
    from django_ray_worker.database.store import Store

__all__ = ["Pruning"]

log = logging.getLogger("django_ray.pruning")

FIRST_SECONDS = 1.0  # After the start, when the first claims are made.
PERIOD_SECONDS = 3600.0
LEAST_PERIOD_SECONDS = 60.0  # However soon executions are to go.
BATCH = 1000
PAUSE_SECONDS = 0.1  # Between two batches: a million rows are not worth a slow claim.


class Pruning:
    """Of one supervisor."""

    def __init__(self, work: Store, metrics: Metrics, age: float | None) -> None:
        self._store = work
        self._metrics = metrics
        self._age = age  # Seconds that finished executions are kept; None is for ever.
        self._has_failed = False  # The last round.

    async def run(self) -> None:
        """Prune for ever, if at all."""
        if self._age is None:
            return
        period = max(LEAST_PERIOD_SECONDS, min(PERIOD_SECONDS, self._age))
        self._metrics.pruned_at = current_time()
        await sleep(FIRST_SECONDS)
        while True:
            try:
                await self._prune(self._age, self._store.prune, "executions")
                await self._prune(self._age, self._store.prune_workers, "supervisors")
                await self._prune(self._age, self._store.prune_gates, "gates")
                await self._prune(self._age, self._store.prune_flows, "flows")
            except DatabaseError as error:
                log.error("Pruning failed (%s); again in %.0f s.", one_line(error), period)  # noqa: TRY400 - one line
                self._has_failed = True
            else:
                self._has_failed = False
                self._get_on()
            await sleep(period)

    async def _prune(self, age: float, prune: Callable[[float, int], Awaitable[int]], what: str) -> None:
        """Delete until none is left that is old enough."""
        gone = tries = 0
        while True:
            try:
                deleted = await prune(age, BATCH)
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                wait = backoff(tries)
                if is_news(tries):
                    log.warning("Pruning waits for the database (%s); again in %.1f s.", one_line(error), wait)
                tries += 1
                await sleep(wait)
                continue
            gone, tries = gone + deleted, 0
            if not deleted:
                break
            self._get_on()
            await sleep(PAUSE_SECONDS)
        if gone:
            log.info("Deleted %d %s, done with more than %g s ago.", gone, what, age)

    def _get_on(self) -> None:
        """Take note of it: of a round that takes hours too, but not of what a round does that fails each time."""
        if not self._has_failed:
            self._metrics.pruned_at = current_time()
