"""Executions once more: as what they are, or as copies; and never beside an equal one that is unfinished.

A row with a key (unique=..., see admission.py) must not become unfinished where another one with that key is. Whether
one is can change at any moment, and only the unique index knows. So such rows are taken in the order of their keys, as
whoever enqueues them inserts them, and each is left as it is where the index refuses it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from django.contrib.postgres.functions import TransactionNow
from django.core.exceptions import EmptyResultSet
from django.db import IntegrityError, connections, router
from django.db.models import Case, Exists, F, Func, JSONField, OuterRef, Q, TextField, When
from django.db.models.lookups import Exact

from django_ray import locking
from django_ray.clock import seconds

__all__ = ["Again", "enqueue_again", "retry"]

AT_ONCE = 500  # Rows with keys that are tried with one statement, as long as nothing is in their way.
BRIEFLY = 0.1  # Seconds that this waits: less than PostgreSQL lets a ring of waiters be before it ends one of them.
_ENDED = ("FAILED", "CANCELLED")
_UNFINISHED = ("READY", "RUNNING", "WAITING")
_FRESH = {
    "state": "READY",
    "finished_at": None,
    "cancel_requested_at": None,
    "due_at": None,
    "missing_since": None,
    "released": 0,
    "failures": 0,
    "losses": 0,
}
_COPIED = (
    "backend", "queue_name", "priority", "callable_path", "args", "kwargs", "options", "unique_key", "gate",
    "gate_rule",
)  # fmt: skip
# These columns alone: nobody needs a right to write the others. A copy has as long as its model had to begin.
_COPY = """
WITH chosen({names}, run_after, enqueued_at, expires_at, task_id, carrier) AS ({chosen}), copy AS (
    INSERT INTO django_ray_execution ({names}, carrier, expires_at)
    SELECT {names}, carrier, statement_timestamp() + (expires_at - coalesce(run_after, enqueued_at))
    FROM chosen ORDER BY unique_key COLLATE "C", task_id
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM chosen), (SELECT count(*) FROM copy)
"""


class _Kept(Func):
    """What the body needs of a carrier: what travels with it, and where its arguments are ids."""

    template = (
        "(SELECT jsonb_object_agg(key, value) FROM jsonb_each(%(expressions)s) WHERE key IN ('context', 'results'))"
    )


def _typeof(field: str) -> Func:
    return Func(F(field), function="jsonb_typeof", output_field=TextField())


class Again(NamedTuple):
    """How many are there once more, and how many are not because an equal one is unfinished."""

    number: int
    left: int


def retry(chosen: Any) -> Again:
    """Make those that FAILED or were CANCELLED claimable again. Of equal ones the newest, where none is unfinished."""
    alias = chosen._db or router.db_for_write(chosen.model)  # noqa: SLF001
    wanted = chosen.model._base_manager.using(alias).filter(pk__in=chosen.order_by().values("pk"))  # noqa: SLF001
    keyed, left, locked = _retry_keyed(alias, wanted.filter(unique_key__isnull=False, state__in=_ENDED))
    # One that waits for what has failed fails again at once.
    has_failed_again = Q(exception_type="django_ray.exceptions.UpstreamFailed", finished_at__gte=TransactionNow())
    number = keyed + locking.update(wanted.filter(unique_key=None), _ENDED, has_failed_again, _FRESH)
    if locked:
        raise locking.still_locked(number, locked)
    return Again(number, left)


def enqueue_again(chosen: Any) -> Again:
    """Enqueue copies, which may start at once."""
    chosen._for_write = True  # noqa: SLF001
    alias = chosen.db
    names = ", ".join(_COPIED)
    # The body needs what it was enqueued with; of the trace of then, it is no part.
    kept = Case(When(Exact(_typeof("carrier"), "object"), then=_Kept(F("carrier"), output_field=JSONField())))
    values = chosen.values_list(*_COPIED, "run_after", "enqueued_at", "expires_at", "task_id", kept)
    try:
        rows, parameters = values.query.get_compiler(alias).as_sql()
    except EmptyResultSet:
        return Again(0, 0)
    with connections[alias].cursor() as cursor:
        cursor.execute(_COPY.format(names=names, chosen=rows), parameters)
        selected, number = cursor.fetchone()
    return Again(number, selected - number)


def _retry_keyed(alias: str, wanted: Any) -> tuple[int, int, list[Any]]:
    """Retry rows with keys; return how many, how many are left, and which somebody else has locked."""
    found = list(wanted.order_by("unique_key", "task_id").values_list("backend", "unique_key", "task_id"))
    newest = {(backend, key): pk for backend, key, pk in found}
    model = wanted.model
    rows = model._base_manager.using(alias)  # noqa: SLF001
    twins = rows.filter(backend=OuterRef("backend"), unique_key=OuterRef("unique_key"), state__in=_UNFINISHED)
    free = rows.filter(~Q(Exists(twins)), state__in=_ENDED)
    ids, number, locked = [*newest.values()], 0, list[Any]()
    end = seconds() + locking.LOCK_SECONDS
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        try:
            with locking.waiting_briefly(alias, BRIEFLY):
                number += free.filter(pk__in=some).update(**_FRESH)
        except (locking.Locked, IntegrityError):
            for pk in some:
                try:
                    with locking.waiting_briefly(alias, max(end - seconds(), BRIEFLY)):
                        number += free.filter(pk=pk).update(**_FRESH)
                except locking.Locked:
                    locked.append(pk)
                except IntegrityError:
                    pass  # an equal one has just been enqueued
    return number, len(found) - number - len(locked), locked
