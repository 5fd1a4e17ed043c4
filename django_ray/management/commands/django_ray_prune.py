"""manage.py django_ray_prune: finished executions are deleted, oldest first, a batch at a time.

Each batch is a transaction of its own, which skips what somebody else has locked; so it disturbs nobody, and what has
gone when it is interrupted has gone.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, override

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.db.models.functions import Now

from django_ray.bounds import MOST, is_whole
from django_ray.databases import databases
from django_ray.management.commands._common import (
    add_operator,
    check_operator,
    counted,
    find_states,
    note,
    refuse_unknown,
)

if TYPE_CHECKING:
    from django_ray.models import ExecutionQuerySet

STATES = ("SUCCESSFUL", "FAILED", "CANCELLED")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(days=36_500)  # PostgreSQL counts years from -4713.


class Command(BaseCommand):
    """Deletes until none is left, --max is reached, or somebody presses Ctrl-C."""

    help = "Delete finished executions that are older than that, with their results and errors."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than", required=True, metavar="AGE", help="since the end: 90s, 15m, 12h, 7d, 2w")
        parser.add_argument(
            "--state", action="append", metavar="STATE", help=f"only {', '.join(STATES)}; repeatable (default: all)"
        )
        parser.add_argument("--queue", action="append", metavar="NAME", help="only of this queue; repeatable")
        parser.add_argument("--batch-size", type=int, default=1000, metavar="N", help="rows at a time (default: 1000)")
        parser.add_argument("--max", type=int, metavar="N", help="stop after so many")
        parser.add_argument("--dry-run", action="store_true", help="say how many, and delete nothing")
        add_operator(parser)

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray.models import RayTaskExecution

        check_operator(options)
        for name in ("batch_size", "max"):
            if options[name] is not None and not is_whole(options[name], 1):
                raise CommandError(
                    f"--{name.replace('_', '-')} is {options[name]}: it must be at least 1 and at most {MOST:,}."
                )
        states, before = find_states(options["state"], STATES), Now() - _age(options["older_than"])
        objects: Any = RayTaskExecution.objects
        chosen: list[ExecutionQuerySet] = [
            objects.using(name).filter(state__in=states, finished_at__lt=before) for name in databases()
        ]
        if options["queue"]:
            chosen = [rows.filter(queue_name__in=options["queue"]) for rows in chosen]
        if options["dry_run"]:
            number = _count(chosen, options["max"])
            refuse_unknown(options, number)
            self.stdout.write(f"{counted(number)} would be deleted.")
            return
        with _interrupts() as is_interrupted, self._progress(chosen, options) as show:
            gone = _prune(chosen, options["batch_size"], options["max"], show, is_interrupted)
        if gone:
            note(options, RayTaskExecution, f"Deleted {counted(gone)}.")
        if is_interrupted():
            self.stdout.write(f"Interrupted: deleted {counted(gone)} until then.")
            sys.exit(128 + signal.SIGINT)
        refuse_unknown(options, gone)
        self.stdout.write(f"Deleted {counted(gone)}.")

    @contextmanager
    def _progress(
        self, chosen: Sequence[ExecutionQuerySet], options: dict[str, Any]
    ) -> Generator[Callable[[int], object]]:
        """Show people how far it is; who reads a file wants the end only."""
        if options["verbosity"] == 0 or not self.stdout.isatty():
            yield lambda _: None
            return
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ModuleNotFoundError:
            yield lambda gone: self.stdout.write(f"{counted(gone)} ...")
            return
        with Progress(console=Console(), transient=True) as progress:
            bar = progress.add_task("Deleting", total=_count(chosen, options["max"]))
            yield lambda gone: progress.update(bar, completed=gone)


def _count(chosen: Sequence[ExecutionQuerySet], most: int | None) -> int:
    number = sum(rows[:most].count() for rows in chosen)
    return number if most is None else min(number, most)


def _prune(
    chosen: Sequence[ExecutionQuerySet],
    batch_size: int,
    most: int | None,
    show: Callable[[int], object],
    is_interrupted: Callable[[], bool],
) -> int:
    """Delete batch by batch, in one database after the other; return how many."""
    gone = 0
    for rows in chosen:
        while not is_interrupted() and (most is None or gone < most):
            with transaction.atomic(using=rows.db):
                deleted = rows.prune(batch_size if most is None else min(batch_size, most - gone))
            if not deleted:
                break
            gone += deleted
            show(gone)
    return gone


@contextmanager
def _interrupts() -> Generator[Callable[[], bool]]:
    """Let the first Ctrl-C wait for the end of the batch; the second is Python's own."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set  # signals are the main thread's
        return

    def press(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,8})([smhdw])", text.strip())
    age = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else LONGEST
    if age >= LONGEST:
        raise CommandError(
            f"--older-than is {text!r}: it must be a number with a unit, such as 90s, 15m, 12h, 7d, 2w, and less than "
            "a hundred years."
        )
    return age
