"""What the lists of the admin share: rows that only the system writes, and counts that stop at a number."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, override

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import models, router
from django.http import HttpRequest

__all__ = ["Admin", "Bounded", "ReadOnly", "rows_of", "shows"]

MOST_COUNTED = 10_000

if TYPE_CHECKING:
    _Pages = Paginator[Any]
    Admin = admin.ModelAdmin[Any]
else:  # Generic in their stubs alone.
    _Pages, Admin = Paginator, admin.ModelAdmin


class _Paginator(_Pages):
    """Counts up to MOST_COUNTED."""

    @cached_property
    def count(self) -> int:
        """Return how many there are, or MOST_COUNTED."""
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_COUNTED].count())


def rows_of(model: type[models.Model]) -> Any:
    """Return the rows of a model where they are written: on a replica, what was just done would be missing."""
    return model._default_manager.using(router.db_for_write(model))  # noqa: SLF001


def shows(site: admin.AdminSite, model: type[models.Model], request: HttpRequest) -> bool:
    """Tell whether a site has pages of that model for whoever asks."""
    return site.is_registered(model) and site.get_model_admin(model).has_view_or_change_permission(request)


class Bounded(Admin):
    """Rows that are read where they are written, a page at a time."""

    paginator = _Paginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by = ()

    @override
    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        return super().get_queryset(request).using(router.db_for_write(self.model))


class ReadOnly(Bounded):
    """Rows that only the system writes."""

    @override
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
