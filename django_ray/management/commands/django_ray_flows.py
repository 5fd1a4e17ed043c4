"""manage.py django_ray_flows: the latest flows, one of them, and a repair of what executions wait for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, override
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError
from django.utils import translation

from django_ray import census
from django_ray.databases import databases
from django_ray.flows import Flow, FlowProgress
from django_ray.management.commands._common import (
    add_operator,
    check_operator,
    explaining_locks,
    find_backend,
    note,
    piped,
)
from django_ray.management.commands._tables import NOTHING, Section, line, show
from django_ray.moments import for_machines
from django_ray.repairing import Repair, repaired
from django_ray.tables import find
from django_ray.templatetags.django_ray import ago, count_all

__all__ = ["Command"]

_SHOWN = 20  # Flows.
_MOST_SHOWN = 1000
_MEMBERS = 50  # Of one: those first that somebody may want to see first.
_STATES = ("blocked", "ready", "running", "successful", "failed", "cancelled")


class Command(BaseCommand):
    """The command."""

    help = (
        "Show the latest flows, with how many executions are in which state; or one of them. --repair looks at "
        "everything anew that waits for others, or has waited."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", nargs="?", metavar="ID", help="show this flow, and executions of it")
        parser.add_argument("--backend", metavar="ALIAS", help="flows of this backend in TASKS (default: of all)")
        parser.add_argument("--number", type=int, default=_SHOWN, metavar="N", help=f"so many (default: {_SHOWN})")
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
        add_operator(parser)
        verbs = parser.add_mutually_exclusive_group()
        verbs.add_argument("--cancel", action="store_true", help="with ID: cancel what has not ended")
        verbs.add_argument("--retry", action="store_true", help="with ID: run again what has failed or was cancelled")
        verbs.add_argument("--repair", action="store_true", help="settle all edges of all flows anew, in batches")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """List, show, or do what is asked."""
        if options["repair"]:
            if options["id"] is not None:
                raise CommandError("--repair looks at everything: leave the id out.")
            self._repair(as_json=options["json"])
        elif options["id"] is not None:
            self._one(options)
        elif options["cancel"] or options["retry"]:
            raise CommandError("--cancel and --retry are for one flow: give its id, flow.id.")
        else:
            self._list(options)

    def _list(self, options: dict[str, Any]) -> None:
        from django_ray.models import RayFlow

        if not 0 < options["number"] <= _MOST_SHOWN:
            raise CommandError(f"--number {options['number']}: it must be a number of 1 to {_MOST_SHOWN:,}.")
        objects: Any = RayFlow.objects
        if (alias := options["backend"]) is None:
            chosen = [objects.using(database) for database in databases()]
        else:
            chosen = [objects.using(find_backend(alias).database).filter(backend=alias)]
        newest = [list(rows.order_by("-id")[: options["number"]]) for rows in chosen]
        progress = {pk: one for rows in newest if rows for pk, one in _progress_of(rows).items()}
        found = sorted((row for rows in newest for row in rows), key=lambda row: row.pk.int, reverse=True)
        found = found[: options["number"]]
        with piped(self.stdout):
            if options["json"]:
                self.stdout.write(json.dumps({"flows": [_plain(row, progress[row.pk]) for row in found]}))
                return
            with translation.override("en"):
                show(self.stdout, _section(found, progress))

    def _one(self, options: dict[str, Any]) -> None:
        from django_ray.models import RayFlow

        try:
            flow = Flow.get(options["id"])
        except LookupError as error:
            raise CommandError(str(error)) from None
        if options["cancel"] or options["retry"]:
            check_operator(options)
            find_backend(flow.backend)
            with explaining_locks():
                number = flow.cancel() if options["cancel"] else flow.retry()
            what = "cancelled" if options["cancel"] else "tried again"
            done = f"{count_all(number)} execution{'' if number == 1 else 's'} {what}."
            note({**options, "backend": None}, RayFlow, done)
            self.stdout.write(done)
            return
        row: Any = find(RayFlow, UUID(flow.id))
        if row is None:
            raise CommandError(f"There is no flow {flow.id} any more.")
        progress = _progress_of([row])[row.pk]
        members = census.members_of(row._state.db, row.pk, _MEMBERS)  # noqa: SLF001
        with piped(self.stdout):
            if options["json"]:
                said = [{"task_id": one.id, "task": one.path, "state": one.state} for one in members]
                self.stdout.write(json.dumps({**_plain(row, progress), "executions": said}))
                return
            with translation.override("en"):
                show(self.stdout, _section([row], {row.pk: progress}))
                left = progress.total - len(members)
                more = f", of {count_all(progress.total)}" if left > 0 else ""
                show(
                    self.stdout,
                    (
                        f"Executions{more}",
                        ("state", "task", "id"),
                        [(one.state, line(one.path), one.id) for one in members],
                        "None: none was enqueued into it, or all were pruned.",
                    ),
                )

    def _repair(self, *, as_json: bool) -> None:
        try:
            done = Repair()
            for database in databases():
                done.add(repaired(database))
        except OperationalError as error:
            raise CommandError(f"The repair has not come to its end, and may be run again: {error}") from error
        if as_json:
            self.stdout.write(json.dumps(asdict(done)))
            return
        self.stdout.write("\n".join(_said(done)))


def _progress_of(rows: Sequence[Any]) -> dict[UUID, FlowProgress]:
    """Return how far flows of one database are."""
    return census.progress_of(rows[0]._state.db, [row.pk for row in rows])  # noqa: SLF001


def _section(rows: Sequence[Any], progress: dict[UUID, FlowProgress]) -> Section:
    return (
        "Flows",
        ("flow", "id", "backend", "created", *_STATES, ""),
        [
            (
                line(row.name) or NOTHING, str(row.pk), row.backend, ago(row.created_at),
                *(_count(getattr(progress[row.pk], name)) for name in _STATES),
                "" if row.cancelled_at is None else "cancelled",
            )
            for row in rows
        ],
        "None.",
    )  # fmt: skip


def _count(number: int) -> str:
    return f"{count_all(census.MOST)}+" if number > census.MOST else count_all(number)


def _plain(row: Any, progress: FlowProgress) -> dict[str, Any]:
    """Return it as JSON can hold it."""
    return {
        "id": str(row.pk),
        "name": row.name,
        "backend": row.backend,
        "created_at": for_machines(row.created_at),
        "cancelled_at": None if row.cancelled_at is None else for_machines(row.cancelled_at),
        **asdict(progress),
    }


def _said(done: Repair) -> list[str]:
    """Return what was looked at and changed, a line each."""
    lines = [f"Looked at what waits for {done.upstreams:,} execution{'' if done.upstreams == 1 else 's'}."]
    for number, one, many in (
        (done.edges, "edge says now what is", "edges say now what is"),
        (done.deleted, "edge of an execution that is gone is deleted", "edges of executions that are gone are deleted"),
        (done.marked, "execution is marked as one that others wait for",
         "executions are marked as ones that others wait for"),
        (done.held, "execution waits now", "executions wait now"),
        (done.freed, "execution waits for no other any more", "executions wait for no others any more"),
        (done.failed, "execution has failed, because of another one", "executions have failed, because of others"),
    ):  # fmt: skip
        if number:
            lines.append(f"{number:,} {one if number == 1 else many}.")
    if not done.changed:
        lines.append("Nothing had to be changed.")
    if done.locked:
        lines.append(
            f"{done.locked:,} time{'' if done.locked == 1 else 's'} another transaction had locked rows: run it again "
            "when that has ended. Supervisors look at them again as well."
        )
    return lines
