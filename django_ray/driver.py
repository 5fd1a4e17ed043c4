"""Which driver Django reaches PostgreSQL with: psycopg 3, or psycopg2 where that is all there is.

Django takes psycopg 3 wherever it can be imported. With psycopg2 everything works but what LISTENs: waiting for
results, the stream of the live page, django_ray_status --watch, and supervisors.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from django.core.exceptions import ImproperlyConfigured

__all__ = ["need_psycopg", "obstacle"]


def need_psycopg(what: str) -> None:
    """Raise ImproperlyConfigured, with the remedy, unless psycopg 3 can be imported."""
    if (reason := obstacle()) is not None:
        raise ImproperlyConfigured(
            f"{what} needs psycopg 3, which cannot be imported ({reason}): pip install 'psycopg[binary]'. Django uses "
            "it in place of psycopg2 then, in the whole project: docs/migrating.md says what changes."
        )


@cache
def obstacle() -> str | None:
    """Return why psycopg 3 cannot be imported, None when it can."""
    try:
        import_module("psycopg")
    except ImportError as error:  # also where its libpq is missing
        return " ".join(str(error).split())
    return None
