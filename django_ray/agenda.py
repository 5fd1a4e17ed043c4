"""What schedules do next, and what they did last, for who shows it. Nothing is fired here.

A supervisor writes down when to look again. Where none has looked yet, the next time follows from the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import OuterRef, Subquery
from django.db.models.functions import Now
from django.utils import timezone

from django_ray.models import RaySchedule, RayTaskExecution

__all__ = [
    "OVERDUE",
    "Upcoming",
    "all_schedules",
    "aware",
    "next_of",
    "overdue_of",
    "soonest",
    "upcoming",
    "with_last",
    "with_now",
]

OVERDUE = timedelta(seconds=5)  # Later than that, nobody is there who fires.
_FEW = 10
_MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcoming:
    """A schedule that is fired, and when."""

    row: RaySchedule
    at: datetime | None  # Aware, in the time zone of the schedule; None where its rule cannot be read, or says never.
    overdue: float | None  # Seconds since a tick that nobody has decided about.


def upcoming(aliases: Iterable[str], using: str) -> Sequence[Upcoming]:
    """Return the schedules of these backends that fire next, the first one first, and those that cannot.

    Two statements for each backend, and at most twenty rows of an index, however many there are.
    """
    found = [
        Upcoming(row=row, at=next_of(row), overdue=overdue_of(row)) for alias in aliases for row in _first(alias, using)
    ]
    return soonest(found)


def soonest(found: Iterable[Upcoming]) -> Sequence[Upcoming]:
    """Return the first few of them."""
    return sorted(found, key=_by_time)[:_FEW]


def _first(alias: str, using: str) -> Iterator[Any]:
    active = with_now(RaySchedule.objects.using(using)).filter(backend=alias, paused_at=None, gone_at=None)
    yield from active.filter(next_at__isnull=False).order_by("next_at")[:_FEW]
    yield from active.filter(next_at=None).order_by()[:_FEW]


def all_schedules(using: str) -> Sequence[Any]:
    """Return the schedules in a database, with the present, as far as anybody wants to read them."""
    rows = RaySchedule.objects.using(using)
    return list(with_now(rows).order_by("backend", "name")[:_MOST])


def _by_time(one: Upcoming) -> tuple[bool, float, str]:
    return one.at is None, 0 if one.at is None else one.at.timestamp(), one.row.name


def next_of(row: Any) -> datetime | None:
    """Return when a schedule is due next, aware and in its time zone; None is never, or that nobody can tell.

    What is overdue is due at a time that has passed. The row has the present, by with_now().
    """
    if not row.is_active:
        return None
    try:
        if row.next_at is None:
            return next(iter(row.next_times(1, aware(row.now))), None)
        row.rule  # noqa: B018 - one that cannot be read does not fire
        return aware(row.next_at).astimezone(ZoneInfo(row.time_zone))
    except (ValueError, OverflowError):
        return None


def overdue_of(row: Any) -> float | None:
    """Return for how many seconds a tick has been waiting for somebody to decide about it; None if none has."""
    if not row.is_active or row.next_at is None:
        return None
    late = aware(row.now) - aware(row.next_at)
    return late.total_seconds() if late > OVERDUE else None


def next_times(row: Any, number: int = 5) -> list[datetime]:
    """Return the next ticks of a schedule from now on, also of one that is paused; none where nobody can tell."""
    try:
        return list(row.next_times(number, aware(row.now)))
    except (ValueError, OverflowError):
        return []


def lag_of(row: RaySchedule) -> float | None:
    """Return the seconds from the last tick that was fired to its enqueue; None if that is no number."""
    return row.lag if row.lag is not None and isfinite(row.lag) else None


def with_now(rows: Any) -> Any:
    """Annotate schedules with the present, by the clock that counts."""
    return rows.annotate(now=Now())


def with_last(rows: Any) -> Any:
    """Annotate schedules with the execution of their last tick: last_id, last_state, last_tick. A probe for each."""
    executions: Any = RayTaskExecution._base_manager.filter(schedule=OuterRef("pk")).order_by("-tick")  # noqa: SLF001
    names = {"last_id": "pk", "last_state": "state", "last_tick": "tick"}
    return rows.annotate(**{name: Subquery(executions.values(column)[:1]) for name, column in names.items()})


def aware(moment: datetime) -> datetime:
    """Return a moment that a model has read with its time zone, also where the project has none."""
    return (timezone.make_aware(moment) if timezone.is_naive(moment) else moment).astimezone(UTC)
