"""A crontab of Celery's as a cron expression. The two differ: names, ranges that go round, days that are both. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from django_ray.bounds import shown

__all__ = ["FIELDS", "cron_of"]

FIELDS = {"minute": (0, 59), "hour": (0, 23), "day_of_month": (1, 31), "month_of_year": (1, 12), "day_of_week": (0, 6)}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<star>\*)(?:/(?P<of_star>\w+))?|(?P<first>\w+)(?:-(?P<last>\w+)(?:/(?P<step>\w+))?)?")


def cron_of(fields: Mapping[str, Any]) -> str:
    """Return what a crontab of Celery says as a cron expression; ValueError where cron means something else.

    Celery wants a day that both day fields allow, cron one that either does, unless one of them begins with a star.
    """
    texts = {name: _field(name, fields[name]) for name in FIELDS}
    if not any(texts[name].startswith("*") for name in ("day_of_month", "day_of_week")):
        days = _days_of_weeks(fields)
        if not days:
            raise ValueError(
                f"day_of_month={texts['day_of_month']!r} and day_of_week={texts['day_of_week']!r}: Celery wants both "
                "of a day, cron either. Say one of them, and have the task look at the date for the other."
            )
        texts |= {"day_of_month": "*", "day_of_week": days}
    return " ".join(texts.values())


def _days_of_weeks(fields: Mapping[str, Any]) -> str:
    """Return days of the first, the second week of a month and so on; empty if these are no whole weeks."""
    days = _all_of("day_of_month", fields["day_of_month"])
    weeks = {number: set(range(7 * number - 6, min(7 * number, 31) + 1)) for number in range(1, 6)}
    whole = [number for number, week in weeks.items() if week <= days]
    if days != set().union(*(weeks[number] for number in whole)):
        return ""
    return ",".join(f"{day}#{week}" for day in sorted(_all_of("day_of_week", fields["day_of_week"])) for week in whole)


def _field(name: str, said: Any) -> str:
    """Return a field as cron has it: as it was written if cron reads that so, else as a list of numbers."""
    least, most = FIELDS[name]
    numbers = _all_of(name, said)
    if numbers.issuperset(range(least, most + 1)):
        return "*"
    text = _text(said)
    is_plain = text and all(_is_plain(name, part) for part in text.split(","))
    return text if is_plain else ",".join(map(str, sorted(numbers)))


def _all_of(name: str, said: Any) -> set[int]:
    if text := _text(said):
        return {number for part in text.split(",") for number in _numbers(name, part)}
    return {int(number) for number in cast("Iterable[Any]", said)}


def _text(said: Any) -> str:
    """Return what was written, empty where numbers were."""
    return re.sub(r"\s", "", str(said)).lower() if isinstance(said, int | str) else ""


def _is_plain(name: str, part: str) -> bool:
    """Tell whether cron knows these words, and a range that does not go round."""
    match = cast("re.Match[str]", _PART.fullmatch(part))
    ends = [end for end in (match["first"], match["last"]) if end is not None]
    known = {"month_of_year": _MONTHS, "day_of_week": _DAYS}.get(name, ())
    return all(end.isdecimal() or end in known for end in ends) and (
        match["last"] is None or _number(name, ends[0]) < _number(name, ends[1])
    )


def _numbers(name: str, part: str) -> list[int]:
    least, most = FIELDS[name]
    every = [*range(least, most + 1)]
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"{name} is {shown(part)}, which cannot be read.")
    if match["star"]:
        return every[:: _step(name, match["of_star"])]
    first = _number(name, match["first"])
    last = first if match["last"] is None else _number(name, match["last"])
    # Celery goes on from the start, as in 22-4, which cron does not.
    chosen = [*range(first, last + 1)] if first <= last else [*range(first, most + 1), *range(least, last + 1)]
    return chosen[:: _step(name, match["step"])]


def _step(name: str, text: str | None) -> int:
    if text is None:
        return 1
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name} has the step {shown(text)}, which is no whole number above 0.")
    return int(text)


def _number(name: str, text: str) -> int:
    least, most = FIELDS[name]
    if text.isdecimal():
        number = int(text)
    elif text[:3] in _MONTHS:
        number = _MONTHS.index(text[:3]) + 1
    elif text[:3] in _DAYS:
        number = _DAYS.index(text[:3])
    else:
        number = -1
    if not least <= number <= most:
        raise ValueError(f"{name} is {shown(text)}: it must be {least} to {most}.")
    return number
