"""The tables of the executions, or the sentence that says what is missing: the application, or its migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError, router

if TYPE_CHECKING:
    from django_ray.models import RayTaskExecution

__all__ = ["Tables", "execution_model", "missing_tables"]

_MISSING = {"42P01", "42883", "42703"}  # undefined_table, undefined_function, undefined_column


def execution_model() -> type[RayTaskExecution]:
    """Return RayTaskExecution; ImproperlyConfigured when the application is not installed."""
    try:
        from django_ray.models import RayTaskExecution
    except RuntimeError:  # the model belongs to no application
        raise ImproperlyConfigured(
            'TASKS uses django_ray, which is not in INSTALLED_APPS: add "django_ray" and run manage.py migrate.'
        ) from None
    return RayTaskExecution


def missing_tables(alias: str) -> str:
    """Return what to say when the tables of a database are missing, or older than the code."""
    return f"The tables of django_ray are missing or old in the database {alias!r}: run manage.py migrate."


class Tables:
    """Brackets statements on the tables of the executions; as alias it has the database that they are written to."""

    __slots__ = ("alias",)

    def __init__(self) -> None:
        self.alias = router.db_for_write(execution_model())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ProgrammingError) and getattr(error.__cause__, "sqlstate", None) in _MISSING:
            raise ImproperlyConfigured(missing_tables(self.alias)) from error
