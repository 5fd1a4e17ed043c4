"""When a schedule is due: a cron expression in a time zone, or a period; and what becomes of ticks that were missed.

A tick is a moment at which a schedule is due, aware and in UTC. Everything here is computed from moments that it is
given: web processes show with it what comes, supervisors decide with it what to fire. Bounded, whatever a row says:
no question takes longer than a fraction of a second. Pure.

Two nights a year have an hour too few or too many, and cron has a rule for them (Debian's). Where neither minute nor
hour begins with `*`, the times are fixed: each is due once a day, at the end of the gap if it is in the gap, and the
first time if it comes twice. Where one of them begins with `*`, the rule is as the clock on the wall shows it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, Literal, Self, cast, get_args, override
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from django_ray.bounds import LONGEST, shown
from django_ray.naming import near

__all__ = [
    "LONGEST_WITHIN", "MISSED", "OVERLAP", "WITHIN", "Cron", "Due", "Every", "Missed", "Overlap", "Policy", "Rule",
    "due", "latest", "overlap_of", "read_policy", "read_rule", "ticks", "zone_of",
]  # fmt: skip

type Missed = Literal["one", "skip", "all"]
type Overlap = Literal["skip", "allow"]

MISSED: tuple[str, ...] = get_args(Missed.__value__)
OVERLAP: tuple[str, ...] = get_args(Overlap.__value__)
ON_TIME = timedelta(seconds=5)  # What is later has been missed.
WITHIN = timedelta(days=1)  # Younger ones are made up for, unless missed_within says otherwise.
LONGEST_WITHIN = timedelta(days=366)
MOST = 1000  # Ticks that are made up for at a time, and that are counted.
SHORTEST = timedelta(seconds=1)  # Between two ticks.
MOST_CHARACTERS = 255  # Of an expression.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
_NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# What cronsim calls a field, its place, and what it may be.
_FIELDS = {
    "minute": (0, "0 to 59"),
    "hour": (1, "0 to 23"),
    "day-of-month": (2, "1 to 31, in a month that has it, or L"),
    "month": (3, "1 to 12, or JAN to DEC"),
    "day-of-week": (4, "0 to 7, or SUN to SAT; 0 and 7 are Sunday"),
}


@dataclass(frozen=True, slots=True)
class Every:
    """A period of time that has passed, in steps that begin at the epoch: restarts and peers agree on them."""

    period: timedelta

    @override
    def __str__(self) -> str:
        return f"every {self.period}"

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after a moment, None if there is none."""
        try:
            return self.until(moment) + self.period
        except OverflowError:
            return None

    def until(self, moment: datetime) -> datetime:
        """Return the last tick until a moment, which may be one."""
        return EPOCH + (moment - EPOCH) // self.period * self.period


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, on the clock of a time zone."""

    expression: str
    zone: ZoneInfo
    _parsed: CronSim = field(repr=False, compare=False)
    _is_fixed: bool = field(repr=False, compare=False)  # Neither minute nor hour begins with a star.

    @classmethod
    def read(cls, expression: str, zone: ZoneInfo) -> Self:
        """Read an expression; ValueError says what is wrong with it."""
        fields = _fields(expression)
        try:
            parsed = CronSim(" ".join(fields), EPOCH.replace(tzinfo=None))
        except CronSimError as error:
            place, fix = _FIELDS[str(error).removeprefix("Bad ")]
            raise ValueError(
                f"{fields[place]!r} is no {str(error).removeprefix('Bad ')}: it must be {fix}, a range such as 1-5, "
                "a list such as 1,5, or a step such as */5."
            ) from None
        return cls(expression, zone, parsed, not (fields[0].startswith("*") or fields[1].startswith("*")))

    @override
    def __str__(self) -> str:
        return f"{self.expression} ({self.zone.key})"

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after a moment, None if there is none in the next 50 years."""
        try:
            return self._fixed_after(moment) if self._is_fixed else self._shown_after(moment)
        except (StopIteration, OverflowError, ValueError):  # the calendar ends
            return None

    def _fixed_after(self, moment: datetime) -> datetime:
        """Each time that is on the wall, once: where the clock goes back, the first time; in a gap, at its end."""
        for time in self._times_after(self._wall(moment)):
            tick = self._instant(time)
            if tick > moment:  # else the clock has gone back, and shows it again
                return tick
        raise StopIteration

    def _shown_after(self, moment: datetime) -> datetime:
        """Each minute in which the clock on the wall shows it. Between two changes of the clock that is a sum."""
        wall = self._wall(moment)
        while True:
            offset = self._offset(moment)
            tick = next(self._times_after(wall)).replace(tzinfo=UTC) - offset
            change = self._change(moment, tick)
            if change is None:
                return tick
            moment, wall = change, self._wall(change) - _SECOND  # it may be due in the very second of the change

    def _times_after(self, wall: datetime) -> Iterator[datetime]:
        """Yield what the clock on the wall shows when it is due: naive, and as if it were never set."""
        times = copy(self._parsed)
        times.dt = wall.replace(microsecond=0)
        return times

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        return cast("timedelta", moment.astimezone(self.zone).utcoffset())

    def _instant(self, time: datetime) -> datetime:
        before, after = (time.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if before <= after:  # it is shown once, or twice
            return before
        # In a gap both are somewhere else: the change is between them.
        return cast("datetime", self._change(after, before))

    def _change(self, after: datetime, until: datetime) -> datetime | None:
        """Return when the clock is set for the first time in this span; None if it is not."""
        while after < until:
            # Two changes that undo each other are weeks apart.
            end = min(after + _DAY, until)
            if self._offset(after) != (offset := self._offset(end)):
                start = after.replace(microsecond=0)
                seconds = range(1, (end - start) // _SECOND + 1)
                return start + _SECOND * seconds[self._first(seconds, start, offset)]
            after = end
        return None

    def _first(self, seconds: range, start: datetime, offset: timedelta) -> int:
        return bisect_left(seconds, True, key=lambda number: self._offset(start + _SECOND * number) == offset)  # noqa: FBT003


type Rule = Cron | Every


def read_rule(cron: Any, every: Any, time_zone: Any) -> Rule:
    """Return what a schedule says of when; ValueError names what it says, and the remedy."""
    if (cron is None) == (every is None):
        raise ValueError("say when, either as cron or as every.")
    zone = zone_of(time_zone)
    if cron is None:
        return Every(_period(every))
    try:
        rule = Cron.read(cron, zone)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cron is {shown(cron)}: {error}") from None
    if rule.after(EPOCH.replace(year=2026)) is None:
        raise ValueError(f"cron is {shown(cron)}: there is no such day in 50 years.")
    return rule


def zone_of(name: Any) -> ZoneInfo:
    """Return a time zone; ValueError for a name that is not known."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, TypeError, ValueError, AttributeError):
        close = get_close_matches(name[:100], available_timezones(), n=1) if isinstance(name, str) else []
        hint = f"did you mean {close[0]!r}?" if close else 'it must be a name such as "Europe/Berlin" or "UTC".'
        raise ValueError(f"time_zone is {shown(name)}: {hint}") from None


def overlap_of(value: Any) -> Overlap:
    """Return what to do at a tick while the run before is unfinished; ValueError."""
    return cast("Overlap", _choice("overlap", value, OVERLAP))


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of ticks that nobody was there to see."""

    missed: Missed = "one"
    within: timedelta = WITHIN


def read_policy(missed: Any, missed_within: Any) -> Policy:
    """Return what becomes of missed ticks; ValueError names what was said, and the remedy."""
    within = WITHIN if missed_within is None else missed_within
    if not isinstance(within, timedelta) or not timedelta(0) < within <= LONGEST_WITHIN:
        raise ValueError(
            f"missed_within is {shown(missed_within)}: it must be a timedelta above 0 and at most 366 days."
        )
    return Policy(cast("Missed", _choice("missed", missed, MISSED)), within)


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule says now."""

    ticks: tuple[datetime, ...] = ()  # To fire, the oldest first.
    missed: int = 0  # Those that are not made up for: of the last day, or of missed_within, at most 1,000.
    last_at: datetime | None = None  # The last tick until now; None is that there was none.
    next_at: datetime | None = None  # The first one after now; None is never.


def due(rule: Rule, policy: Policy, *, since: datetime, now: datetime) -> Due:
    """Decide about the ticks after since: which are to be fired now, which were missed, and when to look again."""
    found = latest(rule, max(since, now - max(policy.within, WITHIN)), now, MOST)
    next_at = rule.after(max(since, now))
    if not found:
        return Due(next_at=next_at)
    last = found[-1]
    is_on_time = now - last <= ON_TIME
    match policy.missed:
        case "one":
            chosen = [last] if is_on_time or now - last <= policy.within else []
        case "skip":
            chosen = [last] if is_on_time else []
        case "all":
            chosen = [tick for tick in found if now - tick <= policy.within or (is_on_time and tick is last)]
    return Due(tuple(chosen), len(found) - len(chosen), last, next_at)


def ticks(rule: Rule, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
    """Yield the ticks after a moment, in their order, up to another one that may be a tick."""
    every = _ticks(rule, after)
    return every if until is None else takewhile(lambda tick: tick <= until, every)


def latest(rule: Rule, after: datetime, until: datetime, most: int) -> list[datetime]:
    """Return the last ticks of a span, so many at most; after is not in it, until is."""
    if until <= after:
        return []
    if isinstance(rule, Every):
        # Back from the last one.
        last, step = rule.until(until), rule.period
        number = min(most, -((after - last) // step)) if last > after else 0
        return [last - step * back for back in range(number - 1, -1, -1)]
    span = timedelta(hours=1)
    while True:
        start = max(after, until - span)
        found = list(ticks(rule, start, until))
        if len(found) >= most or start == after:
            return found[-most:]
        span *= 2


def _ticks(rule: Rule, after: datetime) -> Iterator[datetime]:
    while (tick := rule.after(after)) is not None:
        yield tick
        after = tick


def _fields(expression: Any) -> list[str]:
    if not isinstance(expression, str) or not expression.strip():
        raise ValueError('it must be an expression of five fields, such as "0 3 * * *".')
    if len(expression) > MOST_CHARACTERS:
        raise ValueError(f"it must have at most {MOST_CHARACTERS} characters.")
    name = expression.strip().lower()
    if name == "@reboot":
        raise ValueError("nothing here is ever booted: enqueue it where your project starts.")
    if name.startswith("@") and name not in _NAMES:
        raise ValueError(f"there is no such name{near(name, _NAMES)}")
    fields = _NAMES.get(name, expression.upper()).split()
    if len(fields) == 6:  # noqa: PLR2004
        raise ValueError(
            "it has six fields, and must have five: minute, hour, day of month, month, day of week. For seconds, say "
            "every=timedelta(seconds=...) instead."
        )
    if len(fields) != 5:  # noqa: PLR2004
        raise ValueError(f'it has {len(fields)} fields, and must have five, such as "0 3 * * *".')
    return fields


def _period(every: Any) -> timedelta:
    if not isinstance(every, timedelta) or not SHORTEST <= every <= timedelta(seconds=LONGEST):
        raise ValueError(
            f"every is {shown(every)}: it must be a timedelta of at least a second and at most 100 years, "
            "such as timedelta(minutes=5)."
        )
    return every


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {shown(value)}{near(value, choices) if isinstance(value, str) else ''}")
    return cast("str", value)
