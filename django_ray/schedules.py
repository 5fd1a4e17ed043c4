"""@schedule: the task below is enqueued by itself. It stands under @task, on Django 6.0 as well, and can be stacked.

It only notes down what was said; declaring.py makes rows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Unpack, cast

from django.tasks import Task
from django.tasks.exceptions import InvalidTask

from django_ray.plan import Plan
from django_ray.requirements import Requirements
from django_ray.rules import Missed, Overlap

__all__ = ["plans_of", "schedule"]

_ATTRIBUTE = "_django_ray_schedules"


def schedule[Function: Callable[..., Any]](
    cron: str | None = None,
    *,
    every: timedelta | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    time_zone: str | None = None,
    missed: Missed = "one",
    missed_within: timedelta | None = None,
    overlap: Overlap = "skip",
    queue_name: str | None = None,
    priority: int | None = None,
    **options: Unpack[Requirements],
) -> Callable[[Function], Function]:
    """Have supervisors enqueue the task with these arguments, at the times of a cron expression or after each period.

        @task
        @schedule("0 3 * * *", time_zone="Europe/Berlin")
        def nightly(): ...

    name is that of the function unless given, and one of its kind in a backend. time_zone is the project's TIME_ZONE.
    missed says what becomes of ticks while nobody was there: "one" enqueues the last one, "skip" none, "all" each;
    those that are older than missed_within, which is a day, are left out. overlap says what becomes of a tick while
    the run before is unfinished: "skip", or "allow". What else a task can be declared with goes for these executions.

    InvalidTask when it cannot be read.
    """
    if cron is not None and not isinstance(cast("Any", cron), str):
        raise InvalidTask('@schedule wants to know when: @schedule("0 3 * * *"), or @schedule(every=timedelta(...)).')
    said = {
        "cron": cron, "every": every, "args": args, "kwargs": kwargs, "name": name, "time_zone": time_zone,
        "missed": missed, "missed_within": missed_within, "overlap": overlap, "queue_name": queue_name,
        "priority": priority, **options,
    }  # fmt: skip
    try:
        plan = Plan.read(said)
    except (TypeError, ValueError) as error:
        raise InvalidTask(f"@schedule: {error}") from None

    def declare(function: Function) -> Function:
        if isinstance(function, Task):
            raise InvalidTask(f"@schedule of {function.name!r} must stand below @task, not above.")
        # From below: what is written first comes first.
        setattr(function, _ATTRIBUTE, (plan, *getattr(function, _ATTRIBUTE, ())))
        return function

    return declare


def plans_of(task: Task[..., Any]) -> tuple[Plan, ...]:
    """Return what @schedule says of a task."""
    return getattr(task.func, _ATTRIBUTE, ())
