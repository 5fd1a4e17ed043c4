"""Who did what: each verb of the admin is an entry of Django's own history, with what it was done to."""

from __future__ import annotations

from typing import Any, NamedTuple, cast
from urllib.parse import unquote_plus

from django.db import models
from django.http import HttpRequest

from django_ray import entries
from django_ray.admin.lists import MOST_COUNTED
from django_ray.templatetags.django_ray import count_all

__all__ = ["Chosen", "chosen", "chosen_one", "note"]


class Chosen(NamedTuple):
    """What a verb is done to."""

    number: int  # Up to MOST_COUNTED + 1.
    said: str
    pk: Any = None  # Of the row, if it is one.


def chosen(request: HttpRequest, queryset: Any) -> Chosen:
    """Return what a verb is about to be done to: afterwards its rows may match their filters no more."""
    number = queryset.order_by()[: MOST_COUNTED + 1].count()
    if number == 1 and (row := queryset.order_by().first()) is not None:
        return chosen_one(row)
    if request.POST.get("select_across") != "1":
        return Chosen(number, f"{count_all(number)} selected")
    filters = unquote_plus(request.GET.urlencode())
    return Chosen(number, f"all that match {filters}" if filters else "all of the list")


def chosen_one(row: models.Model) -> Chosen:
    """Return one row."""
    return Chosen(1, str(row), row.pk)


def note(request: HttpRequest, model: type[models.Model], did: Any, what: Chosen) -> None:
    """Write an entry, in the words that are shown to who did it."""
    entries.write(cast("Any", request.user).pk, model, str(did), what.said, what.pk)
