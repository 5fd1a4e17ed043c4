"""Statements that look into full tables: by index alone, each with a bound, so that they cost the same however full."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from django.db import connections, transaction

__all__ = ["planned_by_index", "select"]


@contextmanager
def planned_by_index(alias: str) -> Generator[None]:
    """Have the statements of a block probe indexes in the order that they ask for, whatever the statistics say."""
    with transaction.atomic(using=alias):
        select(
            alias,
            "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),"
            " set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),"
            " set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true),"
            " set_config('jit', 'off', true)",
        )
        yield
        transaction.set_rollback(True, using=alias)  # the settings end here, in a caller's block too


def select(alias: str, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the rows of a statement."""
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
