"""manage.py django_ray_cancel: executions that are not finished shall not run, or not run on."""

from __future__ import annotations

from typing import Any, override

from django.core.management.base import BaseCommand, CommandParser

from django_ray.management.commands._common import add_filters, counted, executions, explaining_locks, refuse_unknown

STATES = ("WAITING", "READY", "RUNNING")


class Command(BaseCommand):
    """Has each database do it in one statement; supervisors stop what runs."""

    help = (
        "Cancel executions: those that wait at once, those that run as soon as their supervisor has stopped them. "
        "Several filters narrow each other."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        add_filters(parser, "cancel", STATES)

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        with explaining_locks():
            number = sum(
                chosen.count() if options["dry_run"] else chosen.cancel() for chosen in executions(options, STATES)
            )
        refuse_unknown(options, number)
        self.stdout.write(
            f"{counted(number)} would be cancelled." if options["dry_run"] else f"Cancelled {counted(number)}."
        )
