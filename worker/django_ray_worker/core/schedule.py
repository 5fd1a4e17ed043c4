"""What a supervisor decides about a schedule: its ticks to fire, and when to look again. Values and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from django_ray.rules import EPOCH, due, read_policy, read_rule

__all__ = ["Decision", "Fired", "Waiting", "decide"]

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)
_NEVER = "It is not due any more in the next 50 years."


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The answer to the question what is due."""

    rows: tuple[Mapping[str, Any], ...]  # What something is to be decided about.
    now: datetime  # By the database's clock.
    next_in: float | None  # Seconds until the next tick of the others; None is never.


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to write of a schedule; id and version are its fence."""

    id: int
    version: str
    name: str
    ticks: tuple[datetime, ...] = ()
    next_at: datetime | None = None
    last_at: datetime | None = None
    lost: int = 0
    problem: str | None = None
    is_readable: bool = True  # And due again.
    is_news: bool = True  # It differs from what stands there.
    has_new_problem: bool = False

    @property
    def columns(self) -> dict[str, Any]:
        """What the statement takes."""
        return {
            "id": self.id,
            "version": self.version,
            "ticks": [tick.isoformat() for tick in self.ticks],
            "next_at": _text(self.next_at),
            "last_at": _text(self.last_at),
            "lost": self.lost,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """The answer to the statement that fires."""

    moved: int  # Schedules that were written.
    enqueued: int
    skipped: int  # Ticks while the run before was unfinished.
    lost: int  # Ticks that were missed, and not made up for.
    lag: float | None  # Seconds from a tick to its enqueue: the longest.
    next_in: float | None  # Seconds until the next tick, by the database's clock; None is never.

    def plus(self, other: Self) -> Self:
        """Return both together, of which the other came later."""
        return replace(
            other,
            moved=self.moved + other.moved,
            enqueued=self.enqueued + other.enqueued,
            skipped=self.skipped + other.skipped,
            lost=self.lost + other.lost,
            lag=max((lag for lag in (self.lag, other.lag) if lag is not None), default=None),
        )


def decide(row: Mapping[str, Any], now: datetime, absence: str) -> Decision:
    """Decide about a schedule, whatever somebody has written there; absence: why its task is not here, or empty."""
    fence: dict[str, Any] = {"id": row["id"], "version": row["version"], "name": row["name"]}
    try:
        rule = read_rule(row["cron"], _period(row, "every"), row["time_zone"])
        policy = read_policy(row["missed"], _period(row, "missed_within"))
        since = _moment(row["since"])
        found = due(rule, policy, since=since, now=now)
    except Exception as error:  # noqa: BLE001 - no row may stop a supervisor
        unread = str(error) or type(error).__name__
        is_new = unread != row["problem"]
        return Decision(**fence, problem=unread, is_readable=False, is_news=is_new, has_new_problem=is_new)
    next_at = None if row["next_at"] is None else _moment(row["next_at"])
    problem = _NEVER if found.next_at is None else absence or _delay(since, now) or None
    return Decision(
        **fence,
        ticks=found.ticks,
        next_at=found.next_at,
        last_at=found.last_at,
        lost=found.missed,
        problem=problem,
        is_readable=found.next_at is not None,
        has_new_problem=problem not in (None, row["problem"]),
        is_news=(found.last_at is not None, found.next_at, problem) != (False, next_at, row["problem"]),
    )


def _delay(since: datetime, now: datetime) -> str:
    """Return a sentence if somebody has written a moment that is to come; a clock that was set back is none."""
    if since <= now + timedelta(days=1):
        return ""
    return f"Its ticks count from {since:%Y-%m-%d} on, as somebody has written there: pause and resume it."


def _period(row: Mapping[str, Any], name: str) -> timedelta | None:
    return timedelta(seconds=row[name]) if row[f"has_{name}"] else None


def _moment(epoch: float) -> datetime:
    """Return a moment that SQL has as a number, which may be any; as the nearest that can be counted with."""
    try:
        return min(max(EPOCH + timedelta(seconds=epoch), _EARLIEST), _LATEST)
    except OverflowError:
        return _EARLIEST if epoch < 0 else _LATEST


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
