"""What processes import of Django before they know their project, so that only its own code is left to import."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module

from django.core.exceptions import ImproperlyConfigured

__all__ = ["load"]

NAMES = (
    "django.contrib.admin",
    "django.contrib.admin.widgets",
    "django.core.management",
    "django.db.backends.postgresql.base",
    "django.db.migrations.executor",
    "django.db.models",
    "django.forms",
    "django.http",
    "django.template",
    "django.urls",
    "django_ray.backends",
)
_SETTINGS = "DJANGO_SETTINGS_MODULE"


def load() -> None:
    """Import it. What looks at the settings is left for later: they are the project's code."""
    settings = os.environ.pop(_SETTINGS, None)
    for name in NAMES:
        with suppress(ImportError, ImproperlyConfigured):
            import_module(name)
    if settings is not None:
        os.environ[_SETTINGS] = settings
