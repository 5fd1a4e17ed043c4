"""manage.py django_ray_pause: nothing more of these queues is started."""

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
    operator,
)


class Command(BaseCommand):
    """Writes the row that claims heed; a trigger tells the supervisors."""

    help = "Pause queues: supervisors start nothing more of them, and what runs may finish."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="+", metavar="QUEUE", help="pause these")
        parser.add_argument("--backend", default="default", metavar="ALIAS", help="of this backend (default: default)")
        parser.add_argument("--because", metavar="TEXT", help="why, as the pages and django_ray_why tell others")
        add_operator(parser)

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray.models import RayQueue

        check_operator(options)
        backend = find_backend(options["backend"])
        check_queues(backend, options["queues"])
        for name in options["queues"]:
            with explaining_locks():
                by, because = operator(options), options["because"]
                has_changed = RayQueue.objects.pause(name, backend.alias, by=by, because=because)
            if has_changed:
                note({**options, "queues": [name]}, RayQueue, "Paused.")
            self.stdout.write(f"{name} {'is paused' if has_changed else 'was paused already'}.")
