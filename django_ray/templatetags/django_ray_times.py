"""When schedules are due, for people: a rule in words, and moments as the clock of the schedule's zone shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils import dateformat
from django.utils.translation import gettext

from django_ray.templatetags.django_ray import duration

__all__ = ["rule", "until", "wall"]

register = template.Library()


@register.filter
def rule(row: Any) -> str:
    """Return when a schedule is due: a cron expression as it stands, a period in words."""
    if row.cron is not None:
        return str(row.cron)
    return (
        "" if row.every is None else gettext("every %(duration)s") % {"duration": duration(row.every.total_seconds())}
    )


@register.filter
def wall(moment: datetime | None) -> str:
    """Return a moment as the clock on the wall of its own time zone shows it, whatever that of the project is."""
    if moment is None:
        return "\N{EN DASH}"
    shown = moment.replace(tzinfo=None)
    return dateformat.format(shown, "D Y-m-d H:i:s" if shown.second or shown.microsecond else "D Y-m-d H:i")


@register.filter
def until(moment: datetime | None) -> str:
    """Return how long it is until a moment, which is aware."""
    if moment is None:
        return ""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return gettext("now") if seconds < 1 else gettext("in %(duration)s") % {"duration": duration(seconds)}
