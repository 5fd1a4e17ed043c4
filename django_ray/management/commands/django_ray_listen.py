"""manage.py django_ray_listen: the supervisor, for those who like one door."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, override

from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    """Hands over to django_ray_worker, which a web process does not need to import."""

    help = "Run the tasks that Django enqueues, on Ray, as they come. The same as django-ray-listen."
    requires_system_checks = ()

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        from django_ray_worker.main import add_arguments

        add_arguments(parser)

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        from django_ray_worker.main import run

        run(Namespace(**options), Path.cwd())
