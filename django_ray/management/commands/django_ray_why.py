"""manage.py django_ray_why: why executions do not run, or what they are doing."""

from __future__ import annotations

import json
from typing import Any, override
from uuid import UUID

from django.core.management.base import BaseCommand, CommandParser

from django_ray.management.commands._common import piped, task_id
from django_ray.management.commands._tables import printable
from django_ray.tables import find
from django_ray.why import why

__all__ = ["Command"]


class Command(BaseCommand):
    """The command."""

    help = "Say why executions do not run, or what they are doing: a sentence for each."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="+", metavar="ID", help="of an execution: result.id")
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """Say it, in the order of the ids."""
        ids = [task_id(text) for text in options["ids"]]
        with piped(self.stdout):
            if options["json"]:
                self.stdout.write(json.dumps({"executions": [_plain(one) for one in ids]}))
                return
            for one in ids:
                self.stdout.write(f"{one}  {printable(why(one))}" if len(ids) > 1 else printable(why(one)))


def _plain(one: UUID) -> dict[str, Any]:
    from django_ray.models import RayTaskExecution

    row = find(RayTaskExecution, one)
    return {"task_id": str(one), "state": None if row is None else row.state, "why": why(one)}
