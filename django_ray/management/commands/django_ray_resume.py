"""manage.py django_ray_resume: paused queues go on."""

from __future__ import annotations

from typing import Any, override

from django.core.management.base import BaseCommand, CommandParser

from django_ray.management.commands._common import (
    add_operator,
    check_operator,
    check_queues,
    explaining_locks,
    find_backend,
    note,
)


class Command(BaseCommand):
    """Takes django_ray_pause back; a trigger tells the supervisors."""

    help = "Resume paused queues: supervisors look at once for what has collected in them."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="+", metavar="QUEUE", help="resume these")
        parser.add_argument("--backend", default="default", metavar="ALIAS", help="of this backend (default: default)")
        add_operator(parser)

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray.models import RayQueue

        check_operator(options)
        backend = find_backend(options["backend"])
        check_queues(backend, options["queues"])
        for name in options["queues"]:
            with explaining_locks():
                has_changed = RayQueue.objects.resume(name, backend.alias)
            if has_changed:
                note({**options, "queues": [name]}, RayQueue, "Resumed.")
            self.stdout.write(f"{name} {'is resumed' if has_changed else 'was not paused'}.")
