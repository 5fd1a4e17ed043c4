"""Durations, counts and bars for the admin's pages: numbers as the language writes them, moments for machines as ISO.

The pages themselves are not localised ({% localize off %}), so that a number is one to scripts and style sheets unless
it comes from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from django import template
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext

from django_ray import retry
from django_ray.moments import for_machines
from django_ray.status import MOST, Minute, Queue

__all__ = ["ago", "amounts", "bars", "count", "count_all", "duration", "held", "machine_time", "percent", "short_class"]

register = template.Library()

_BAR = 4  # Units of width per minute.
_HEIGHT = 28
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


@register.filter
def duration(seconds: float | None) -> str:
    """Return seconds as two units at most: 1.5 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004
        return f"{number_format(f'{seconds:.1f}')} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    whole = int(seconds)
    names = (*_UNITS, (1, "s"))
    for (unit, name), (lower, lower_name) in pairwise(names):
        if whole >= unit:
            rest = whole % unit // lower
            return f"{whole // unit} {name}" + (f" {rest} {lower_name}" if rest else "")
    raise AssertionError(seconds)


@register.filter
def ago(moment: datetime | None) -> str:
    """Return how long ago that was."""
    if moment is None:
        return "\N{EN DASH}"
    now = timezone.now() if timezone.is_aware(moment) else datetime.now()  # noqa: DTZ005 - with USE_TZ = False
    seconds = (now - moment).total_seconds()
    return gettext("just now") if seconds < 1 else gettext("%(duration)s ago") % {"duration": duration(seconds)}


@register.filter
def percent(fraction: float) -> str:
    """Return a fraction of 0 to 1 as whole percent: all of it is only said when it is."""
    return f"{math.floor(fraction * 100)} %"


@register.filter
def seconds_since(moment: datetime | None) -> float:
    """Return how long ago that was, in seconds, for a page that goes on counting."""
    if moment is None:
        return 0
    now = timezone.now() if timezone.is_aware(moment) else datetime.now()  # noqa: DTZ005
    return round((now - moment).total_seconds(), 1)


@register.filter
def count(number: int) -> str:
    """Return a count that stops at MOST."""
    return f"{count_all(MOST)}+" if number > MOST else count_all(number)


@register.filter
def held(queue: Queue) -> str:
    """Return how many of a queue wait for others, as far as that is known."""
    return f"{count_all(queue.held)}{'+' if queue.held and queue.blocked > MOST else ''}"


@register.filter
def count_all(number: int) -> str:
    """Return a count that does not stop."""
    return number_format(number, force_grouping=True)


@register.filter
def amounts(numbers: Mapping[str, float] | None) -> str:
    """Return how many there are of each: 8 CPU, 2 GPU. Without memory, and without what only names a kind of GPU."""
    shown = {
        name: number
        for name, number in (numbers or {}).items()
        if name != "memory" and not name.startswith("accelerator_type:")
    }
    ordered = sorted(shown, key=lambda name: (name != "CPU", name != "GPU", name))
    return ", ".join(f"{number_format(f'{shown[name]:g}', force_grouping=True)} {name}" for name in ordered)


short_class = register.filter(retry.short_class)


@register.filter
def machine_time(moment: datetime) -> str:
    """Return a moment for the attribute of an element."""
    return for_machines(moment)


@register.simple_tag
def bars(minutes: Sequence[Minute]) -> SafeString:
    """Draw what ended in each minute: succeeded, and on top of it failed. The numbers stand beside it as text."""
    highest = max((minute.ended for minute in minutes), default=0) or 1
    parts: list[str] = []
    for index, minute in enumerate(minutes):
        failed = _height(minute.failed, highest)
        succeeded = _height(minute.succeeded, highest)
        parts.append(_rectangle("ok", index, _HEIGHT - succeeded, succeeded))
        parts.append(_rectangle("bad", index, _HEIGHT - succeeded - failed, failed))
    return _drawing(parts, len(minutes))


@register.simple_tag
def waits(minutes: Sequence[Minute]) -> SafeString:
    """Draw the longest wait of each minute."""
    highest = max((minute.longest_wait for minute in minutes), default=0) or 1
    parts = []
    for index, minute in enumerate(minutes):
        height = _height(minute.longest_wait, highest)
        parts.append(_rectangle("wait", index, _HEIGHT - height, height))
    return _drawing(parts, len(minutes))


def _height(number: float, highest: float) -> float:
    return max(1.5, round(_HEIGHT * number / highest, 1)) if number else 0


def _rectangle(kind: str, index: int, top: float, height: float) -> str:
    if not height:
        return ""
    return f'<rect class="dr-{kind}" x="{index * _BAR}" y="{max(0, top)}" width="{_BAR - 1}" height="{height}"/>'


def _drawing(parts: list[str], minutes: int) -> SafeString:
    # Numbers alone go into it.
    return mark_safe(  # noqa: S308
        f'<svg class="dr-chart" viewBox="0 0 {minutes * _BAR} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


@register.filter
def longest_wait(queue: Queue) -> float:
    """Return the longest wait of a queue's minutes."""
    return max(minute.longest_wait for minute in queue.minutes)
