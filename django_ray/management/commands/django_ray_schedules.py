"""manage.py django_ray_schedules: what is enqueued by itself, when it is due next; and the verbs of an operator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, override
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import translation

from django_ray.agenda import lag_of, next_of, next_times, overdue_of, with_last, with_now
from django_ray.databases import databases
from django_ray.management.commands._common import (
    add_operator,
    check_operator,
    counted,
    explaining_locks,
    find_backend,
    note,
    piped,
)
from django_ray.management.commands._tables import NOTHING, Section, line, show
from django_ray.moments import for_machines
from django_ray.naming import near
from django_ray.rules import zone_of
from django_ray.templatetags.django_ray import ago, duration
from django_ray.templatetags.django_ray_times import rule, until, wall

__all__ = ["Command"]


class Command(BaseCommand):
    """The command."""

    help = "Show schedules, with when they are due next; pause and resume them, run them now, make up for a time."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="these (default: all, of what is shown)")
        parser.add_argument("--backend", metavar="ALIAS", help="those of this backend in TASKS (default: of all)")
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
        add_operator(parser)
        verbs = parser.add_mutually_exclusive_group()
        verbs.add_argument("--run-now", action="store_true", help="enqueue them once, whatever their rules say")
        verbs.add_argument("--pause", action="store_true", help="stop firing them; what runs may finish")
        verbs.add_argument("--resume", action="store_true", help="fire them again, from their next tick on")
        verbs.add_argument(
            "--backfill",
            nargs=2,
            metavar=("FROM", "TO"),
            help="enqueue what was due from FROM on and before TO: 2026-03-01, or 2026-03-01T09:30 in their time zone",
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        rows = _chosen(options["names"], options["backend"])
        verb = self._verb(options)
        if verb is None:
            with piped(self.stdout):
                self._list(rows, as_json=options["json"])
            return
        from django_ray.models import RaySchedule

        check_operator(options)
        if not options["names"]:
            raise CommandError("Say which schedules: django_ray_schedules without a verb shows them.")
        # Everything is read before the first one is touched.
        deeds = [(row, verb(row)) for row in rows]
        for row, deed in deeds:
            with explaining_locks():
                done = deed()
            if not done.startswith("was "):  # it is as it was
                note({**options, "names": [row.name]}, RaySchedule, f"It {done}.")
            self.stdout.write(f"{line(row.name)} {done}.")

    def _verb(self, options: dict[str, Any]) -> Callable[[Any], Callable[[], str]] | None:
        """Return what makes of a row what is to be done with it, which says what it did."""
        if options["pause"]:
            return lambda row: lambda: "is paused" if row.pause() else "was paused already"
        if options["resume"]:
            return lambda row: lambda: "is resumed" if row.resume() else "was not paused"
        if options["run_now"]:
            return lambda row: lambda: _run_now(row)
        if options["backfill"]:
            return lambda row: _backfill(row, *options["backfill"])
        return None

    def _list(self, rows: Sequence[Any], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({"schedules": [_plain(row) for row in rows]}))
            return
        with translation.override("en"):
            show(self.stdout, _section(rows))


def _chosen(names: Sequence[str], alias: str | None) -> list[Any]:
    from django_ray.models import RaySchedule

    objects: Any = RaySchedule.objects
    places = databases() if alias is None else [find_backend(alias).database]
    found = [with_last(with_now(objects.using(place))) for place in places]
    if alias is not None:
        found = [rows.filter(backend=alias) for rows in found]
    known = {name for rows in found for name in rows.values_list("name", flat=True)}
    for name in names:
        if name not in known:
            raise CommandError(f"{name}: there is no such schedule{near(name, known)}")
    chosen = [rows.filter(name__in=names) if names else rows for rows in found]
    return [row for rows in chosen for row in rows.order_by("backend", "name")]


def _run_now(row: Any) -> str:
    result = row.run_now()
    if result.is_duplicate:
        return f"is not enqueued: an equal execution is unfinished, {result.id}"
    return f"is enqueued as {result.id}"


def _backfill(row: Any, *span: str) -> Callable[[], str]:
    start, end = (_moment(text, row.time_zone) for text in span)
    if end <= start:
        raise CommandError(f"--backfill {span[0]} {span[1]}: TO must be later than FROM.")

    def fill() -> str:
        try:
            return f"has {counted(row.backfill(start, end))} more"
        except ValueError as error:
            raise CommandError(str(error)) from None

    return fill


def _moment(text: str, zone: str) -> datetime:
    """Return a moment, in the time zone of the schedule unless it has one of its own."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=_zone(zone)) if moment.tzinfo is None else moment
    except ValueError as error:
        raise CommandError(
            f"--backfill: {text!r} is no moment: {error}. Say 2026-03-01, or 2026-03-01T09:30."
        ) from None


def _zone(name: str) -> ZoneInfo:
    try:
        return zone_of(name)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _section(rows: Sequence[Any]) -> Section:
    return (
        "Schedules",
        ("schedule", "backend", "", "next", "", "rule", "time zone", "last", "state", "skipped", "lost", "problem"),
        [
            (
                line(row.name), row.backend, _state(row), wall(next_of(row)), _when(row), line(rule(row)),
                line(row.time_zone), ago(row.last_tick), row.last_state or NOTHING, f"{row.skipped:,}", f"{row.lost:,}",
                line(row.problem or ""),
            )
            for row in rows
        ],
        "None: no task has a @schedule, and nobody has made one.",
    )  # fmt: skip


def _state(row: Any) -> str:
    if row.paused_at is not None:
        return "paused"
    return "gone" if row.gone_at is not None else ""


def _when(row: Any) -> str:
    overdue = overdue_of(row)
    return until(next_of(row)) if overdue is None else f"overdue for {duration(overdue)}"


def _plain(row: Any) -> dict[str, Any]:
    """Return it as JSON can hold it."""
    moments = {name: getattr(row, name) for name in ("paused_at", "gone_at", "last_at", "last_tick")}
    periods = {name: getattr(row, name) for name in ("every", "missed_within")}
    plain = ("name", "backend", "args", "kwargs", "queue_name", "priority", "cron", "time_zone", "missed", "overlap")
    at = next_of(row)
    return {
        **{name: getattr(row, name) for name in plain},
        **{name: None if value is None else value.total_seconds() for name, value in periods.items()},
        **{name: None if value is None else for_machines(value) for name, value in moments.items()},
        "task": row.callable_path,
        "is_declared": row.is_declared,
        "next_at": None if at is None else for_machines(at),
        "next_times": [for_machines(tick) for tick in (next_times(row) if row.is_active else ())],
        "overdue": overdue_of(row),
        "last_id": None if row.last_id is None else str(row.last_id),
        "last_state": row.last_state,
        "lag": lag_of(row),
        "skipped": row.skipped,
        "lost": row.lost,
        "problem": row.problem,
    }
