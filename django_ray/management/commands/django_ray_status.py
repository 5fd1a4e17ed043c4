"""manage.py django_ray_status: what the live page of the admin shows, in a terminal."""

from __future__ import annotations

import json
import selectors
import signal
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, override

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError
from django.utils import translation

from django_ray.agenda import Upcoming
from django_ray.databases import backends_in, databases
from django_ray.driver import need_psycopg
from django_ray.management.commands._common import piped, warn_of
from django_ray.management.commands._tables import NOTHING, Section, line, show
from django_ray.moments import for_machines
from django_ray.status import Status, status
from django_ray.templatetags.django_ray import ago, amounts, count, duration, held, percent
from django_ray.templatetags.django_ray_times import rule, until, wall

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = ["Command"]

REFRESH_SECONDS = 15.0  # With --watch: what nobody tells of is shown as late as that.
PAUSE_SECONDS = 1.0


class Command(BaseCommand):
    """The command."""

    help = "Show queues, running tasks, what is due next, recent failures and supervisors."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
        parser.add_argument("--watch", action="store_true", help="show it again whenever something has happened")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """Show it, once or until Ctrl-C."""
        try:
            with piped(self.stdout):
                if options["watch"]:
                    with _stoppable():
                        self._watch(as_json=options["json"])
                else:
                    self._show(status(), as_json=options["json"])
        except OperationalError as error:
            raise CommandError(f"The database cannot be reached: {error}") from None

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
                    for session in sessions:
                        session.execute(MARK_REPORTING)
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
                    line(queue.name), queue.backend, "paused" if queue.paused_at else "", count(queue.waiting),
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
            ("task", "id", "queue", "when", "error"),
            [
                (
                    line(row.callable_path), str(row.pk), line(row.queue_name), ago(row.finished_at),
                    line(f"{row.exception_type or ''}: {getattr(row, 'error_text', '') or ''}"),
                )
                for row in shown.failures
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
    ]  # fmt: skip


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
        "running": [{**_execution(row), "progress": _said(row)} for row in shown.running],
        "schedules": [
            {
                "name": one.row.name, "backend": one.row.backend, "next_at": _moment(one.at), "overdue": one.overdue,
                "problem": one.row.problem,
            }
            for one in shown.schedules
        ],
        "failures": [
            {**_execution(row), "exception_type": row.exception_type, "message": getattr(row, "error_text", None)}
            for row in shown.failures
        ],
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
