"""What admits an execution: is it enqueued at all, behind which gate does it wait, and until when must it begin.

Unique is about enqueueing, a gate is about running. Both follow from the arguments of an enqueue: they are bound by the
signature, so that positional and named calls are equal. What is made here goes into columns of the row, from where
PostgreSQL and the supervisors take it: they need no code of the project for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self, cast

from django_ray.bounds import shown
from django_ray.rate import By, Rate, Unique, WhenFull
from django_ray.requirements import REQUIREMENTS
from django_ray.serialization import jsonable
from django_ray.signature import bound, parameters

if TYPE_CHECKING:
    from django.tasks import Task

__all__ = ["ADMISSION", "Admission"]

MOST_VALUE = 150  # Characters of what the executions behind a gate have in common; more is a hash of it.
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
        admission._check(where)  # noqa: SLF001 - of its own
        return admission

    def _check(self, where: str) -> None:
        if self.unique_by is not None and not self.unique:
            raise ValueError(f'{where}: unique_by says what is equal: say unique=True, "queued" or "replace" as well.')
        if self.when_full != "wait" and self.limit is None:
            raise ValueError(f"{where}: when_full is {self.when_full!r}, and there is no limit: say limit=... as well.")

    def check_names(self, task: Task[..., Any]) -> None:
        """Raise ValueError for parameters that the function of a task does not have."""
        known = parameters(task.func, takes_context=task.takes_context)
        for what in ("unique_by", "limit_by"):
            chosen = getattr(self, what)
            if known is None or chosen is None or callable(chosen):
                continue
            for name in chosen:
                if name not in known:
                    raise ValueError(
                        f"The task {task.name!r}: {what} names {name!r}, which is no parameter of its function; there "
                        f"are {', '.join(known) or 'none'}."
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

    def row(self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an enqueue with these arguments says of it: what django_ray_enqueue_admitted() takes.

        ValueError and TypeError when a function of the arguments gives what JSON cannot hold; whatever it raises.
        """
        row: dict[str, Any] = {}
        if self.unique:
            said = _canonical(self._value(task, self.unique_by, args, kwargs, "unique_by"))
            digest = sha256(f"{task.module_path}\n{said}".encode()).hexdigest()
            row["unique"] = f"{_HELD[self.unique]}:{digest[:48]}"
        if self.has_gate:
            row["gate"] = self.gate or task.module_path[-200:]
            if self.limit_by is not None:
                row["gate"] += f":{_text(self._value(task, self.limit_by, args, kwargs, 'limit_by'))}"
            rule: dict[str, Any] = {} if self.limit is None else {"limit": self.limit}
            if self.rate is not None:
                rule |= self.rate.rule
            if self.when_full != "wait":
                rule["full"] = self.when_full
            row["rule"] = rule
        if self.expires is not None:
            row["expires"] = f"{self.expires} seconds"
        return row

    @staticmethod
    def _value(
        task: Task[..., Any], chosen: By | None, args: Sequence[Any], kwargs: Mapping[str, Any], what: str
    ) -> Any:
        if callable(chosen):
            function = cast("Callable[..., Any]", chosen)
            return jsonable(function(*args, **kwargs), f"what {what} of the task {task.name!r} returns")
        values = bound(task.func, args, kwargs, takes_context=task.takes_context)
        if values is None:  # a builtin that does not tell its parameters
            return [list(args), dict(kwargs)]
        if chosen is None:
            return sorted(values.items())
        names = cast("Sequence[str]", chosen)
        return values[names[0]] if len(names) == 1 else [values[name] for name in names]


_HELD = {True: "u", "queued": "q", "replace": "r"}


def _canonical(value: Any) -> str:
    """Return the JSON of a value, which equal ones have in common.

    What is no JSON is what a parameter is by default: NUL, which no argument has, and no address of an object.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=lambda default: f"\0{type(default).__name__}")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else _canonical(value)
    if not text or len(text) > MOST_VALUE:
        return sha256(text.encode()).hexdigest()[:48]
    return text
