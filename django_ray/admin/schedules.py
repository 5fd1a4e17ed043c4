"""The schedules in the admin: the list, the verbs, and the page of one of them.

What the code declares is changed there; what staff has made, here. Both can be paused and run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, override
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST, require_safe

from django_ray.admin.filters import ScheduleFilter, bounded
from django_ray.admin.lists import Bounded, chosen_database, link_to, rows_of, shows
from django_ray.admin.noting import chosen, note
from django_ray.admin.schedule_form import ScheduleForm
from django_ray.admin.schedule_page import Preview, moment_of, preview, runs_of
from django_ray.agenda import lag_of, next_of, next_times, overdue_of, with_last, with_now
from django_ray.databases import database_of, database_of_row, databases
from django_ray.locking import Locked, waiting_briefly
from django_ray.models import RaySchedule, RayTaskExecution, State
from django_ray.moments import for_machines
from django_ray.templatetags.django_ray import ago, count_all, duration
from django_ray.templatetags.django_ray_times import rule, until, wall

__all__ = ["ScheduleAdmin"]

# What a form writes of a schedule that is there: what supervisors write stays theirs.
_WRITTEN = (
    "backend", "name", "callable_path", "args", "kwargs", "queue_name", "priority", "options", "seen", "cron", "every",
    "time_zone", "missed", "missed_within", "overlap",
)  # fmt: skip

_PAUSED = ngettext_lazy("%(shown)s schedule is paused.", "%(shown)s schedules are paused.", "number")
_NOT_PAUSED = _("No schedule was paused: it was already.")
_RESUMED = ngettext_lazy("%(shown)s schedule is resumed.", "%(shown)s schedules are resumed.", "number")
_NOT_RESUMED = _("No schedule was resumed: none was paused.")
_ENQUEUED = ngettext_lazy("%(shown)s execution enqueued.", "%(shown)s executions enqueued.", "number")
_NOT_ENQUEUED = _("No execution enqueued. Nothing was selected.")
_IS_THERE = _("No execution enqueued: an equal one is unfinished.")
_NOTHING_NEW = _("No execution enqueued: nothing was due then, or all of it is there already.")


@admin.register(RaySchedule)
class ScheduleAdmin(Bounded):
    """Schedules."""

    form = ScheduleForm
    change_form_template = "admin/django_ray/rayschedule/change_form.html"
    list_display = ("shown_name", "shown_rule", "shown_next", "shown_last", "shown_skipped", "shown_missed")
    list_display_links = ("shown_name",)
    list_filter = (ScheduleFilter,)
    search_fields = ("name", "callable_path")
    search_help_text = _("Part of a name, or of a task's path.")
    ordering = ("backend", "name")
    actions = ("pause", "resume", "run_now")
    fieldsets = (
        (None, {"fields": ("name", "task", "args", "kwargs")}),
        (_("When"), {"fields": ("cron", "every", "time_zone")}),
        (_("What is in the way"), {"fields": ("missed", "missed_within", "overlap")}),
    )

    class Media:
        css = {"all": ["django_ray/admin.css"]}  # noqa: RUF012 - Django's way

    @admin.display(description=_("schedule"))
    def shown_name(self, row: RaySchedule) -> SafeString:
        """Return the name, and the path of the function, which may be broken before its name."""
        module, _, name = row.callable_path.rpartition(".")
        backend = "" if row.backend == "default" else f" {row.backend}"
        return format_html(
            '<b>{}</b><br><span class="dr-quiet dr-below">{}.<wbr>{}{}</span>', row.name, module, name, backend
        )

    @admin.display(description=_("task"))
    def task(self, row: RaySchedule) -> str:
        """Return the path, for who may only look."""
        return row.callable_path

    @admin.display(description=_("rule"))
    def shown_rule(self, row: RaySchedule) -> SafeString:
        """Return when it is due, and on whose clock."""
        return format_html(
            '<code class="dr-whole">{}</code><br><span class="dr-quiet">{}</span>', rule(row), row.time_zone
        )

    @admin.display(description=_("next"))
    def shown_next(self, row: Any) -> SafeString | str:
        """Return when it is due next, by the clock of its time zone; or what keeps it from being fired."""
        if not row.is_active:
            word = gettext("Not declared any more") if row.paused_at is None else gettext("Paused")
            return format_html('<span class="dr-state dr-paused">{}</span>', word)
        at, overdue = next_of(row), overdue_of(row)
        problem = format_html('<div class="dr-problem dr-bad-text">{}</div>', row.problem) if row.problem else ""
        if at is None:
            return problem or "\N{EN DASH}"
        if overdue is None:
            said = format_html('<span class="dr-quiet">{}</span>', until(at))
        else:
            text = gettext("overdue for %(duration)s") % {"duration": duration(overdue)}
            said = format_html('<b class="dr-bad-text">{}</b>', text)
        time = '<time class="dr-whole" datetime="{}">{}</time><br>{}{}'
        return format_html(time, for_machines(at), wall(at), said, problem)

    @admin.display(description=_("last execution"))
    def shown_last(self, row: Any) -> SafeString | str:
        """Return the state of the execution of its last tick."""
        if row.last_id is None:
            return "\N{EN DASH}"
        state = format_html(
            '<span class="dr-state dr-{}">{}</span>', row.last_state.lower(), State(row.last_state).label
        )
        return format_html('{}<br><span class="dr-quiet">{}</span>', state, ago(row.last_tick))

    @admin.display(description=_("skipped"))
    def shown_skipped(self, row: RaySchedule) -> str:
        """Return how many ticks came while the run before was unfinished."""
        return count_all(row.skipped)

    @admin.display(description=_("missed"))
    def shown_missed(self, row: RaySchedule) -> str:
        """Return how many ticks nobody was there for, and nobody made up for."""
        return count_all(row.lost)

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_last(with_now(super().get_queryset(request)))  # type: ignore[no-any-return]

    @override
    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find names and tasks, among the newest schedules."""
        if term := search_term.strip():
            queryset = queryset.filter(Q(name__icontains=term) | Q(callable_path__icontains=term))
        return bounded(queryset, request, self.get_list_filter(request)), False

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {"title": _("Schedules"), **(extra_context or {})})

    # Who may do what. Without a row the question is about the verbs, with one about writing it.

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None:
            return super().has_change_permission(request)
        return super().has_change_permission(request, obj) and self.has_add_permission(request) and not _is_of_code(obj)

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not _is_of_code(obj))

    # The verbs.

    @admin.action(description=_("Pause"), permissions=["change"])
    def pause(self, request: HttpRequest, queryset: Any) -> None:
        """Pause the selected ones."""
        self._do_or_say_why(request, queryset, _every(queryset).pause, _PAUSED, lambda: _NOT_PAUSED)

    @admin.action(description=_("Resume"), permissions=["change"])
    def resume(self, request: HttpRequest, queryset: Any) -> None:
        """Resume the selected ones."""
        self._do_or_say_why(request, queryset, _every(queryset).resume, _RESUMED, lambda: _NOT_RESUMED)

    @admin.action(description=_("Run now"), permissions=["change"])
    def run_now(self, request: HttpRequest, queryset: Any) -> None:
        """Enqueue the selected ones."""
        results: list[Any] = []

        def run() -> int:
            results.extend(_every(queryset).run_now())
            return sum(not result.is_duplicate for result in results)

        self._do_or_say_why(request, queryset, run, _ENQUEUED, lambda: _IS_THERE if results else _NOT_ENQUEUED)

    def _backfill(self, request: HttpRequest, queryset: Any) -> None:
        """Enqueue what was due in a span that the request says."""
        row = _every(queryset).get()
        try:
            start, end = (moment_of(request.POST.get(name, ""), row) for name in ("start", "end"))
        except ValueError:
            self.message_user(request, gettext("Say from when, and to when."), messages.ERROR)
            return
        try:
            self._do_or_say_why(request, queryset, lambda: row.backfill(start, end), _ENQUEUED, lambda: _NOTHING_NEW)
        except ValueError as error:  # too much of it, or a rule that cannot be read
            self.message_user(request, str(error), messages.ERROR)

    def _do_or_say_why(
        self, request: HttpRequest, queryset: Any, verb: Callable[[], int], done: Any, otherwise: Callable[[], Any]
    ) -> None:
        what = chosen(request, queryset)
        try:
            number = verb()
        except Locked as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        text = done % {"number": number, "shown": count_all(number)} if number else otherwise()
        self.message_user(request, text, messages.SUCCESS if number else messages.WARNING)
        if number:
            note(request, RaySchedule, text, what)

    @override
    def get_urls(self) -> Any:
        view = self.admin_site.admin_view
        return [
            path("preview/", view(require_safe(self._preview)), name="django_ray_rayschedule_preview"),
            path("<int:pk>/do/", view(require_POST(self._do)), name="django_ray_rayschedule_do"),
            *super().get_urls(),
        ]

    def _do(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Do what a button of the page of one schedule says."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        verbs = {"pause": self.pause, "resume": self.resume, "run_now": self.run_now, "backfill": self._backfill}
        verb = verbs.get(request.POST.get("verb", ""))
        rows = rows_of(RaySchedule, chosen_database(request)).filter(pk=pk)
        row = rows.first()
        if verb is None or row is None:
            raise Http404
        verb(request, rows)
        return HttpResponseRedirect(link_to("admin:django_ray_rayschedule_change", row, self.admin_site.name))

    def _preview(self, request: HttpRequest) -> HttpResponse:
        """Say when a rule that somebody is typing would be due."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        said = (request.GET.get(name, "") for name in ("cron", "every", "time_zone"))
        return TemplateResponse(request, "admin/django_ray/rayschedule/preview.html", {"preview": preview(*said)})

    # The page.

    @override
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        using = database_of_row(obj) if change else database_of(obj.backend)
        with waiting_briefly(using):
            obj.save(using=using, update_fields=_WRITTEN if change else None)

    @override
    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        obj.delete(using=database_of_row(obj))

    @override
    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        request.current_app = self.admin_site.name
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except Locked as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    @override
    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        can_edit = self.has_add_permission(request) if obj is None else self.has_change_permission(request, obj)
        if can_edit:
            form = context["adminform"].form
            said = preview(*(str(form[name].value() or "") for name in ("cron", "every", "time_zone")))
        else:
            said = Preview(times=[] if obj is None else next_times(obj))
        can_see_executions = shows(self.admin_site, RayTaskExecution, request)
        context |= {
            "row": obj,
            "database": None if obj is None or len(databases()) == 1 else database_of_row(obj),
            "preview": said,
            "can_edit": can_edit,
            "can_do": obj is not None and self.has_change_permission(request),
            "is_of_code": obj is not None and _is_of_code(obj),
            "next": None if obj is None else next_of(obj),
            "lag": None if obj is None else lag_of(obj),
            "overdue": None if obj is None else overdue_of(obj),
            "runs": runs_of(obj) if obj is not None and can_see_executions else (),
            "zones": sorted(available_timezones()),
        }
        return super().render_change_form(request, context, add=add, change=change, form_url=form_url, obj=obj)


def _is_of_code(row: RaySchedule) -> bool:
    """Tell whether the code declares it: what is written here would not last."""
    return row.is_declared and row.gone_at is None


def _every(queryset: Any) -> Any:
    """Return a queryset of the same rows that can be updated."""
    return rows_of(RaySchedule, queryset.db).filter(pk__in=queryset.order_by().values("pk"))
