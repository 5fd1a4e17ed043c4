"""manage.py django_ray_cancel: executions that are not finished shall not run, or not run on."""

from __future__ import annotations

from typing import Any, override

from django.core.management.base import BaseCommand, CommandParser

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
        add_operator(parser)

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray.models import RayTaskExecution

        check_operator(options)
        with explaining_locks():
            number = sum(
                chosen.count() if options["dry_run"] else chosen.cancel() for chosen in executions(options, STATES)
            )
        refuse_unknown(options, number)
        if options["dry_run"]:
            self.stdout.write(f"{counted(number)} would be cancelled.")
            return
        done = f"Cancelled {counted(number)}."
        if number:
            note(options, RayTaskExecution, done)
        self.stdout.write(done)
