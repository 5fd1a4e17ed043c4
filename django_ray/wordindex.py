"""An index of the words in arguments, errors and metadata, for who wants to search all executions.

It costs each enqueue and each end, so it is made only where somebody asks: manage.py django_ray_search_index. It is no
part of the models: the migrations of a project know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import connections, transaction

from django_ray.metadata import METADATA
from django_ray.probing import select

__all__ = ["CREATE", "DROP", "INDEX", "INDEXED", "exists", "found"]

INDEX = "django_ray_words"
MOST_MATCHED = 10_000  # Executions that a search looks at,
MOST_FOUND = 1000  # and of which it returns the newest.

# Bytes of JSON: an index holds a megabyte of words for each, and what is larger would be refused.
MOST_INDEXED = 250_000


def _words(value: str) -> str:
    """Return the words of a column of JSON, in SQL; none where it is large."""
    return (
        f"CASE WHEN octet_length(({value})::text) <= {MOST_INDEXED}"
        f""" THEN jsonb_to_tsvector('simple', {value}, '["string", "numeric"]'::jsonb) ELSE ''::tsvector END"""
    )


# By what a search calls them. No language: each word as it stands there.
INDEXED: Mapping[str, str] = {
    "args": f"({_words('args')} || {_words('kwargs')})",
    "error": (
        "to_tsvector('simple', coalesce(errors #>> '{-1,exception_class_path}', '') || ' '"
        " || coalesce(errors #>> '{-1,message}', ''))"
    ),
    "meta": _words(f"carrier -> '{METADATA}'"),
}
CREATE = (
    f"CREATE INDEX CONCURRENTLY {INDEX} ON django_ray_execution"
    f" USING gin ({', '.join(f'({text})' for text in INDEXED.values())})"
)
DROP = f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}"

_STATE = "SELECT indisvalid AS is_valid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)"


def exists(database: str) -> bool | None:
    """Tell whether the index is there; None when its making was broken off, so that nothing uses it."""
    rows = select(database, _STATE, name=INDEX)
    if not rows:
        return False
    return True if rows[0]["is_valid"] else None


def found(database: str, said: Sequence[tuple[str, str]]) -> list[UUID]:
    """Return the newest executions that have all of it: words, each with the key of where, or an empty one."""
    conditions, parameters = list[str](), list[Any]()
    for key, text in said:
        places = [INDEXED[key]] if key else [INDEXED["args"], INDEXED["error"]]
        conditions.append(f"({' OR '.join(f'({place}) @@ phraseto_tsquery(%s, %s)' for place in places)})")
        parameters += ["simple", text] * len(places)
    statement = (
        f"SELECT task_id FROM (SELECT task_id FROM django_ray_execution WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants
        f" LIMIT {MOST_MATCHED}) AS matched ORDER BY task_id DESC LIMIT {MOST_FOUND}"
    )
    with transaction.atomic(using=database), connections[database].cursor() as cursor:
        # With a limit, the planner may think that reading the table is as good.
        cursor.execute("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true)")
        cursor.execute(statement, parameters)
        ids = [task_id for (task_id,) in cursor.fetchall()]
        transaction.set_rollback(True, using=database)  # the settings end here, in a caller's block too
    return ids
