"""What every process that runs bodies imports of Django, whatever the project: in advance, where time is at hand."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

__all__ = ["load"]

NAMES = (
    "django.core.management",
    "django.db.backends.postgresql.base",
    "django.db.migrations.executor",
    "django.db.models",
    "django.forms",
    "django_ray.backends",
)


def load() -> None:
    """Import it. None of it looks at settings."""
    for name in NAMES:
        with suppress(ImportError):
            import_module(name)
