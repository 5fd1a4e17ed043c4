"""Columns that anybody may write by SQL: whatever stands there can be read, so that no page and no result fails for it.

They are Django's own fields, which read differently: a class of ours would be another type in a user's expressions.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from django.db import models

from django_ray.moments import held_sql

__all__ = ["Uuid7", "json_field", "moment_field", "period_field"]

_LONGEST = "'36500 days'::interval"  # Python has no infinity.


def moment_field(**options: Any) -> Any:
    """Return a DateTimeField that reads what Python cannot hold as the nearest moment that it can.

    dumpdata writes it with its microseconds.
    """
    field: Any = models.DateTimeField(**options)
    field.select_format = _held
    field.value_from_object = partial(_written, field)
    field.value_to_string = partial(_written, field)  # not asked for None
    return field


def _written(field: Any, row: Any) -> Any:
    """Return what a serializer writes: text, because Django's for JSON cuts a datetime to milliseconds."""
    value = getattr(row, field.attname)
    return value.isoformat() if isinstance(value, datetime) else value


def _held(_: Any, sql: str, params: Any) -> tuple[str, Any]:
    """Return what is selected. In SQL, because psycopg refuses such a moment before any converter sees it."""
    return held_sql(sql), (*params,) * 3


def period_field(**options: Any) -> Any:
    """Return a DurationField that reads what Python cannot hold as a hundred years, forward or back."""
    field: Any = models.DurationField(**options)
    field.select_format = _bounded
    return field


def _bounded(_: Any, sql: str, params: Any) -> tuple[str, Any]:
    # NULL stays NULL, which these two functions would leave out.
    return f"CASE WHEN {sql} IS NOT NULL THEN greatest(least({sql}, {_LONGEST}), -{_LONGEST}) END", (*params,) * 2


def json_field(**options: Any) -> Any:
    """Return a JSONField that reads as text what Python cannot: numbers of 5,000 digits, arrays nested 100,000 deep."""
    field: Any = models.JSONField(**options)
    field.from_db_value = partial(_read, field.from_db_value)
    return field


def _read(read: Any, value: Any, expression: Any, connection: Any) -> Any:
    try:
        return read(value, expression, connection)
    except (ValueError, RecursionError):
        return value


class Uuid7(models.Func):
    """A time-ordered id, made by the database."""

    function = "django_ray_uuid7"

    def __init__(self) -> None:
        super().__init__(output_field=models.UUIDField())
