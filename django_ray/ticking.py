"""The tick of an execution that a schedule has enqueued: when it was due.

It travels in the carrier of the row, so that claims carry nothing new, and processes of other versions pass it on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

from django_ray.rules import zone_of

__all__ = ["schedule_of", "tick_of", "ticking"]

SCHEDULE = "schedule"  # The key of the carrier. SQL writes it as well: django_ray_enqueue_ticks().


def ticking(name: str, tick: datetime, zone: str) -> dict[str, Any]:
    """Return the carrier of an execution of a tick."""
    return {SCHEDULE: {"name": name, "tick": tick.isoformat(), "zone": zone}}


def tick_of(carrier: Any) -> datetime | None:
    """Return the tick, aware and in the time zone of its schedule, so that its date is the one that was meant.

    None for what no schedule has enqueued. Whoever writes SQL may have put anything there.
    """
    said: Any = cast("dict[str, Any]", carrier).get(SCHEDULE) if isinstance(carrier, dict) else None
    text = cast("dict[str, Any]", said).get("tick") if isinstance(said, dict) else None
    try:
        return datetime.fromisoformat(cast("str", text)).astimezone(_zone(said["zone"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def schedule_of(carrier: Any) -> str:
    """Return the name of the schedule, as it was at the tick; empty for what no schedule has enqueued."""
    said: Any = cast("dict[str, Any]", carrier).get(SCHEDULE) if isinstance(carrier, dict) else None
    name: Any = cast("dict[str, Any]", said).get("name") if isinstance(said, dict) else None
    return name if isinstance(name, str) else ""


def _zone(name: Any) -> ZoneInfo | Any:
    try:
        return zone_of(name)
    except ValueError:
        return UTC  # one that is not known here
