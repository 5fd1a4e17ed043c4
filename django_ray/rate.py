"""What is said of when an execution is admitted: the words, and how often. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from django_ray.bounds import LONGEST, LONGEST_IN_WORDS, is_number, is_whole, shown

__all__ = ["By", "Rate", "Unique", "WhenFull"]

type Unique = bool | Literal["queued", "replace"]
type WhenFull = Literal["wait", "cancel_new", "cancel_running"]
# The names of parameters, or a function of the arguments whose result JSON can hold.
type By = str | Sequence[str] | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in a period, evenly: Rate(100, per=timedelta(minutes=1)) is one in 0.6 s.

    With burst, so many may start at once when none has for a while. ValueError for what is no rate.
    """

    count: int
    per: timedelta
    burst: int = 1

    def __post_init__(self) -> None:
        if not is_whole(self.count, 1) or not is_whole(self.burst, 1):
            raise ValueError(f"a rate counts whole starts, at least 1: count is {self.count!r}, burst {self.burst!r}.")
        per: Any = self.per  # what users pass is not always what the annotation says
        if not isinstance(per, timedelta) or not is_number(per.total_seconds(), 1e-6, LONGEST):
            raise ValueError(
                f"the period of a rate is a timedelta above 0 and at most {LONGEST_IN_WORDS}, not {shown(self.per)}."
            )

    @property
    def rule(self) -> dict[str, Any]:
        """What a row says of it."""
        return {"count": self.count, "per": self.per.total_seconds(), "burst": self.burst}
