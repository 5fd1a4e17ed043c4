"""What the search of the list of executions understands: words, and words that say where they are looked for.

`args:4711 error:timeout queue:mail` finds what has all of them. What is inside arguments, errors and metadata is in no
index, so it is looked for in the newest executions only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import F, Func, Q, QuerySet, TextField
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from django_ray import wordindex
from django_ray.metadata import METADATA

__all__ = ["KEYS", "NEWEST_READ", "Term", "found_by", "indexed", "outside_index", "terms"]

NEWEST_READ = 20_000  # Executions whose arguments, errors and metadata a search reads.
KEYS = ("id", "task", "queue", "args", "error", "meta")
_TERM = re.compile(rf"""(?:(?P<key>{"|".join(KEYS)}):)?(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))""", re.IGNORECASE)


class Term(NamedTuple):
    """A word, and where it is looked for; an empty key is everywhere."""

    key: str
    text: str


def terms(said: str) -> list[Term]:
    """Return what was typed, part by part: quotes hold words together."""
    found = (Term((one["key"] or "").lower(), one["quoted"] or one["plain"] or "") for one in _TERM.finditer(said))
    return [term for term in found if term.text]


def found_by(queryset: QuerySet[Any], said: list[Term], *, oldest_read: Any) -> QuerySet[Any]:
    """Return the rows that have all of it; what is inside of a row is read if it is newer than the oldest one."""
    is_read = Q() if oldest_read is None else Q(pk__gt=oldest_read)
    rows: QuerySet[Any] = queryset.alias(**_TEXTS).filter(*(_condition(term, is_read) for term in said))
    return rows


def indexed(queryset: QuerySet[Any], said: list[Term], *, oldest: Callable[[], Any]) -> list[UUID] | None:
    """Return what the index of words finds of it; None where there is no such index, or it finds nothing.

    And what has words without a name in its path, which is in no index: of those that are newer than oldest() says.
    """
    words = [(term.key, term.text) for term in said if term.key in {"", *wordindex.INDEXED}]
    if not words or not wordindex.exists(queryset.db) or not (ids := wordindex.found(queryset.db, words)):
        return None
    if all(not key for key, _ in words):
        newest = queryset if (first := oldest()) is None else queryset.filter(pk__gt=first)
        for _, text in words:
            newest = newest.filter(callable_path__icontains=text)
        ids += newest.order_by("-task_id").values_list("pk", flat=True)[: wordindex.MOST_FOUND]
    return ids


def outside_index(said: list[Term]) -> list[Term]:
    """Return what no index of words tells."""
    return [term for term in said if term.key and term.key not in wordindex.INDEXED]


# What is read, by the name under which it is compared.
_TEXTS: dict[str, Any] = {
    "args_text": Cast("args", TextField()),
    "kwargs_text": Cast("kwargs", TextField()),
    "message_text": KT("errors__-1__message"),
    "meta_text": Func(F("carrier"), template=f"(%(expressions)s -> '{METADATA}')::text", output_field=TextField()),
}


def _condition(term: Term, is_read: Q) -> Q:
    text = term.text
    arguments = is_read & (Q(args_text__icontains=text) | Q(kwargs_text__icontains=text))
    error = is_read & (Q(exception_type__icontains=text) | Q(message_text__icontains=text))
    match term.key:
        case "id":
            return Q(pk=_id(text)) if _id(text) else Q(pk__in=[])
        case "task":
            return Q(callable_path__icontains=text)
        case "queue":
            return Q(queue_name=text)
        case "args":
            return arguments
        case "error":
            return error
        case "meta":
            return is_read & Q(meta_text__icontains=text)
        case _:
            return Q(callable_path__icontains=text) | arguments | error


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
