"""manage.py django_ray_search_index: the search of the admin looks into all executions, not only into the newest."""

from __future__ import annotations

from typing import Any, override

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from django_ray import wordindex
from django_ray.databases import databases

__all__ = ["Command"]


class Command(BaseCommand):
    """Makes or drops an index, while the table is used."""

    help = (
        "Make an index of the words in arguments, errors and metadata, so that the search of the admin looks into all "
        "executions. It takes space, and some time of each enqueue."
    )

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--drop", action="store_true", help="drop it")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """Do it in each database."""
        for database in databases():
            try:
                self.stdout.write(f"{database}: {self._drop(database) if options['drop'] else self._make(database)}")
            except DatabaseError as error:
                raise CommandError(f"{database}: {' '.join(str(error).split())}") from None

    def _make(self, database: str) -> str:
        state = wordindex.exists(database)
        if state:
            return "the index is there already."
        with connections[database].cursor() as cursor:
            if state is None:
                cursor.execute(wordindex.DROP)  # what was broken off is of no use
            try:
                cursor.execute(wordindex.CREATE)
            except DatabaseError:
                cursor.execute(wordindex.DROP)  # what is half made would be kept up all the same
                raise
        return "the index is made."

    def _drop(self, database: str) -> str:
        if wordindex.exists(database) is False:
            return "there is no index."
        with connections[database].cursor() as cursor:
            cursor.execute(wordindex.DROP)
        return "the index is dropped."
