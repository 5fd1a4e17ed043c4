"""The admin: executions, queues (a live page) and supervisors. Everything is shown; what can be done are the verbs.

Fast however many rows there are: counts stop at a number, lists follow the primary key, which is the order of
enqueueing, and filters that no index serves look at the newest executions alone.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, override
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from django_ray import dashboard
from django_ray.models import FINISHED, RayQueue, RayTaskExecution, RayWorker, State
from django_ray.templatetags.django_ray import ago, duration

__all__ = ["ExecutionAdmin", "QueueAdmin", "SupervisorAdmin"]

MOST_COUNTED = 10_000
NEWEST = 100_000  # Executions that filters without an index look at.
MOST_DELETED = 1000  # By the action, which shows them all first.
_RECENT = 2000  # Executions whose queues, tasks and errors are offered as filters.


if TYPE_CHECKING:
    _Pages = Paginator[Any]
    _Admin = admin.ModelAdmin[Any]
else:  # Generic in their stubs alone.
    _Pages, _Admin = Paginator, admin.ModelAdmin


class _Paginator(_Pages):
    """Counts up to MOST_COUNTED."""

    @cached_property
    def count(self) -> int:
        """Return how many there are, or MOST_COUNTED."""
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_COUNTED].count())


class _ReadOnly(_Admin):
    """Rows that only the system writes."""

    paginator = _Paginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by = ()

    @override
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class _StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return State.choices

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state=self.value()) if self.value() else queryset


class _RecentFilter(admin.SimpleListFilter):
    """The values of a column among the newest executions; whatever the address says is filtered by."""

    parameter_name: str  # pyright: ignore[reportIncompatibleVariableOverride]

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        newest = RayTaskExecution.objects.order_by("-task_id").values_list(self.parameter_name, flat=True)
        values = set(newest[:_RECENT]) - {None}
        if self.value():
            values.add(self.value())
        return [(value, value) for value in sorted(values)]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


class _QueueFilter(_RecentFilter):
    title = "queue"
    parameter_name = "queue_name"


class _TaskFilter(_RecentFilter):
    title = "task"
    parameter_name = "callable_path"


class _ErrorFilter(_RecentFilter):
    title = "error"
    parameter_name = "exception_type"


class _TimeFilter(admin.SimpleListFilter):
    title = "enqueued"
    parameter_name = "within"
    _HOURS = (("1", "In the last hour"), ("24", "In the last day"), ("168", "In the last week"))

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return self._HOURS

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in dict(self._HOURS):
            return queryset
        return queryset.filter(task_id__gte=_first_id(timezone.now() - timedelta(hours=int(self.value() or 1))))


def _first_id(moment: datetime) -> UUID:
    """Return the smallest id of that moment: ids begin with their milliseconds."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


