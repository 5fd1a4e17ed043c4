"""An entry of Django's own history: who did what, and to what. There is none where the admin is not installed."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import models

from django_ray.serialization import clean_text

__all__ = ["write"]

MOST_SAID = 1000  # Characters of what was done, and of what was selected.


def write(user_id: Any, model: type[models.Model], did: str, what: str, pk: Any = None) -> None:
    """Write one: pk is that of the one row that it was done to, None of several, which what describes."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    LogEntry.objects.create(
        user_id=user_id,
        content_type_id=ContentType.objects.get_for_model(model, for_concrete_model=False).pk,
        object_id=None if pk is None else str(pk),
        object_repr=clean_text(what, MOST_SAID)[:200],
        action_flag=CHANGE,
        change_message=clean_text(did if pk is not None else f"{did} ({what})", MOST_SAID),
    )
