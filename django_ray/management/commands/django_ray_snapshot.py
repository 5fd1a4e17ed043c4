"""manage.py django_ray_snapshot: what a running execution does now."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, override

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_ray.management.commands._common import piped, task_id
from django_ray.management.commands._tables import printable
from django_ray.snapshot import NoSnapshot, snapshot

__all__ = ["Command"]


class Command(BaseCommand):
    """The command."""

    help = "Show what a running execution does now: its process, its stack, and the last lines that it has written."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", metavar="ID", help="of an execution: result.id")
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """Show it."""
        try:
            found = snapshot(task_id(options["id"]))
        except NoSnapshot as error:
            raise CommandError(str(error)) from None
        with piped(self.stdout):
            if options["json"]:
                self.stdout.write(json.dumps(asdict(found)))
            else:
                self.stdout.write("\n".join(map(printable, found.text.split("\n"))))
