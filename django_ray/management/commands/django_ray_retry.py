"""manage.py django_ray_retry: failed and cancelled executions once more, with all their attempts."""

from __future__ import annotations

from typing import Any, override

from django.core.management.base import BaseCommand, CommandParser

from django_ray import again
from django_ray.management.commands._common import (
    add_filters,
    add_operator,
    check_operator,
    counted,
    executions,
    explaining_locks,
    note,
    refuse_unknown,
)

STATES = ("FAILED", "CANCELLED")


class Command(BaseCommand):
    """Has each database do it in one statement."""

    help = "Run failed and cancelled executions again, with all their attempts. Several filters narrow each other."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        add_filters(parser, "retry", STATES)
        add_operator(parser)
        parser.add_argument(
            "--exception",
            metavar="CLASS",
            help="those whose last error is of this class: its path, or its name alone",
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray.models import RayTaskExecution

        check_operator(options)
        chosen = executions(options, STATES)
        if (name := options["exception"]) is not None:
            lookup = {"exception_type": name} if "." in name else {"exception_type__endswith": f".{name}"}
            chosen = [rows.filter(**lookup) for rows in chosen]
        if options["dry_run"]:
            number = sum(rows.count() for rows in chosen)
            refuse_unknown(options, number)
            self.stdout.write(f"{counted(number)} would be retried.")
            return
        with explaining_locks():
            done = [again.retry(rows) for rows in chosen]
        number, left = (sum(numbers) for numbers in zip(*done, strict=True))
        refuse_unknown(options, number + left)
        if number:
            note(options, RayTaskExecution, f"Retried {counted(number)}.")
        self.stdout.write(f"Retried {counted(number)}.{_left(left)}")


def _left(number: int) -> str:
    """Return the sentence about those that stay as they are."""
    if not number:
        return ""
    return f" Left {counted(number)} as {'it is' if number == 1 else 'they are'}: an equal one is unfinished."
