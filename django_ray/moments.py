"""Moments of the database as Python's: PostgreSQL also has infinity, the time before Christ and the years after 9999.

What Python cannot hold becomes the nearest moment that it can, a day away from its own ends, so that any time zone can
show it. Pure, but for USE_TZ.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

__all__ = ["EARLIEST", "LATEST", "for_machines", "held", "held_sql", "parsed"]

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
_EARLIEST, _LATEST = (f"'{moment.isoformat()}'::timestamptz" for moment in (EARLIEST, LATEST))


def held(moment: datetime) -> datetime:
    """Return an aware moment in UTC, between the earliest and the latest one."""
    try:
        return min(max(moment.astimezone(UTC), EARLIEST), LATEST)
    except OverflowError:  # it is in its own time zone that Python can hold it
        return EARLIEST if moment.year == EARLIEST.year else LATEST


def held_sql(sql: str) -> str:
    """Return SQL for the same, which says sql three times; NULL stays NULL."""
    return f"CASE WHEN {sql} < {_EARLIEST} THEN {_EARLIEST} WHEN {sql} > {_LATEST} THEN {_LATEST} ELSE {sql} END"


def for_machines(moment: datetime) -> str:
    """Return a moment that a model has read in ISO 8601, with its offset, also where the project has no time zones."""
    return (timezone.make_aware(moment) if timezone.is_naive(moment) else moment).isoformat()


def parsed(text: Any) -> datetime | None:
    """Return the moment that PostgreSQL has put into JSON, naive where the project has no time zones.

    None for what is no moment: in JSON, anything may stand in its place.
    """
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        if text == "-infinity" or text.endswith(" BC"):
            moment = EARLIEST
        elif text == "infinity" or text.partition("-")[0].isdecimal():  # a year of five digits, or of six
            moment = LATEST
        else:
            return None
    if timezone.is_naive(moment):
        return None
    return held(moment) if settings.USE_TZ else timezone.make_naive(held(moment))