@admin.register(RayTaskExecution)
class ExecutionAdmin(_ReadOnly):
    """Executions of tasks."""

    list_display = (
        "shown_state",
        "shown_task",
        "queue_name",
        "shown_age",
        "shown_duration",
        "shown_attempts",
        "worker",
    )
    list_display_links = ("shown_task",)
    list_filter = (_StateFilter, _QueueFilter, _TaskFilter, _ErrorFilter, _TimeFilter)
    search_fields = ("task_id", "callable_path")
    search_help_text = f"An id, or part of a task's path. Looks at the newest {NEWEST:,} executions, as filters do."
    ordering = ("-task_id",)
    actions = ("retry", "cancel", "enqueue_again", "delete_selected")

    class Media:
        css = {"all": ["django_ray/admin.css"]}  # noqa: RUF012 - Django's way

    @admin.display(description="state")
    def shown_state(self, row: RayTaskExecution) -> str:
        """Return the state, as a word in its colour."""
        return format_html('<span class="dr-state dr-{}">{}</span>', row.state.lower(), State(row.state).label)

    @admin.display(description="task")
    def shown_task(self, row: RayTaskExecution) -> str:
        """Return the path of the function, which may be broken before its name."""
        module, _, name = row.callable_path.rpartition(".")
        return format_html('<span class="dr-quiet">{}.</span><wbr><b>{}</b>', module, name)

    @admin.display(description="enqueued")
    def shown_age(self, row: RayTaskExecution) -> str:
        """Return how long ago it was enqueued."""
        return format_html(
            '<time datetime="{}" title="{}">{}</time>',
            row.enqueued_at.isoformat(),
            row.enqueued_at,
            ago(row.enqueued_at),
        )

    @admin.display(description="took")
    def shown_duration(self, row: RayTaskExecution) -> str:
        """Return how long the last attempt took, or has been running."""
        if row.last_attempted_at is None or row.state == State.READY:
            return "\N{EN DASH}"
        return duration(((row.finished_at or timezone.now()) - row.last_attempted_at).total_seconds())

    @admin.display(description="attempts")
    def shown_attempts(self, row: RayTaskExecution) -> int:
        """Return how many attempts began."""
        return len(row.worker_ids)

    @admin.display(description="supervisor")
    def worker(self, row: RayTaskExecution) -> str:
        """Return the supervisor of the last attempt."""
        return row.worker_ids[-1] if row.worker_ids else "\N{EN DASH}"

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {"title": "Task executions", **(extra_context or {})})

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("args", "kwargs", "options", "carrier", "result", "errors")

    @override
    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        try:
            return RayTaskExecution.objects.get(pk=UUID(object_id))
        except (ValueError, RayTaskExecution.DoesNotExist):
            return None

    @override
    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find an id, or tasks; and keep what no index serves to the newest executions."""
        term = search_term.strip()
        try:
            return queryset.filter(pk=UUID(term)), False
        except ValueError:
            pass
        if term:
            queryset = queryset.filter(callable_path__icontains=term)
        has_index = request.GET.get("state") in {State.READY, State.RUNNING, State.FAILED}
        names = (_QueueFilter.parameter_name, _TaskFilter.parameter_name, _ErrorFilter.parameter_name, "state")
        if not has_index and (term or any(request.GET.get(name) for name in names)):
            oldest = RayTaskExecution.objects.order_by("-task_id").values_list("pk")[NEWEST : NEWEST + 1]
            for (first,) in oldest:
                queryset = queryset.filter(pk__gt=first)
        return queryset, False

    @admin.action(description="Retry", permissions=["change"])
    def retry(self, request: HttpRequest, queryset: Any) -> None:
        """Retry the selected ones."""
        self._say(request, _every(queryset).retry(), "will be tried again", "Only what FAILED or was CANCELLED can be.")

    @admin.action(description="Cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: Any) -> None:
        """Cancel the selected ones."""
        self._say(request, _every(queryset).cancel(), "cancelled", "What has ended cannot be.")

    @admin.action(description="Enqueue again, as a new execution", permissions=["change"])
    def enqueue_again(self, request: HttpRequest, queryset: Any) -> None:
        """Enqueue copies of the selected ones."""
        self._say(request, _every(queryset).enqueue_again(), "enqueued", "Nothing was selected.")

    @admin.action(description="Delete", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Delete the selected ones, after a question."""
        if queryset.order_by()[: MOST_DELETED + 1].count() > MOST_DELETED:
            text = f"More than {MOST_DELETED:,} are selected: delete them with manage.py django_ray_prune."
            self.message_user(request, text, messages.ERROR)
            return None
        return delete_selected(self, request, _every(queryset))

    def _say(self, request: HttpRequest, number: int, done: str, otherwise: str) -> None:
        executions = "execution" if number == 1 else "executions"
        text = f"{number:,} {executions} {done}." if number else f"No execution {done}. {otherwise}"
        self.message_user(request, text, messages.SUCCESS if number else messages.WARNING)

    @override
    def get_urls(self) -> Any:
        do = self.admin_site.admin_view(require_POST(self._do))
        return [path("<uuid:task_id>/do/", do, name="django_ray_raytaskexecution_do"), *super().get_urls()]

    def _do(self, request: HttpRequest, task_id: UUID) -> HttpResponse:
        """Do what a button of the page of one execution says."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        verbs = {"retry": self.retry, "cancel": self.cancel, "enqueue_again": self.enqueue_again}
        verb = verbs.get(request.POST.get("verb", ""))
        if verb is None:
            raise Http404
        verb(request, RayTaskExecution.objects.filter(pk=task_id))
        return HttpResponseRedirect(reverse("admin:django_ray_raytaskexecution_change", args=[task_id]))

    @override
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        if request.method != "GET":
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": row.callable_path,
            "opts": self.opts,
            "original": row,
            "row": row,
            "events": _events(row),
            "payloads": [
                (name, json.dumps(value, indent=2, ensure_ascii=False))
                for name, value in (
                    ("Arguments", row.args),
                    ("Keyword arguments", row.kwargs),
                    ("Options", row.options),
                )
                if value
            ],
            "result": json.dumps(row.result, indent=2, ensure_ascii=False) if row.state == State.SUCCESSFUL else None,
            "took": (row.finished_at - row.last_attempted_at).total_seconds()
            if row.finished_at and row.last_attempted_at
            else None,
            "is_finished": row.state in FINISHED,
            "can_retry": row.state in {State.FAILED, State.CANCELLED},
            "has_change_permission": self.has_change_permission(request, row),
            "has_delete_permission": self.has_delete_permission(request, row),
        }
        return TemplateResponse(request, "admin/django_ray/raytaskexecution/change_form.html", context)


def _every(queryset: Any) -> Any:
    """Return a queryset of the same rows that can be updated: without columns left out, an order or DISTINCT."""
    return RayTaskExecution.objects.filter(pk__in=queryset.order_by().values("pk"))


def _events(row: RayTaskExecution) -> list[dict[str, Any]]:
    """Return what is known to have happened to an execution, in order."""
    events: list[dict[str, Any]] = [{"at": row.enqueued_at, "what": "Enqueued"}]
    if row.run_after and row.run_after > row.enqueued_at:
        events.append({"at": row.run_after, "what": "Due"})
    if row.started_at and row.started_at != row.last_attempted_at:
        events.append({"at": row.started_at, "what": "First attempt started", "worker": row.worker_ids[0]})
    for error in row.errors:
        at = datetime.fromisoformat(error["at"])
        if error["exception_class_path"] != "django_ray.exceptions.TaskCancelled":
            events.append(
                {"at": at, "what": f"Attempt {error['attempt']} failed", "error": error, "worker": error["worker_id"]}
            )
    if row.last_attempted_at and row.state != State.READY:
        what = f"Attempt {len(row.worker_ids)} started"
        events.append({"at": row.last_attempted_at, "what": what, "worker": row.worker_ids[-1]})
    if row.cancel_requested_at:
        events.append({"at": row.cancel_requested_at, "what": "Cancelling was asked for"})
    if row.finished_at:
        events.append({"at": row.finished_at, "what": State(row.state).label, "state": row.state.lower()})
    events.sort(key=lambda event: event["at"])
    if failures := [event for event in events if "error" in event]:
        failures[-1]["is_last"] = True
    return events


@admin.register(RayQueue)
class QueueAdmin(_Admin):
    """The live page."""

    @override
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def get_urls(self) -> Any:
        view = self.admin_site.admin_view
        return [
            path("", view(self._page), name="django_ray_rayqueue_changelist"),
            path("live/", view(self._live), name="django_ray_live"),
            path("stream/", view(self._stream), name="django_ray_stream"),
            path("pause/", view(require_POST(self._pause)), name="django_ray_pause"),
        ]

    def _allow(self, request: HttpRequest) -> None:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied

    def _page(self, request: HttpRequest) -> HttpResponse:
        self._allow(request)
        context = {
            **self.admin_site.each_context(request),
            "title": "Live",
            "opts": self.opts,
            "is_streaming": dashboard.can_stream(request),
            **self._context(request),
        }
        return TemplateResponse(request, "admin/django_ray/rayqueue/change_list.html", context)

    def _live(self, request: HttpRequest) -> HttpResponse:
        self._allow(request)
        return TemplateResponse(request, "admin/django_ray/rayqueue/live.html", self._context(request))

    def _stream(self, request: HttpRequest) -> HttpResponseBase:
        self._allow(request)

        def render() -> str:
            return render_to_string("admin/django_ray/rayqueue/live.html", self._context(request), request)

        return dashboard.stream(render)

    def _pause(self, request: HttpRequest) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        name, backend = request.POST.get("name", ""), request.POST.get("backend", "")
        if not name or not backend:
            raise Http404
        if request.POST.get("verb") == "pause":
            RayQueue.objects.pause(name, backend)
        else:
            RayQueue.objects.resume(name, backend)
        return HttpResponseRedirect(reverse("admin:django_ray_rayqueue_changelist"))

    def _context(self, request: HttpRequest) -> dict[str, Any]:
        user: Any = request.user
        return {
            **dashboard.context(),
            "can_pause": self.has_change_permission(request),
            "can_see_executions": user.has_perm("django_ray.view_raytaskexecution"),
            "can_see_supervisors": user.has_perm("django_ray.view_rayworker"),
        }


@admin.register(RayWorker)
class SupervisorAdmin(_ReadOnly):
    """Supervisors, the present and the past ones."""

    list_display = ("id", "hostname", "pid", "backend", "shown_queues", "concurrency", "running", "since", "shown_end")
    ordering = ("-id",)

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="queues")
    def shown_queues(self, row: RayWorker) -> str:
        """Return the names, or any."""
        return "any" if row.queues is None else ", ".join(row.queues)

    @admin.display(description="running")
    def running(self, row: Any) -> int:
        """Return how many executions run in its name."""
        return row.number_running or 0

    @admin.display(description="started")
    def since(self, row: RayWorker) -> str:
        """Return how long ago it started."""
        return ago(row.started_at)

    @admin.display(description="now")
    def shown_end(self, row: RayWorker) -> str:
        """Return what became of it."""
        if row.stopped_at:
            return f"stopped {ago(row.stopped_at)}"
        if row.lost_at:
            return f"found dead {ago(row.lost_at)}"
        return f"last seen {ago(row.pulse_at)}"

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # A join would read every execution.
        running = RayTaskExecution.objects.filter(state=State.RUNNING, claimed_by=OuterRef("pk")).order_by()
        number = Subquery(running.values("claimed_by").annotate(number=Count("*")).values("number"))
        return super().get_queryset(request).annotate(number_running=number)  # type: ignore[no-any-return]
