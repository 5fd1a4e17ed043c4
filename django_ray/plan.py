"""What the code says of a schedule: @schedule, or an entry of OPTIONS["SCHEDULES"]. Read in one place; pure.

Every message names the argument, the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, cast

from django_ray.bounds import shown
from django_ray.naming import near
from django_ray.requirements import REQUIREMENTS, stored
from django_ray.rules import Missed, Overlap, overlap_of, read_policy, read_rule
from django_ray.serialization import storable

__all__ = ["PLAN", "Plan"]

MOST_NAME = 255  # Characters: the width of the column.
# What an entry of SCHEDULES may say, beside the options of a task.
PLAN = (
    "cron", "every", "args", "kwargs", "name", "time_zone", "missed", "missed_within", "overlap", "queue_name",
    "priority",
)  # fmt: skip
# What beat calls it.
_FOREIGN = {
    "schedule": 'say "cron": "..." or "every": timedelta(...).',
    "crontab": 'say "cron": "..."',
    "options": 'say "queue_name", "priority" and what else a task takes beside the others.',
    "tz": 'say "time_zone".',
    "timezone": 'say "time_zone".',
    "queue": 'say "queue_name".',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When to enqueue a task by itself, and how. It can be read: read() has looked."""

    name: str | None = None  # None is that of the function.
    cron: str | None = None
    every: timedelta | None = None
    time_zone: str | None = None  # None is TIME_ZONE.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    missed: Missed = "one"
    missed_within: timedelta | None = None
    overlap: Overlap = "skip"
    queue_name: str | None = None  # None is that of the task, as for the others.
    priority: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # Of Requirements.

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Read what was said; TypeError or ValueError."""
        known = (*PLAN, *REQUIREMENTS)
        for key in said:
            if key not in known:
                hint = f": {_FOREIGN[key]}" if key in _FOREIGN else near(shown(key).strip("'\""), known)
                raise ValueError(f"a schedule has no {shown(key)}{hint}")
        values = {name: value for name, value in said.items() if name in PLAN and value is not None}
        options = {name: value for name, value in said.items() if name in REQUIREMENTS and value is not None}
        read_rule(values.get("cron"), values.get("every"), values.get("time_zone", "UTC"))
        read_policy(values.get("missed", "one"), values.get("missed_within"))
        overlap_of(values.get("overlap", "skip"))
        stored(options, "the schedule")
        name = values.get("name")
        if name is not None and (not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not storable(name)):
            raise ValueError(f"name is {shown(name)}: it must be a text of 1 to {MOST_NAME} characters.")
        if "args" in values:
            values["args"] = _positional(values["args"])
        if "kwargs" in values:
            values["kwargs"] = _named(values["kwargs"])
        return cls(**values, options=options)


def _positional(args: Any) -> tuple[Any, ...]:
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise TypeError(f"args is {shown(args)}: it must be a list of the positional arguments.")
    return tuple(args)


def _named(kwargs: Any) -> dict[str, Any]:
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs is {shown(kwargs)}: it must be a dictionary of the named arguments.")
    return dict(cast("Mapping[str, Any]", kwargs))
