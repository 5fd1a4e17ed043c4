"""The flows in the admin: the list, and the page of one, which shows its graph and how far it is, live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, override
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import display_for_value
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.tasks.exceptions import InvalidTaskBackend
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.functional import lazy
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import format_lazy
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from django_ray import census, dashboard
from django_ray.admin.filters import FLOW_FILTERS, NEWEST_FLOWS, bounded
from django_ray.admin.flow_page import page_of
from django_ray.admin.lists import ReadOnly, chosen_database, found, rows_of, shows
from django_ray.admin.noting import chosen, note
from django_ray.databases import database_of_row
from django_ray.flows import Flow, FlowProgress
from django_ray.locking import Locked
from django_ray.models import RayFlow, RayTaskExecution
from django_ray.moments import for_machines
from django_ray.templatetags.django_ray import ago, count_all
from django_ray.templatetags.django_ray_flows import flow_state, progress_bar

__all__ = ["FlowAdmin"]

_MOST_AT_ONCE = 100  # Flows that an action takes.
_CANCELLED = ngettext_lazy("%(shown)s execution cancelled.", "%(shown)s executions cancelled.", "number")
_NOT_CANCELLED = _("No execution cancelled: all have ended. What is enqueued into the flow from now on is cancelled.")
_RETRIED = ngettext_lazy(
    "%(shown)s execution will be tried again.", "%(shown)s executions will be tried again.", "number"
)
_NOT_RETRIED = _("No execution will be tried again: none has failed or was cancelled.")


@admin.register(RayFlow)
class FlowAdmin(ReadOnly):
    """Flows."""

    list_display = ("shown_name", "shown_state", "shown_progress", "shown_failed", "shown_age", "backend")
    list_display_links = ("shown_name",)
    list_filter = FLOW_FILTERS
    search_fields = ("id", "name")
    search_help_text = format_lazy(
        _("An id, or part of a name. Looks at the newest {number} flows, as filters do."),
        number=lazy(count_all, str)(NEWEST_FLOWS),
    )
    ordering = ("-id",)
    actions = ("retry", "cancel")

    class Media:
        css = {"all": ["django_ray/admin.css"]}  # noqa: RUF012 - Django's way

    # The list.

    @admin.display(description=_("flow"))
    def shown_name(self, row: RayFlow) -> SafeString:
        """Return the name, or the id of one without."""
        return format_html('<b class="dr-name">{}</b>', row)

    @admin.display(description=_("state"))
    def shown_state(self, row: Any) -> SafeString:
        """Return what becomes of it, in a word."""
        return flow_state(row.progress, row)

    @admin.display(description=_("executions"))
    def shown_progress(self, row: Any) -> SafeString:
        """Return how many have ended, of how many."""
        progress, most = row.progress, census.MOST_IN_LISTS
        ended = FlowProgress(successful=progress.successful, failed=progress.failed, cancelled=progress.cancelled)
        text = gettext("%(finished)s of %(total)s") % {"finished": _total(ended, most), "total": _total(progress, most)}
        return format_html("{}{}", progress_bar(progress), text)

    @admin.display(description=_("failed"))
    def shown_failed(self, row: Any) -> SafeString | str:
        """Return how many have failed."""
        number = row.progress.failed
        if not number:
            return "\N{EN DASH}"
        shown = _total(FlowProgress(failed=number), census.MOST_IN_LISTS)
        return format_html('<b class="dr-bad-text">{}</b>', shown)

    @admin.display(description=_("created"))
    def shown_age(self, row: RayFlow) -> SafeString:
        """Return how long ago it was begun."""
        return format_html(
            '<time class="dr-whole" datetime="{}" title="{}">{}</time>',
            for_machines(row.created_at),
            display_for_value(row.created_at, ""),
            ago(row.created_at),
        )

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {"title": _("Flows"), **(extra_context or {})})

    @override
    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the list, whose rows know how far they are: one statement for all of a page."""
        page: Any = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        flows = [row.pk for row in page.result_list]
        progress = census.progress_of(chosen_database(request), flows, census.MOST_IN_LISTS)
        for row in page.result_list:
            row.progress = progress[row.pk]
        return page

    @override
    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find an id, or names; and keep what no index serves to the newest flows."""
        term = search_term.strip()
        try:
            return queryset.filter(pk=UUID(term)), False
        except ValueError:
            pass
        if term:
            queryset = queryset.filter(name__icontains=term)
        return bounded(queryset, request, self.get_list_filter(request), NEWEST_FLOWS), False

    # The verbs.

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # It goes when its executions are pruned.

    @admin.action(description=_("Retry what has failed or was cancelled"), permissions=["change"])
    def retry(self, request: HttpRequest, queryset: Any) -> None:
        """Retry the selected ones."""
        self._do_each(request, queryset, Flow.retry, _RETRIED, _NOT_RETRIED)

    @admin.action(description=_("Cancel"), permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: Any) -> None:
        """Cancel the selected ones."""
        self._do_each(request, queryset, Flow.cancel, _CANCELLED, _NOT_CANCELLED)

    def _do_each(
        self, request: HttpRequest, queryset: Any, verb: Callable[[Flow], int], done: Any, otherwise: Any
    ) -> None:
        rows = list(queryset[: _MOST_AT_ONCE + 1])
        if len(rows) > _MOST_AT_ONCE:
            text = gettext("More than %(number)s are selected: choose fewer.")
            self.message_user(request, text % {"number": count_all(_MOST_AT_ONCE)}, messages.ERROR)
            return
        number, what = 0, chosen(request, queryset)
        try:
            for row in rows:
                number += verb(Flow.of_row(row))
        except (InvalidTaskBackend, Locked) as error:
            self.message_user(request, str(error), messages.ERROR)
            if not number:
                return
        text = done % {"number": number, "shown": count_all(number)} if number else otherwise
        self.message_user(request, text, messages.SUCCESS if number else messages.WARNING)
        if number:
            note(request, RayFlow, text, what)

    # The page of one.

    @override
    def get_urls(self) -> Any:
        view = self.admin_site.admin_view
        return [
            path("<uuid:flow_id>/do/", view(require_POST(self._do)), name="django_ray_rayflow_do"),
            path("<uuid:flow_id>/live/", view(self._live), name="django_ray_rayflow_live"),
            path("<uuid:flow_id>/stream/", view(self._stream), name="django_ray_rayflow_stream"),
            *super().get_urls(),
        ]

    def _do(self, request: HttpRequest, flow_id: UUID) -> HttpResponse:
        """Do what a button of the page says."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        verb = {"retry": self.retry, "cancel": self.cancel}.get(request.POST.get("verb", ""))
        row = found(RayFlow, flow_id, request)
        if verb is None or row is None:
            raise Http404
        verb(request, rows_of(RayFlow, database_of_row(row)).filter(pk=flow_id))
        page = "admin:django_ray_rayflow_change"
        return HttpResponseRedirect(reverse(page, args=[flow_id], current_app=self.admin_site.name))

    @override
    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        try:
            return found(RayFlow, UUID(object_id), request)
        except ValueError:
            return None

    @override
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method != "GET":
            raise PermissionDenied
        try:
            flow_id = UUID(object_id)
        except ValueError:
            raise Http404 from None
        shown = self._shown(request, flow_id)
        context = {
            **self.admin_site.each_context(request),
            "title": str(shown["flow"]),
            "opts": self.opts,
            "original": shown["flow"],
            "is_streaming": dashboard.can_stream(request),
            **shown,
        }
        return TemplateResponse(request, "admin/django_ray/rayflow/change_form.html", context)

    def _live(self, request: HttpRequest, flow_id: UUID) -> HttpResponse:
        return TemplateResponse(request, "admin/django_ray/rayflow/live.html", self._shown(request, flow_id))

    def _stream(self, request: HttpRequest, flow_id: UUID) -> HttpResponseBase:
        database = database_of_row(self._row(request, flow_id))
        if not dashboard.can_listen():
            raise Http404
        from django_ray.streaming import stream  # which needs psycopg 3

        def render() -> str:
            try:
                shown = self._shown(request, flow_id)
            except Http404:  # pruned meanwhile
                shown = {"flow": None}
            return render_to_string("admin/django_ray/rayflow/live.html", shown, request)

        return stream(render, [database])

    def _row(self, request: HttpRequest, flow_id: UUID) -> RayFlow:
        request.current_app = self.admin_site.name
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        row = found(RayFlow, flow_id, request)
        if row is None:
            raise Http404
        return row

    def _shown(self, request: HttpRequest, flow_id: UUID) -> dict[str, Any]:
        sees_executions = shows(self.admin_site, RayTaskExecution, request)
        return {
            **page_of(self._row(request, flow_id), self.admin_site.name, sees_executions=sees_executions),
            "sees_executions": sees_executions,
            "has_change_permission": self.has_change_permission(request),
        }


def _total(progress: FlowProgress, most: int) -> str:
    """Return how many executions these are, as far as they were counted."""
    return f"{count_all(progress.total - 1)}+" if census.is_cut(progress, most) else count_all(progress.total)
