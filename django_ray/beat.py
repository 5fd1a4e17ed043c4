"""What Celery's beat was told, said as an entry of SCHEDULES; or why that cannot be said.

Celery is not imported, and its objects are known by what they have: a crontab has `month_of_year`, a period
`run_every`, and what depends on the sun `lat`. Nothing here knows a database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from django_ray.bounds import shown
from django_ray.crontab import FIELDS, cron_of
from django_ray.plan import Plan
from django_ray.serialization import jsonable

__all__ = ["Said", "Unsaid", "entries_of", "entry_of"]

# Options of an entry that say something else here, or nothing.
_LEFT_OUT = {
    "expires": "what waits does not expire here.",
    "expire_seconds": "what waits does not expire here.",
    "priority": "its scale depends on the broker. Ours is -100 to 100, and higher comes first.",
    "countdown": "a schedule says when.",
    "eta": "a schedule says when.",
    "exchange": "there is no broker. A queue is a name.",
    "routing_key": "there is no broker. A queue is a name.",
    "headers": "metadata={...} of .using() is for enqueues, not for schedules.",
    "start_time": "a schedule begins when it is there.",
}
_SUN = "it depends on the sun. Have a task each day enqueue it with using(run_after=...), at the time that it computes."
_CLOCKED = "it is due once. Enqueue it with using(run_after=...)."
_CLEANUP = "it deletes results of Celery. Here PRUNE_AFTER does that."


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An entry of SCHEDULES."""

    name: str
    values: Mapping[str, Any]  # As SCHEDULES has them.
    notes: tuple[str, ...] = ()  # What of it could not be said.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsaid:
    """What cannot be one."""

    name: str
    reason: str


def entries_of(schedule: Mapping[Any, Any]) -> Iterator[Said | Unsaid]:
    """Read a beat_schedule."""
    for name, entry in schedule.items():
        if not isinstance(entry, Mapping):
            yield Unsaid(name=str(name), reason=f"it is {shown(entry)}, and no dictionary.")
            continue
        said = cast("Mapping[str, Any]", entry)
        options = cast("Mapping[str, Any]", said.get("options") or {})
        yield entry_of(
            str(name),
            said.get("task"),
            said.get("schedule"),
            args=said.get("args") or (),
            kwargs=said.get("kwargs") or {},
            options=options,
        )


def entry_of(
    name: str,
    task: Any,
    schedule: Any,
    *,
    args: Any = (),
    kwargs: Any = None,
    options: Mapping[str, Any] | None = None,
    time_zone: str | None = None,
) -> Said | Unsaid:
    """Read one entry, whatever it is made of."""
    try:
        values, notes = _options(options or {})
        values = {"task": _path(task), **_when(schedule), **_arguments(args, kwargs or {}), **values}
        if time_zone is not None and "cron" in values:
            values["time_zone"] = time_zone
        Plan.read({**{key: value for key, value in values.items() if key != "task"}, "name": name})
    except (TypeError, ValueError) as error:
        return Unsaid(name=name, reason=str(error))
    return Said(name=name, values=values, notes=notes)


def _path(task: Any) -> str:
    if task == "celery.backend_cleanup":
        raise ValueError(_CLEANUP)
    if not isinstance(task, str) or "." not in task:
        raise ValueError(f"its task is called {shown(task)}, which is no path that could be imported.")
    return task


def _when(schedule: Any) -> dict[str, Any]:
    match schedule:
        case bool() | None | str():
            raise ValueError(f"its schedule is {shown(schedule)}.")
        case int() | float():
            return {"every": _period(schedule)}
        case timedelta():
            return {"every": schedule}
        case _ if hasattr(schedule, "lat"):
            raise ValueError(_SUN)
        case _ if hasattr(schedule, "clocked_time"):
            raise ValueError(_CLOCKED)
        case _ if all(hasattr(schedule, name) for name in FIELDS):
            # As it was written, where that is known; else the numbers that follow from it.
            return {"cron": cron_of({name: _written(schedule, name) for name in FIELDS})}
        case _ if isinstance(period := getattr(schedule, "run_every", None), timedelta):
            return {"every": period}
        case _:
            raise ValueError(f"its schedule is a {type(schedule).__qualname__}, which is not known here.")


def _written(schedule: Any, name: str) -> Any:
    return getattr(schedule, f"_orig_{name}", getattr(schedule, name))


def _period(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise ValueError(f"its schedule is {shown(seconds)} seconds.") from None


def _arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    said = {
        "args": jsonable(list(args) if isinstance(args, tuple) else args, "args"),
        "kwargs": jsonable(kwargs, "kwargs"),
    }
    return {name: value for name, value in said.items() if value}


def _options(options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    values: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in options.items():
        if value in (None, "", {}, False):
            continue
        match name:
            case "queue":
                values["queue_name"] = str(getattr(value, "name", value))
            case "time_limit" | "soft_time_limit":
                # The soft one is that which a body can hear.
                values["timeout"] = min(float(value), values.get("timeout", float(value)))
            case _:
                notes.append(f"{name}={shown(value)} is left out: {_LEFT_OUT.get(name, 'nothing here is like it.')}")
    return values, tuple(notes)
