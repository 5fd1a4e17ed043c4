"""What the page of a schedule shows beside its form: when it is due next, as the form has it, and its last runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError

from django_ray.admin.lists import rows_of
from django_ray.admin.schedule_form import PeriodField
from django_ray.agenda import aware
from django_ray.databases import database_of_row
from django_ray.models import RaySchedule, RayTaskExecution
from django_ray.rules import zone_of

__all__ = ["Preview", "Run", "moment_of", "preview", "runs_of"]

_TIMES = 5
_RUNS = 10


@dataclass(frozen=True, slots=True)
class Preview:
    """When a schedule that says so would be due next; or what is wrong with it."""

    times: Sequence[datetime] = ()  # Aware, in its time zone.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """An execution of a schedule."""

    row: RayTaskExecution
    tick: datetime | None  # Aware, in the time zone of the schedule.


def preview(cron: str, every: str, time_zone: str) -> Preview:
    """Return what these three texts of a form mean."""
    try:
        period = PeriodField(required=False).clean(every)
        row = RaySchedule(cron=cron.strip() or None, every=period, time_zone=time_zone)
        return Preview(times=row.next_times(_TIMES))
    except ValidationError as error:
        return Preview(problem=" ".join(error.messages))
    except (ValueError, OverflowError) as error:
        return Preview(problem=str(error))


def runs_of(schedule: RaySchedule) -> list[Run]:
    """Return its last executions, the latest tick first."""
    rows = rows_of(RayTaskExecution, database_of_row(schedule)).filter(schedule=schedule.pk).order_by("-tick")
    zone = _zone(schedule)
    return [
        Run(row, None if row.tick is None else aware(row.tick).astimezone(zone))
        for row in rows.defer("args", "kwargs", "options", "carrier", "result", "errors", "output")[:_RUNS]
    ]


def moment_of(text: str, schedule: RaySchedule) -> datetime:
    """Return a moment that somebody has typed, in the time zone of the schedule; ValueError."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=_zone(schedule)) if moment.tzinfo is None else moment


def _zone(schedule: RaySchedule) -> ZoneInfo | Any:
    try:
        return zone_of(schedule.time_zone)
    except ValueError:
        return UTC
