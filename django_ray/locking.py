"""Rows that somebody else has locked: a verb of ours does the others at once, and waits for those, but not without end.

A transaction that is open for long, on purpose or forgotten, locks what it has written. Who waits for such a row
meanwhile holds what it has written itself, and so holds up the supervisors. So the free rows come first, and in a
transaction of their own unless the caller has one.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connections, models, router, transaction

from django_ray.clock import seconds

__all__ = ["LOCK_SECONDS", "Locked", "still_locked", "update", "waiting_briefly"]

log = logging.getLogger("django_ray.locking")

LOCK_SECONDS = 10.0  # That a verb waits for rows which somebody else has locked.
NEWS_SECONDS = 1.0  # Until it says so.
_LOCK_NOT_AVAILABLE = "55P03"


class Locked(OperationalError):  # noqa: N818 - a state of the rows, not a mistake
    """Somebody else has kept a row locked for LOCK_SECONDS; the message says what was done all the same."""


@contextmanager
def waiting_briefly(alias: str, seconds: float = LOCK_SECONDS) -> Generator[None]:
    """Bracket a transaction or savepoint in which a locked row is waited for so many seconds at most; else Locked."""
    try:
        with transaction.atomic(using=alias):
            with connections[alias].cursor() as cursor:
                cursor.execute(
                    "SELECT before, set_config('lock_timeout', %s, true)"
                    " FROM (SELECT current_setting('lock_timeout') AS before OFFSET 0) AS settings",
                    [f"{seconds * 1000:.0f}"],
                )
                before = cursor.fetchone()[0]
            yield
            with connections[alias].cursor() as cursor:  # the caller's transaction may go on
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [before])
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise Locked(
            f"Another transaction has locked the row for longer than {seconds:g} s: nothing was changed. Try again "
            "when it has ended; pg_stat_activity shows which it is."
        ) from error


def update(chosen: Any, states: Sequence[str], done: models.Q | None, values: Mapping[str, Any]) -> int:
    """UPDATE those of the chosen executions that are in these states; return how many.

    done is what tells those that have been updated already from those that are still to be, if their state does not.
    """
    alias = chosen._db or router.db_for_write(chosen.model)  # noqa: SLF001
    rows = chosen.model._base_manager.using(alias)  # noqa: SLF001
    wanted = rows.filter(pk__in=chosen.order_by().values("pk"), state__in=states)
    with transaction.atomic(using=alias):
        number = _update_free(rows, wanted, values)
        # In the same transaction: nobody else has touched what was updated, so these are those that were locked.
        locked = list((wanted if done is None else wanted.exclude(done)).values_list("pk", flat=True))
    if not locked:
        return number
    end, has_said = seconds() + LOCK_SECONDS, False
    while locked and (left := end - seconds()) > 0:
        try:
            with waiting_briefly(alias, left if has_said else min(left, NEWS_SECONDS)):
                number += rows.filter(pk=locked[0], state__in=states).update(**values)
            locked.pop(0)
        except Locked:
            if not has_said:
                log.warning("%d executions are locked by another transaction: waiting for it.", len(locked))
            has_said = True
    if locked:
        with transaction.atomic(using=alias):
            left_over = rows.filter(pk__in=locked, state__in=states)
            number += _update_free(rows, left_over, values)
            locked = list((left_over if done is None else left_over.exclude(done)).values_list("pk", flat=True))
    if locked:
        raise still_locked(number, locked)
    return number


def still_locked(number: int, locked: Sequence[Any]) -> Locked:
    """Return the error that says which rows are left, and how many are done."""
    names = ", ".join(map(str, locked[:3])) + (", ..." if len(locked) > 3 else "")  # noqa: PLR2004
    return Locked(
        f"{number} executions are done; {len(locked)} are not, since another transaction has locked them for "
        f"longer than {LOCK_SECONDS:g} s: {names}. Try again when it has ended; pg_stat_activity shows which it is."
    )


def _update_free(rows: Any, wanted: Any, values: Mapping[str, Any]) -> int:
    free = wanted.order_by("pk").select_for_update(skip_locked=True, no_key=True)
    return int(rows.filter(pk__in=free.values("pk")).update(**values))
