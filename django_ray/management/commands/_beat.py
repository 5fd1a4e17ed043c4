"""Of django_ray_beat: the rows of django-celery-beat, by the names of its tables, and the text of the settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.tasks import Task
from django.utils.module_loading import import_string

from django_ray.beat import Said, Unsaid, entry_of
from django_ray.runtime.foreign import contained

__all__ = ["TABLE", "has_rows", "lines_of", "rows_of"]

TABLE = "django_celery_beat_periodictask"
_ROWS = """
SELECT
    task.name, task.task, task.args, task.kwargs, task.queue, task.exchange, task.routing_key, task.headers,
    task.priority, task.expires, task.expire_seconds, task.one_off, task.start_time, task.enabled,
    task.solar_id, task.interval_id, task.crontab_id, period.every, period.period,
    tab.minute, tab.hour, tab.day_of_month, tab.month_of_year, tab.day_of_week, tab.timezone
FROM django_celery_beat_periodictask AS task
LEFT JOIN django_celery_beat_intervalschedule AS period ON period.id = task.interval_id
LEFT JOIN django_celery_beat_crontabschedule AS tab ON tab.id = task.crontab_id
ORDER BY task.name
"""
_OPTIONS = ("queue", "exchange", "routing_key", "headers", "priority", "expires", "expire_seconds", "start_time")
_UNITS = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}


class _Row:
    """What a row refers to, with the attributes by which beat.py knows it."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def has_rows(alias: str) -> bool:
    """Tell whether the tables are there."""
    return TABLE in connections[alias].introspection.table_names()


def rows_of(alias: str) -> Iterator[Said | Unsaid]:
    """Read them."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_ROWS)
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    yield from map(_entry, rows)


def _entry(row: Mapping[str, Any]) -> Said | Unsaid:
    name = row["name"]
    if not row["enabled"]:
        return Unsaid(name=name, reason="it is disabled.")
    try:
        args, kwargs, headers = (json.loads(row[column] or "null") for column in ("args", "kwargs", "headers"))
        options = {**{column: row[column] for column in _OPTIONS}, "headers": headers}
        return entry_of(
            name, row["task"], _schedule(row), args=args or [], kwargs=kwargs or {}, options=options,
            time_zone=row["timezone"],
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        return Unsaid(name=name, reason=str(error))


def _schedule(row: Mapping[str, Any]) -> Any:
    if row["solar_id"] is not None:
        return _Row(lat=None)
    if row["one_off"] or (row["crontab_id"] is None and row["interval_id"] is None):
        return _Row(clocked_time=None)
    if row["crontab_id"] is not None:
        return _Row(**{name: row[name] for name in ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")})
    if row["period"] not in _UNITS:
        raise ValueError(f"it is due every {row['every']} {row['period']}, and a second is the least here.")
    return timedelta(seconds=row["every"] * _UNITS[row["period"]])


def lines_of(sources: Sequence[tuple[str, Sequence[Said | Unsaid]]], zone: str) -> Iterator[str]:
    """Yield a piece of Python: what was read, and in comments what could not be said. Times are of this zone."""
    said = {one.name: one for _, found in sources for one in found if isinstance(one, Said)}
    counts = " and ".join(f"{source} ({len(found)})" for source, found in sources)
    yield f'# For OPTIONS["SCHEDULES"], from {_comment(counts)}. Crontabs are read in the time zone {zone}.'
    yield "from datetime import timedelta"
    yield ""
    yield "SCHEDULES = {"
    for one in said.values():
        yield from (f"    # {_comment(note)}" for note in (*one.notes, *_doubts(one)))
        yield f"    {one.name!r}: {_dictionary(_with_zone(one.values, zone))},"
    yield "}"
    if unsaid := [one for _, found in sources for one in found if isinstance(one, Unsaid)]:
        yield ""
        yield "# What is not among them:"
        yield from (f"# {one.name!r}: {_comment(one.reason)}" for one in unsaid)


def _with_zone(values: Mapping[str, Any], zone: str) -> dict[str, Any]:
    said = dict(values)
    if "cron" in said:
        own = said.pop("time_zone", zone)
        return said if own == settings.TIME_ZONE else {**said, "time_zone": own}
    return said


def _doubts(one: Said) -> Iterator[str]:
    path = one.values["task"]
    task: Any = contained(lambda: import_string(path), lambda _: None)
    if not isinstance(task, Task):
        yield f"{path} is no @task yet."


def _dictionary(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f'"{key}": {_literal(value)}' for key, value in values.items()) + "}"


def _literal(value: Any) -> str:
    if not isinstance(value, timedelta):
        return repr(value)
    unit = next((name for name, size in _UNITS.items() if value % timedelta(seconds=size) == timedelta(0)), None)
    if unit is None:
        return f"timedelta(seconds={value.total_seconds()!r})"
    return f"timedelta({unit}={value // timedelta(seconds=_UNITS[unit])})"


def _comment(text: str) -> str:
    """Return a text that ends no comment."""
    return " ".join(text.split())
