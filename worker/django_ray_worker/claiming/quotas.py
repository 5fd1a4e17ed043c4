"""How many calls of a queue may run here at once, where somebody has said so: `--queue mail:4`.

A quota is a bound, not a reservation: the slots are shared by all queues. Between queues of one priority it is in turn
then: the next execution is of the queue that has the fewest here. A supervisor without quotas pays nothing for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from django_ray_worker.core.claim import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django_ray_worker.core.claim import Claim

__all__ = ["Quotas"]


class Quotas:
    """Of one supervisor."""

    def __init__(
        self,
        queues: Sequence[str] | None = None,
        of: Mapping[str, int] | None = None,
        *,
        on_room: Callable[[], object] = bool,
    ) -> None:
        self._queues = queues or ()
        self._of = dict(of or {})
        self._on_room = on_room  # A queue that was full has room again.
        self._calls = Counter[str]()  # That run, or wait behind those that run.
        self._full = frozenset[str]()  # The queues that the last claim has left something of, or was not for.

    def __bool__(self) -> bool:
        return bool(self._of)

    def has_place(self, queue: str) -> bool:
        """Tell whether another call of a queue may run."""
        return self._calls[queue] < self._of.get(queue, self._calls[queue] + 1)

    def are_shared(self, queue: str, other: str) -> bool:
        """Tell whether executions of both may be in one call: it counts for one queue."""
        return queue == other or not (queue in self._of or other in self._of)

    def take(self, claims: Sequence[Claim]) -> None:
        """Count a call of these."""
        if self._of:
            self._calls[claims[0].queue_name] += 1

    def withdraw(self, claim: Claim) -> None:
        """Take note that a claim which has waited here is gone: its queue has room again."""
        if claim.queue_name in self._of:
            self._on_room()

    def release(self, claims: Sequence[Claim]) -> None:
        """Count it no more."""
        queue = claims[0].queue_name
        if self._of:
            self._calls[queue] -= 1
            if queue in self._full:
                self._on_room()

    def turns(self, waiting: Iterable[Claim], per_call: int) -> Turns | None:
        """Return what may be claimed beside those that wait here already; None where there are no quotas.

        per_call is how many should fit in a call.
        """
        if not self._of:
            return None
        held = Counter(claim.queue_name for claim in waiting)
        rooms = {
            queue: max(0, (quota - self._calls[queue]) * per_call - held[queue]) for queue, quota in self._of.items()
        }
        return Turns(
            queues=[queue for queue in self._queues if rooms.get(queue, 1)],
            rooms=rooms,
            held={queue: held[queue] + self._calls[queue] for queue in self._queues},
        )

    def left(self, queue: str) -> int | None:
        """Return how many more calls of a queue may run; None where it has no quota."""
        return self._of[queue] - self._calls[queue] if queue in self._of else None

    @property
    def parts(self) -> list[tuple[list[str] | None, int | None]]:
        """The queues for which more slots would help, and for how many executions; None is all of them, and any."""
        if not self._of:
            return [(None, None)]
        free = [queue for queue in self._queues if queue not in self._of]
        bound = [queue for queue in self._of if self.has_place(queue)]
        return [(free, None), (bound, sum(self.left(queue) or 0 for queue in bound))]

    def ask(self) -> None:
        """Take note that a claim is under way: until it is known what it has left, any queue may be full."""
        self._full = frozenset(self._of)

    def note(self, turns: Turns, claims: Sequence[Claim]) -> None:
        """Take note of a claim: a queue that had no more room than was taken may have more."""
        taken = Counter(claim.queue_name for claim in claims)
        self._full = frozenset(queue for queue, room in turns.rooms.items() if taken[queue] >= room)
