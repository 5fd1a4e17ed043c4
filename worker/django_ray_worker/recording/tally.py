"""What happens to executions, counted: written down minute by minute for people to look at, and shown to Prometheus.

Written soon after something has happened, and once a second at most; while nothing happens, nothing is written. Counts
are no promise: those of the last second are lost with the process.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from anyio import Event, sleep

from django_ray_worker.core.policy import Cancel, Fail, Postpone, Release, Retry, Succeed, Verdict
from django_ray_worker.database.errors import DatabaseError, is_transient, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django_ray_worker.core.claim import Claim
    from django_ray_worker.core.identity import Identity
    from django_ray_worker.database.store import Store

__all__ = ["Observer", "Tally"]

log = logging.getLogger("django_ray.tally")

SETTLE_SECONDS = 0.05  # What comes together is written together.
PERIOD_SECONDS = 1.0


class Observer(Protocol):
    """Who wants to know as well, of each execution."""

    def waited(self, queue: str, seconds: float) -> None:
        """Take note of a first claim, so many seconds after it could have been."""
        ...

    def ran(self, queue: str, seconds: float) -> None:
        """Take note of a body that has run for so many seconds."""
        ...

    def batched(self, queue: str, size: int) -> None:
        """Take note of a call in a lane, which so many executions share."""
        ...

    def ended(self, queue: str, verdict: str) -> None:
        """Take note of a verdict: succeeded, failed, retried, cancelled or postponed."""
        ...


@dataclass(slots=True)
class _Counts:
    queue_name: str
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    cancelled: int = 0
    postponed: int = 0
    waited: float = 0
    longest_wait: float = 0

    def add(self, other: _Counts) -> None:
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.retried += other.retried
        self.cancelled += other.cancelled
        self.postponed += other.postponed
        self.waited += other.waited
        self.longest_wait = max(self.longest_wait, other.longest_wait)


class Tally:
    """Of one supervisor."""

    def __init__(self, store: Store, observer: Observer | None = None) -> None:
        self._store = store
        self._observer = observer
        self._counts: dict[str, _Counts] = {}
        self._ended = Counter[str]()
        self._changed = Event()

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Take note of claims."""
        for claim in claims:
            if claim.waited is not None:
                counts = self._of(claim)
                counts.waited += claim.waited
                counts.longest_wait = max(counts.longest_wait, claim.waited)
                if self._observer is not None:
                    self._observer.waited(claim.queue_name, claim.waited)
        if claims:
            self.publish()

    def ran(self, claim: Claim, seconds: float) -> None:
        """Take note of how long a body took."""
        if self._observer is not None:
            self._observer.ran(claim.queue_name, seconds)

    def batched(self, claims: Sequence[Claim]) -> None:
        """Take note of a call in a lane."""
        if self._observer is not None:
            self._observer.batched(claims[0].queue_name, len(claims))

    def settled(self, claim: Claim) -> None:
        """Take note of one that succeeded and is recorded already."""
        self._end(claim, "succeeded")

    def ended(self, claim: Claim, verdict: Verdict) -> None:
        """Take note of a verdict."""
        match verdict:
            case Succeed():
                self._end(claim, "succeeded")
            case Fail():
                self._end(claim, "failed")
            case Retry():
                self._end(claim, "retried")
            case Cancel():
                self._end(claim, "cancelled")
            case Postpone():
                self._end(claim, "postponed")
            case Release():
                pass  # as if nothing had happened

    @property
    def sum(self) -> str:
        """What has become of all executions here, in words."""
        return ", ".join(f"{number} {verdict}" for verdict, number in sorted(self._ended.items())) or "nothing has run"

    def publish(self) -> None:
        """Have what was counted written soon, and whoever shows it told: also when only rows have changed."""
        self._changed.set()

    async def run(self, identity: Identity) -> None:
        """Write for ever."""
        while True:
            await self._changed.wait()
            self._changed = Event()
            await sleep(SETTLE_SECONDS)
            await self.write(identity.worker)
            await sleep(PERIOD_SECONDS)

    async def write(self, worker: int) -> None:
        """Write now; in an outage the counts are kept. No error ends the supervisor: nothing depends on counts."""
        counts, self._counts = self._counts, {}
        try:
            await self._store.count(worker, map(asdict, counts.values()))
        except DatabaseError as error:
            if not is_transient(error):
                log.warning("Counts cannot be written, and are dropped (%s).", one_line(error))
                return
            log.debug("Counts wait for the database (%s).", one_line(error))
            for kept in counts.values():
                self._counts.setdefault(kept.queue_name, _Counts(kept.queue_name)).add(kept)
            self._changed.set()

    def _end(self, claim: Claim, verdict: str) -> None:
        counts = self._of(claim)
        setattr(counts, verdict, getattr(counts, verdict) + 1)
        self._ended[verdict] += 1
        if self._observer is not None:
            self._observer.ended(claim.queue_name, verdict)

    def _of(self, claim: Claim) -> _Counts:
        if (counts := self._counts.get(claim.queue_name)) is None:
            counts = self._counts[claim.queue_name] = _Counts(claim.queue_name)
        return counts
