"""manage.py django_ray_pause: nothing more of these queues is started."""

from __future__ import annotations

from typing import Any, override

from django.core.management.base import BaseCommand, CommandParser

from django_ray.management.commands._common import check_queues, explaining_locks, find_backend, operator


class Command(BaseCommand):
    """Writes the row that claims heed; a trigger tells the supervisors."""

    help = "Pause queues: supervisors start nothing more of them, and what runs may finish."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="+", metavar="QUEUE", help="pause these")
        parser.add_argument("--backend", default="default", metavar="ALIAS", help="of this backend (default: default)")
        parser.add_argument("--because", metavar="TEXT", help="why, as the pages and django_ray_why tell others")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray.models import RayQueue

        backend = find_backend(options["backend"])
        check_queues(backend, options["queues"])
        for name in options["queues"]:
            with explaining_locks():
                has_changed = RayQueue.objects.pause(name, backend.alias, by=operator(), because=options["because"])
            self.stdout.write(f"{name} {'is paused' if has_changed else 'was paused already'}.")
