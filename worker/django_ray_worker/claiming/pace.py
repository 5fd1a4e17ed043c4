"""How long the bodies of each task take, as observed: how many of them one call may carry.

Knows no clock and no row. A task that has not been seen runs alone until it has shown to be short.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from django_ray.runtime.call import BUDGET_SECONDS, PATIENCE_SECONDS

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Claim

__all__ = ["Pace"]

MEMORY = 100  # Bodies whose mean is kept: one that was held up by chance must not count for much.
DISTRUST_SECONDS = 0.2  # After a loss: some three hundred bodies of that task run alone.
MOST_TASKS = 10_000  # Tasks to remember; the one not seen for the longest is forgotten.
_UNSEEN = BUDGET_SECONDS, 1


class Pace:
    """Mean seconds per body, for each task."""

    def __init__(self) -> None:
        self._means: OrderedDict[str, tuple[float, int]] = OrderedDict()  # And of how many.

    def of(self, claim: Claim) -> float:
        """Return the seconds to expect."""
        return self._means.get(claim.callable_path, _UNSEEN)[0]

    def knows(self, claim: Claim) -> bool:
        """Tell whether a body of that task has been seen."""
        return claim.callable_path in self._means

    def observe(self, claim: Claim, seconds: float) -> None:
        """Take note of how long a body took. Above the patience of a call all are alike: it is settled then."""
        seconds = min(seconds, PATIENCE_SECONDS)
        mean, number = self._means.get(claim.callable_path, _UNSEEN)
        number = min(number + 1, MEMORY)
        self._keep(claim, mean + (seconds - mean) / number, number)

    def distrust(self, claim: Claim) -> None:
        """Take note that a body may have ended its process."""
        self._keep(claim, DISTRUST_SECONDS, MEMORY)

    def _keep(self, claim: Claim, mean: float, number: int) -> None:
        self._means[claim.callable_path] = mean, number
        self._means.move_to_end(claim.callable_path)
        if len(self._means) > MOST_TASKS:
            self._means.popitem(last=False)
