"""manage.py django_ray_status: what the live page of the admin shows, in a terminal."""

from __future__ import annotations

import json
import math
import selectors
import signal
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, override

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError
from django.utils import translation

from django_ray.agenda import Upcoming
from django_ray.alarms import alarms
from django_ray.databases import backends_in, databases, of_each
from django_ray.driver import need_psycopg
from django_ray.figures import SAMPLE, Figures, figures
from django_ray.management.commands._common import piped, warn_of
from django_ray.management.commands._tables import NOTHING, Section, line, printable, show
from django_ray.moments import for_machines
from django_ray.status import Queue, Status, status
from django_ray.templatetags.django_ray import ago, amounts, count, duration, held, percent, short_class
from django_ray.templatetags.django_ray_times import rule, until, wall

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = ["Command"]

REFRESH_SECONDS = 15.0  # With --watch: what nobody tells of is shown as late as that.
PAUSE_SECONDS = 1.0
_MOST_HOURS = 24 * 366


class Command(BaseCommand):
    """The command."""

    help = "Show queues, running tasks, what is due next, recent failures and supervisors."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
        parser.add_argument("--watch", action="store_true", help="show it again whenever something has happened")
        parser.add_argument(
            "--tasks",
            type=_hours,
            nargs="?",
            const=1,
            metavar="HOURS",
            help="figures of each task, from what ended within so many hours (1)",
        )
        parser.add_argument(
            "--check", action="store_true", help="say what somebody has to look at, and end with 1 if there is anything"
        )
        parser.add_argument(
            "--oldest", type=_seconds, metavar="SECONDS", help="with --check: how long what could run may wait"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """Show it, once or until Ctrl-C."""
        if options["oldest"] is not None and not options["check"]:
            raise CommandError("--oldest is for --check.")
        if (options["check"] or options["tasks"] is not None) and options["watch"]:
            raise CommandError("--check and --tasks look once: leave --watch out.")
        if options["check"] and options["tasks"] is not None:
            raise CommandError("--check and --tasks are two questions: leave one out.")
        try:
            with piped(self.stdout):
                if options["tasks"] is not None:
                    self._tasks(options["tasks"], as_json=options["json"])
                elif options["check"]:
                    self._check(options["oldest"], as_json=options["json"])
                elif options["watch"]:
                    with _stoppable():
                        self._watch(as_json=options["json"])
                else:
                    self._show(status(), as_json=options["json"])
        except OperationalError as error:
            raise CommandError(f"The database cannot be reached: {error}") from None

    def _check(self, oldest: float | None, *, as_json: bool) -> None:
        with translation.override("en"):
            found = list(alarms(status(), oldest=oldest))
        if as_json:
            self.stdout.write(json.dumps({"alarms": found}))
        else:
            for sentence in found or ["All is well."]:
                self.stdout.write(printable(sentence))
        if found:
            raise SystemExit(1)

    def _tasks(self, hours: int, *, as_json: bool) -> None:
        found, unreachable = of_each(lambda database: figures(database, timedelta(hours=hours)))
        warn_of(unreachable, self.stderr)
        if as_json:
            tasks = [
                {"database": database, **asdict(row), "error_rate": row.error_rate}
                for database, one in found.items()
                for row in one.tasks
            ]
            self.stdout.write(json.dumps({"tasks": tasks}))
            return
        with translation.override("en"):
            for one in found.values():
                if one.is_sample:
                    self.stdout.write(f"More ended than is looked at: the last {SAMPLE:,}, since {ago(one.since)}.")
            show(self.stdout, _of_tasks([row for one in found.values() for row in one.tasks]))

    def _watch(self, *, as_json: bool) -> None:
        """Sleep until a supervisor tells of something new; programs get one object per line."""
        need_psycopg("--watch")
        import psycopg

        from django_ray.ears import MARK_REPORTING, connection_parameters

        try:
            with ExitStack() as stack:
                sessions: list[Any] = []
                for database in (names := databases()):
                    try:
                        session = psycopg.connect(**connection_parameters(database), autocommit=True)
                    except psycopg.OperationalError:
                        if database == names[-1] and not sessions:
                            raise
                        continue  # the others are shown
                    sessions.append(stack.enter_context(session))
                    for bell in ("progress", *(f"activity:{alias}" for alias in backends_in(database))):
                        cursor = session.execute("SELECT quote_ident(django_ray_channel(%s))", [bell])
                        (channel,) = cursor.fetchone() or ("",)
                        session.execute(f"LISTEN {channel}".encode())
                while True:
                    for session in [*sessions]:
                        try:
                            session.execute(MARK_REPORTING)
                        except psycopg.OperationalError:
                            sessions.remove(session)
                            if not sessions:
                                raise  # else the others are shown
                    if not as_json and self.stdout.isatty():
                        self.stdout.write("\x1b[2J\x1b[H", ending="")
                    self._show(status(), as_json=as_json)
                    self.stdout.flush()
                    _hear(sessions)
                    time.sleep(PAUSE_SECONDS)
        except psycopg.OperationalError as error:
            raise OperationalError(*error.args) from error

    def _show(self, shown: Status, *, as_json: bool) -> None:
        warn_of(shown.unreachable, self.stderr)
        if as_json:
            self.stdout.write(json.dumps(_plain(shown)))
            return
        with translation.override("en"):  # its words are English, and so are its numbers
            sections = _sections(shown)
        for section in sections:
            show(self.stdout, section)
        if shown.more_queues:
            self.stdout.write(f"And {shown.more_queues:,} more queues.")


@contextmanager
def _stoppable() -> Generator[None]:
    """Return from the block at SIGINT or SIGTERM, also where a shell had SIGINT ignored, as it does for `command &`."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(sessions: Sequence[Any]) -> None:
    """Return at a notification, or after a while. Not psycopg's notifies(), which answers a Ctrl-C only after that."""
    with selectors.DefaultSelector() as selector:
        for session in sessions:
            selector.register(session.fileno(), selectors.EVENT_READ)
        selector.select(REFRESH_SECONDS)
    for session in sessions:
        with suppress(Exception):  # one that has ended is found out when it is asked next
            session.pgconn.consume_input()
        while session.pgconn.notifies():
            pass


def _sections(shown: Status) -> list[Section]:
    return [
        (
            "Queues",
            (
                "queue", "backend", "", "waiting", "oldest", "running", "scheduled", "blocked", "at gates", "held",
                "done/h", "failed/h", "postponed/h", "mean wait",
            ),
            [
                (
                    line(queue.name), queue.backend, _said_of(queue), count(queue.waiting),
                    duration(queue.oldest), count(queue.running), count(queue.scheduled), count(queue.blocked),
                    count(queue.gated), held(queue), f"{queue.ended:,}", f"{queue.failed:,}", f"{queue.postponed:,}",
                    duration(queue.wait),
                )
                for queue in shown.queues
            ],
            "None: TASKS has no RayTaskBackend, or it names no QUEUES and nothing was enqueued.",
        ),
        (
            "Running",
            ("task", "id", "queue", "for", "progress", "attempt", "supervisor"),
            [
                (
                    line(row.callable_path), str(row.pk), line(row.queue_name),
                    _since(shown.at, row.last_attempted_at), _progress(row), str(len(row.worker_ids)),
                    str(row.worker_ids[-1] if row.worker_ids else NOTHING),
                )
                for row in shown.running
            ],
            "Nothing.",
        ),
        (
            "Due next",
            ("schedule", "backend", "next", "", "rule", "time zone", "problem"),
            [
                (
                    line(one.row.name), one.row.backend, wall(one.at), _when(one), line(rule(one.row)),
                    line(one.row.time_zone), line(one.row.problem or ""),
                )
                for one in shown.schedules
            ],
            "Nothing.",
        ),
        (
            "Recent failures",
            ("task", "failures", "first", "last", "id of the last", "error"),
            [
                (
                    line(group.callable_path), f"{group.number:,}", ago(group.first_at), ago(group.last.finished_at),
                    str(group.last.pk),
                    line(f"{short_class(group.exception_type)}: {getattr(group.last, 'error_text', '') or ''}"),
                )
                for group in shown.failure_groups
            ],
            "None.",
        ),
        (
            "Supervisors",
            ("id", "", "host", "queues", "running", "has", "workers", "since", "last sign of life", "Ray"),
            [
                (
                    str(one.id), "" if one.is_here else "no session", f"{one.hostname} ({one.pid})",
                    "any" if one.queues is None else line(", ".join(one.queues)),
                    f"{one.running} of {one.slots}{f', {one.wanted} more wanted' if one.wanted else ''}",
                    line(amounts(one.resources)), line(amounts(one.replicas)),
                    ago(one.started_at), ago(one.pulse_at), one.ray_address,
                )
                for one in shown.supervisors
            ],
            "None: nothing will be run until you start django-ray-listen.",
        ),
        (
            "Supervisors found dead in the last hour",
            ("id", "host", "when", "executions taken back"),
            [(str(one.id), f"{one.hostname} ({one.pid})", ago(one.lost_at), f"{one.rescued:,}") for one in shown.lost],
            "None.",
        ),
    ]  # fmt: skip


def _of_tasks(rows: Sequence[Figures]) -> Section:
    return (
        "Tasks",
        ("task", "ended", "failed", "errors", "retries", "run p50", "p95", "wait p50", "p95"),
        [
            (
                line(row.callable_path), f"{row.ended:,}", f"{row.failed:,}", percent(row.error_rate),
                f"{row.retried:,}", *map(duration, (row.run_p50, row.run_p95, row.wait_p50, row.wait_p95)),
            )
            for row in rows
        ],
        "Nothing has ended in this time.",
    )  # fmt: skip


def _hours(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= _MOST_HOURS:
        raise ArgumentTypeError(f"{text!r} is no number of hours from 1 to {_MOST_HOURS}.")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of seconds: 300, for instance.")
    return number


def _said_of(queue: Queue) -> str:
    if queue.paused_at:
        by = f" by {queue.paused_by}" if queue.paused_by else ""
        return line(f"paused{by}{f': {queue.paused_because}' if queue.paused_because else ''}")
    return "no supervisor serves it" if queue.is_forsaken else ""


def _since(now: datetime, moment: datetime | None) -> str:
    return duration(None if moment is None else (now - moment).total_seconds())


def _when(one: Upcoming) -> str:
    return until(one.at) if one.overdue is None else f"overdue for {duration(one.overdue)}"


def _progress(row: Any) -> str:
    """Return how far a running one is, in one line."""
    if row.said is None:
        return NOTHING
    return line(f"{'' if row.fraction is None else percent(row.fraction)} {row.said}".strip())


def _plain(shown: Status) -> dict[str, Any]:
    """Return it as JSON can hold it."""
    return {
        "at": for_machines(shown.at),
        "unreachable": dict(shown.unreachable),
        "queues": [
            {
                **{name: value for name, value in asdict(queue).items() if name not in {"minutes", "paused_at"}},
                "held": queue.held,
                "paused_at": _moment(queue.paused_at), "ended": queue.ended, "failed": queue.failed,
                "postponed": queue.postponed, "wait": queue.wait,
            }
            for queue in shown.queues
        ],
        "more_queues": shown.more_queues,
        "running": [{**_execution(row), "progress": _said(row)} for row in shown.running],
        "schedules": [
            {
                "name": one.row.name, "backend": one.row.backend, "next_at": _moment(one.at), "overdue": one.overdue,
                "problem": one.row.problem,
            }
            for one in shown.schedules
        ],
        "failure_groups": [
            {
                "task": group.callable_path, "exception_type": group.exception_type, "failures": group.number,
                "first_at": _moment(group.first_at), "last_at": _moment(group.last.finished_at),
                "task_id": str(group.last.pk), "message": getattr(group.last, "error_text", None),
            }
            for group in shown.failure_groups
        ],
        "failures": [
            {**_execution(row), "exception_type": row.exception_type, "message": getattr(row, "error_text", None)}
            for row in shown.failures
        ],
        "lost": [{**asdict(one), "lost_at": _moment(one.lost_at)} for one in shown.lost],
        "supervisors": [
            {**asdict(one), "started_at": _moment(one.started_at), "pulse_at": _moment(one.pulse_at)}
            for one in shown.supervisors
        ],
    }  # fmt: skip


def _said(row: Any) -> dict[str, Any] | None:
    return None if row.said is None else {"fraction": row.fraction, "message": row.said}


def _execution(row: Model) -> dict[str, Any]:
    found: Any = row
    return {
        "task_id": str(found.pk),
        "task": found.callable_path,
        "queue": found.queue_name,
        "attempts": len(found.worker_ids),
        "last_attempted_at": _moment(found.last_attempted_at),
        "finished_at": _moment(found.finished_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else for_machines(moment)
