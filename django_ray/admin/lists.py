"""What the lists of the admin share: rows that only the system writes, and counts that stop at a number."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, override
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.core.paginator import Paginator
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_ray.databases import database_of_row, databases
from django_ray.probing import planned_by_index
from django_ray.tables import find
from django_ray.templatetags.django_ray_databases import DATABASE, PRESERVED, of_page

__all__ = [
    "MOST_COUNTED",
    "Admin",
    "Bounded",
    "DatabaseFilter",
    "ReadOnly",
    "chosen_database",
    "found",
    "link_to",
    "rows_of",
    "shows",
]


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
        with planned_by_index(rows.db):
            return int(rows.order_by()[:MOST_COUNTED].count())


def chosen_database(request: HttpRequest) -> str:
    """Return the database that a request is about: that of its address, or of the list that led here; else the first.

    A list shows the rows of one database. Numbers of rows are of one, too.
    """
    known, given = databases(), request.GET.get(DATABASE)
    if given is None:
        given = parse_qs(request.GET.get(PRESERVED, "")).get(DATABASE, [None])[-1]
    return given if given in known else known[0]


def link_to(page: str, row: Any, site_name: str) -> str:
    """Return the address of the page of a row, with the database that it is in, where there are several."""
    address = reverse(page, args=[row.pk], current_app=site_name)
    return address + of_page(database_of_row(row))


def rows_of(model: type[models.Model], database: str) -> Any:
    """Return the rows of a model in a database where they are written: a replica would lack what was just done."""
    return model._default_manager.using(database)  # noqa: SLF001


def found[Row: models.Model](model: type[Row], pk: UUID, request: HttpRequest) -> Row | None:
    """Return the row with that id, wherever it is; it is looked for where the request says first."""
    return find(model, pk, first=chosen_database(request))


def shows(site: admin.AdminSite, model: type[models.Model], request: HttpRequest) -> bool:
    """Tell whether a site has pages of that model for whoever asks."""
    return site.is_registered(model) and site.get_model_admin(model).has_view_or_change_permission(request)


class DatabaseFilter(admin.SimpleListFilter):
    """Which database is looked at, where there are several."""

    title = _("database")
    parameter_name = DATABASE

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        self._chosen = chosen_database(request)
        known = databases()
        return [(name, name) for name in known] if len(known) > 1 else []

    @override
    def choices(self, changelist: Any) -> Any:
        for name, _label in self.lookup_choices:
            yield {
                "selected": name == self._chosen,
                # Other filters and the page are about the rows of another database.
                "query_string": f"?{urlencode({DATABASE: name})}",
                "display": name,
            }

    @override
    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        return queryset  # it is that of the database already


class Bounded(Admin):
    """Rows that are read where they are written, a page at a time, in one database."""

    paginator = _Paginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by = ()

    @override
    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        return super().get_queryset(request).using(chosen_database(request))

    @override
    def get_list_filter(self, request: HttpRequest) -> Any:
        return (DatabaseFilter, *super().get_list_filter(request))

    @override
    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Go to the list in which a new row is: Django's own link to it would not say the database."""
        database = database_of_row(obj)
        if database == databases()[0] or IS_POPUP_VAR in request.POST or len(databases()) == 1:
            return super().response_add(request, obj, post_url_continue)
        text = gettext("%(row)s was added, in the database %(database)s.") % {"row": obj, "database": database}
        self.message_user(request, text, messages.SUCCESS)
        listing = reverse(
            f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist", current_app=self.admin_site.name
        )
        return HttpResponseRedirect(f"{listing}?{urlencode({DATABASE: database})}")


class ReadOnly(Bounded):
    """Rows that only the system writes."""

    @override
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
