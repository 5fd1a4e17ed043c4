"""In which database executions live: the one place that says it.

A backend says so itself, by OPTIONS["DATABASE"], or leaves it to the router. Everything of an execution is in the same
database: flow, edges, schedule, gates, supervisors, progress. Who knows a backend asks database_of(); who knows an id
alone looks in databases(), one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, cast, override

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, OperationalError, connections, models, router
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends
from django.tasks.exceptions import InvalidTaskBackend

from django_ray.deadline import answered, has_ended

__all__ = [
    "NOT_INSTALLED", "PlacedQuerySet", "Unreachable", "asked_for", "backends_in", "database_of", "database_of_row",
    "databases", "of_each", "routed",
]  # fmt: skip

ANSWER_SECONDS = 10.0  # For one of several databases to say what a page shows of it; the others are shown without it.

# What does not answer, and why.
type Unreachable = dict[str, str]

NOT_INSTALLED = 'TASKS uses django_ray, which is not in INSTALLED_APPS: add "django_ray" and run manage.py migrate.'


def routed() -> str:
    """Return the database of the backends that name none: the one that the router names for writing."""
    try:
        return router.db_for_write(apps.get_model("django_ray", "RayTaskExecution"))
    except LookupError:
        raise ImproperlyConfigured(NOT_INSTALLED) from None


def database_of(backend: str) -> str:
    """Return the database in which the executions of a backend in TASKS live, by its alias in DATABASES.

    Rows may name backends that TASKS has no more, and backends that are not ours: the router speaks for them.
    """
    found = getattr(task_backends[backend], "database", None) if backend in settings.TASKS else None
    return cast("str", found) or routed()


def databases(first: str | None = None) -> list[str]:
    """Return the databases in which executions of this project live, in the order of TASKS, but first that one."""
    found = [backend.database for backend in _backends() if getattr(backend, "keeps_rows", False)] or [routed()]
    return [*dict.fromkeys(found if first is None else [first, *found])]


def _backends() -> Iterator[Any]:
    """Yield those that can be made: another one says what is wrong with it when it is used."""
    for alias in task_backends:
        with suppress(InvalidTaskBackend):
            yield task_backends[alias]


def database_of_row(row: models.Model) -> str:
    """Return the database that a row was read from, or written to."""
    return cast("str", row._state.db)  # noqa: SLF001


def backends_in(database: str) -> list[str]:
    """Return the aliases of our backends whose executions live in a database."""
    return [backend.alias for backend in _backends() if getattr(backend, "database", None) == database]


def asked_for(given: Sequence[str] | None) -> list[str]:
    """Return those of the databases that `check --database` was given in which executions live, as they can."""
    return [name for name in databases() if name in (given or ()) and connections[name].vendor == "postgresql"]


def of_each[Found](look: Callable[[str], Found]) -> tuple[dict[str, Found], Unreachable]:
    """Look at each database; return what was found, and which do not answer. OperationalError if none does.

    For who shows them all: one server that is away does not take the sight of the others.
    """
    found, unreachable = dict[str, Found](), dict[str, str]()
    error: Exception | None = None
    for database in databases():
        connection: Any = connections[database]
        try:
            if connection.connection is not None and not connection.in_atomic_block and has_ended(connection):
                connection.close()  # it was kept, and the server has restarted since
            connection.ensure_connection()
            with answered(connection, ANSWER_SECONDS):
                found[database] = look(database)
        except (InterfaceError, OperationalError) as failed:
            if connection.in_atomic_block:
                raise  # the caller's
            connection.close()
            error, unreachable[database] = failed, " ".join(str(failed).split())
    if error is not None and not found:
        raise error
    return found, unreachable


class PlacedQuerySet[Row: models.Model](models.QuerySet[Row]):
    """Rows of backends: a new one goes where the executions of its backend live, unless using() says where."""

    @override
    def create(self, **kwargs: Any) -> Row:
        """Make a row."""
        if getattr(self, "_db") is None:  # noqa: B009 - for the type checkers
            return self.using(database_of(kwargs.get("backend", DEFAULT_TASK_BACKEND_ALIAS))).create(**kwargs)
        return super().create(**kwargs)
