"""The tables of the executions, or the sentence that says what is missing: the application, or its migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, ProgrammingError
from django.db.models import Model

from django_ray.databases import NOT_INSTALLED, databases

if TYPE_CHECKING:
    from django_ray.models import RayTaskExecution

__all__ = ["Tables", "execution_model", "find", "missing_tables"]

_MISSING = {"42P01", "42883", "42703"}  # undefined_table, undefined_function, undefined_column


def execution_model() -> type[RayTaskExecution]:
    """Return RayTaskExecution; ImproperlyConfigured when the application is not installed."""
    try:
        from django_ray.models import RayTaskExecution
    except RuntimeError:  # the model belongs to no application
        raise ImproperlyConfigured(NOT_INSTALLED) from None
    return RayTaskExecution


def missing_tables(alias: str) -> str:
    """Return what to say when the tables of a database are missing, or older than the code."""
    command = "migrate" if alias == DEFAULT_DB_ALIAS else f"migrate django_ray --database {alias}"
    return f"The tables of django_ray are missing or old in the database {alias!r}: run manage.py {command}."


class Tables:
    """Brackets statements on the tables of the executions in a database, which it has as alias."""

    __slots__ = ("alias",)

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ProgrammingError) and getattr(error.__cause__, "sqlstate", None) in _MISSING:
            raise ImproperlyConfigured(missing_tables(self.alias)) from error


def find[Row: Model](model: type[Row], pk: UUID, first: str | None = None, sql: str | None = None) -> Row | None:
    """Return a row by its UUID, in whichever database it is; None for none. They are asked one after the other.

    SQL with the id as its parameter may say which columns it has.
    """
    for database in databases(first):
        rows = model._base_manager.using(database)  # noqa: SLF001
        with Tables(database):
            row = next(iter(rows.filter(pk=pk) if sql is None else rows.raw(sql, [pk])), None)
        if row is not None:
            return row
    return None
