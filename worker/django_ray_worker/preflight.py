"""Before anything starts: can this supervisor work at all? What cannot ends in one sentence that names the remedy."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError, OperationalError
from django.tasks import task_backends

from django_ray.backends import RayTaskBackend
from django_ray.checks import TRIGGERS, missing_triggers
from django_ray.tables import missing_tables
from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.database.connections import CONNECT_SECONDS, MOST_CONNECTIONS, Database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

log = logging.getLogger("django_ray.supervisor")

LEAST_CONNECTIONS = 4  # The session, and a pool in which one may wait for long, one claim and one record.
# Of superusers there may be any number.
_LIMITS = """
SELECT session_user::text, rolconnlimit, datconnlimit FROM pg_roles CROSS JOIN pg_database
WHERE rolname = session_user AND datname = current_database() AND NOT rolsuper
UNION ALL SELECT session_user::text, -1, -1 LIMIT 1
"""

# Of what stands after the colon in --queue mail:4. Anything else is a part of the queue's name.
_NUMBER = re.compile(r"[+-]?[0-9][0-9.]*")
MOST_AT_ONCE = 100_000

__all__ = ["find_backend", "find_database", "find_queues", "find_quotas"]


def find_backend(alias: str) -> RayTaskBackend:
    """Return the backend to work for."""
    if alias not in settings.TASKS:
        raise Misconfigured(
            f"There is no backend {alias!r} in TASKS; there are {', '.join(map(repr, settings.TASKS)) or 'none'}. "
            'Configure TASKS = {"default": {"BACKEND": "django_ray.backends.RayTaskBackend"}}, or use --backend.'
        )
    try:
        backend = task_backends[alias]
    except ImproperlyConfigured as error:
        raise Misconfigured(str(error)) from None
    if not isinstance(backend, RayTaskBackend):
        raise Misconfigured(
            f'TASKS["{alias}"]["BACKEND"] is {settings.TASKS[alias]["BACKEND"]!r}; the supervisor works for '
            '"django_ray.backends.RayTaskBackend". Name another alias with --backend.'
        )
    return backend


def find_queues(backend: RayTaskBackend, wanted: Sequence[str]) -> tuple[str, ...] | None:
    """Return the queues to claim from: those wanted, else all of the backend; None is any."""
    configured: set[str] = backend.queues
    if unknown := sorted(set(wanted) - configured):
        if configured:
            raise Misconfigured(
                f"--queue {unknown[0]!r} is not a queue of backend {backend.alias!r}; "
                f'TASKS["{backend.alias}"]["QUEUES"] has {", ".join(map(repr, sorted(configured)))}.'
            )
        return tuple(dict.fromkeys(wanted))
    return tuple(dict.fromkeys(wanted)) or tuple(sorted(configured)) or None


def find_quotas(backend: RayTaskBackend, wanted: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Return the names of the queues in what --queue says, and the quotas of those that have one: mail:4."""
    names, quotas = [], dict[str, int]()
    for said in wanted:
        name, colon, number = said.rpartition(":")
        # A queue may have a colon in its own name.
        if not colon or said in backend.queues or not _NUMBER.fullmatch(number):
            names.append(said)
            continue
        quota = int(number) if number.isdecimal() and len(number) <= len(str(MOST_AT_ONCE)) else 0
        if not name or not 1 <= quota <= MOST_AT_ONCE:
            raise Misconfigured(
                f"--queue {said!r}: what stands after the colon is how many executions of the queue may run here at "
                f"once, a whole number from 1 to {MOST_AT_ONCE:,}, as in mail:4."
            )
        if quotas.get(name, quota) != quota:
            raise Misconfigured(f"--queue {name!r} has two numbers, {quotas[name]} and {quota}: give one.")
        names.append(name)
        quotas[name] = quota
    return names, quotas


def find_database(backend: RayTaskBackend) -> Database:
    """Return the database that the executions of a backend live in, after a look at it."""
    if not apps.is_installed("django_ray"):
        raise Misconfigured('Add "django_ray" to INSTALLED_APPS.')
    connection = connections[backend.database]
    if connection.vendor != "postgresql":
        raise Misconfigured(
            f"The database {connection.alias!r} is {connection.display_name}; django-ray needs PostgreSQL. Point "
            "DATABASES at it, or name one in OPTIONS['DATABASE'] of the backend, or by a router."
        )
    options = connection.settings_dict["OPTIONS"]
    # For each host, or a silent one would be waited for; and not the project's pool: a supervisor has its own.
    connection.settings_dict["OPTIONS"] = {"connect_timeout": CONNECT_SECONDS, **options, "pool": False}
    try:
        _look_at(connection)
        return Database(connection, places=_places(connection))
    except (OperationalError, DatabaseError) as error:
        raise Misconfigured(
            f"The database {connection.alias!r} cannot be used ({' '.join(str(error).split())}). Check that PostgreSQL "
            "runs and that DATABASES names it."
        ) from None
    finally:
        connection.close()
        connection.settings_dict["OPTIONS"] = options


def _places(connection: BaseDatabaseWrapper) -> int:
    """Return how many connections a supervisor may have; it is said once where that is less than it could use."""
    with connection.cursor() as cursor:
        cursor.execute(_LIMITS)
        user, of_role, of_database = cursor.fetchone()
    limit = min((limit for limit in (of_role, of_database) if limit >= 0), default=MOST_CONNECTIONS + 1)
    if limit > MOST_CONNECTIONS:
        return MOST_CONNECTIONS
    places = limit - 1  # one for a body
    sentence = (
        f"The role {user!r} may have {limit} connections to this database at a time (CONNECTION LIMIT); a supervisor "
        f"has 2 to {MOST_CONNECTIONS}, and each Ray worker that asks the database one more."
    )
    if places < LEAST_CONNECTIONS:
        raise Misconfigured(f"{sentence} Allow it more: ALTER ROLE ... CONNECTION LIMIT 100, or ALTER DATABASE.")
    log.warning("%s This one will have at most %d.", sentence, places)
    return places


def _look_at(connection: BaseDatabaseWrapper) -> None:
    executor = MigrationExecutor(connection)
    targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "django_ray"]
    if executor.migration_plan(targets):
        raise Misconfigured(missing_tables(connection.alias))
    if missing := missing_triggers(connection):
        raise Misconfigured(
            f"The trigger {missing[0]} on {TRIGGERS[missing[0]]} is missing or disabled, so nobody would be woken: "
            f"ALTER TABLE {TRIGGERS[missing[0]]} ENABLE TRIGGER {missing[0]}, or migrate django_ray zero and again."
        )
