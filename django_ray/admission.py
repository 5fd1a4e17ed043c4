"""What admits an execution: is it enqueued at all, behind which gate does it wait, and until when must it begin.

Unique is about enqueueing, a gate is about running. Here is what a task or a queue says of it; admitting.py makes of
it, and of the arguments of an enqueue, what the row says. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from django_ray.bounds import shown
from django_ray.rate import By, Rate, Unique, WhenFull
from django_ray.requirements import REQUIREMENTS

__all__ = ["ADMISSION", "Admission"]

# What a task says of it.
ADMISSION = tuple(name for name, place in REQUIREMENTS.items() if place.part == "admission")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a task says of it, checked; or what a queue says for tasks that do not."""

    unique: Unique = False
    unique_by: By | None = None
    limit: int | None = None
    limit_by: By | None = None
    gate: str | None = None
    rate: Rate | None = None
    when_full: WhenFull = "wait"
    expires: float | None = None  # Seconds.
    batch_by: By | None = None
    lane: str | None = None  # It runs in other places than slots: of which shape, as TaskOptions has it.

    @classmethod
    def read(cls, said: Mapping[str, Any], where: str) -> Self | None:
        """Read what is said of it, None for nothing; ValueError names what cannot work."""
        values: dict[str, Any] = {}
        for name in ADMISSION:
            if (value := said.get(name)) is None:
                continue
            try:
                values[name] = REQUIREMENTS[name].reader(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: {name} is {shown(value)}: {error}") from None
        if not values:
            return None
        admission = cls(**values)
        admission._check(where)
        return admission

    def _check(self, where: str) -> None:
        if self.unique_by is not None and not self.unique:
            raise ValueError(f'{where}: unique_by says what is equal: say unique=True, "queued" or "replace" as well.')
        if self.when_full != "wait" and self.limit is None:
            raise ValueError(f"{where}: when_full is {self.when_full!r}, and there is no limit: say limit=... as well.")
        if self.batch_by is not None and self.has_gate:
            raise ValueError(
                f"{where}: batch_by is for tasks without a gate: behind one, limit_by says which share a batch."
            )

    @property
    def has_gate(self) -> bool:
        """Whether executions wait behind a gate."""
        return (self.limit, self.limit_by, self.gate, self.rate) != (None, None, None, None)

    def over(self, queue: Self | None, queue_name: str) -> Self:
        """Return this with what the queue says where this says nothing."""
        if queue is None:
            return self
        changes: dict[str, Any] = {}
        if self.expires is None:
            changes["expires"] = queue.expires
        if not self.has_gate and queue.has_gate:
            changes |= queue.of_queue(queue_name)
        return replace(self, **changes) if changes else self

    def of_queue(self, queue_name: str) -> dict[str, Any]:
        """Return the gate of all tasks of a queue that have none of their own."""
        return {
            "limit": self.limit,
            "rate": self.rate,
            "when_full": self.when_full,
            "gate": self.gate or f"queue {queue_name}"[:100].replace(":", " "),
        }
