"""manage.py django_ray_beat: what Celery's beat was told, as OPTIONS["SCHEDULES"] says it.

It prints, and changes nothing. Celery and django-celery-beat need not be installed: a dictionary is read as it is, and
the tables of django-celery-beat by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, override

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from django_ray.beat import Said, Unsaid, entries_of
from django_ray.declaring import is_there
from django_ray.management.commands._beat import TABLE, has_rows, lines_of, rows_of
from django_ray.management.commands._common import piped
from django_ray.naming import near
from django_ray.rules import zone_of

__all__ = ["Command"]


class Command(BaseCommand):
    """The command."""

    help = "Print OPTIONS['SCHEDULES'] for what beat does: for CELERY_BEAT_SCHEDULE, and rows of django-celery-beat."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "paths",
            nargs="*",
            metavar="PATH",
            help="a dictionary, such as shop.celery.app.conf.beat_schedule (default: settings.CELERY_BEAT_SCHEDULE)",
        )
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, metavar="ALIAS", help="where its rows are")
        parser.add_argument(
            "--time-zone", metavar="NAME", help="of crontabs in a dictionary (default: CELERY_TIMEZONE, else TIME_ZONE)"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        zone = _zone(options["time_zone"] or getattr(settings, "CELERY_TIMEZONE", None) or settings.TIME_ZONE)
        alias = options["database"]
        if alias not in connections:
            raise CommandError(f"--database {alias}: DATABASES has no such alias{near(alias, connections)}")
        sources: list[tuple[str, list[Said | Unsaid]]] = [
            (path, [*entries_of(_dictionary_at(path))]) for path in options["paths"]
        ]
        if not sources and isinstance(said := getattr(settings, "CELERY_BEAT_SCHEDULE", None), Mapping):
            sources.append(("CELERY_BEAT_SCHEDULE", [*entries_of(said)]))
        if has_rows(alias):
            sources.append((TABLE, [*rows_of(alias)]))
        if not sources:
            raise CommandError(
                f"The settings have no CELERY_BEAT_SCHEDULE, and there is no table {TABLE}: give the path of the "
                "dictionary, such as shop.celery.app.conf.beat_schedule."
            )
        with piped(self.stdout):
            self.stdout.write("\n".join(lines_of(sources, zone)))


def _zone(name: Any) -> str:
    try:
        return zone_of(str(name)).key
    except ValueError as error:
        raise CommandError(str(error)) from None


def _dictionary_at(path: str) -> Mapping[Any, Any]:
    """Return the dictionary at a path: of a module, and from there on of attributes."""
    parts = path.split(".")
    lengths = [length for length in range(len(parts) - 1, 0, -1) if is_there(".".join(parts[:length]))]
    if not lengths:
        raise CommandError(f"{path}: there is no module {parts[0]}.")
    try:
        found: Any = import_module(".".join(parts[: lengths[0]]))
        for name in parts[lengths[0] :]:
            found = getattr(found, name)
    except Exception as error:  # the project's code
        raise CommandError(f"{path} cannot be imported: {error}") from error
    if not isinstance(found, Mapping):
        raise CommandError(f"{path} is a {type(found).__qualname__}, and no dictionary of entries.")
    return found
