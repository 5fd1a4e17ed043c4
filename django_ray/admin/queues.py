"""The queues in the admin: the live page, which shows all that goes on, and pauses and resumes queues."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, override

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.views.decorators.http import require_POST, require_safe

from django_ray import dashboard
from django_ray.admin.lists import Admin, shows
from django_ray.admin.noting import Chosen, note
from django_ray.databases import database_of, databases, of_each
from django_ray.figures import SAMPLE, figures
from django_ray.locking import Locked
from django_ray.models import RayFlow, RayGate, RayQueue, RaySchedule, RayTaskExecution, RayWorker

__all__ = ["QueueAdmin"]


SPANS = {"1": _lazy("Last hour"), "24": _lazy("Last day"), "168": _lazy("Last week")}
COLUMNS = {
    "ended": _lazy("Ended"),
    "failed": _lazy("Failed"),
    "error_rate": _lazy("Error rate"),
    "retried": _lazy("Retries"),
    "run_p50": _lazy("Run, median"),
    "run_p95": _lazy("Run, 95 %"),
    "wait_p50": _lazy("Wait, median"),
    "wait_p95": _lazy("Wait, 95 %"),
}


@admin.register(RayQueue)
class QueueAdmin(Admin):
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
            path("explain/", view(self._explain), name="django_ray_explain"),
            path("tasks/", view(require_safe(self._tasks)), name="django_ray_tasks"),
        ]

    def _allow(self, request: HttpRequest) -> None:
        request.current_app = self.admin_site.name
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied

    def _page(self, request: HttpRequest) -> HttpResponse:
        self._allow(request)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Live"),
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
        if not dashboard.can_listen():
            raise Http404
        from django_ray.streaming import stream  # which needs psycopg 3

        def render() -> str:
            return render_to_string("admin/django_ray/rayqueue/live.html", self._context(request), request)

        return stream(render, databases())

    def _pause(self, request: HttpRequest) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        name, backend = request.POST.get("name", ""), request.POST.get("backend", "")
        if not name or not backend:
            raise Http404
        try:
            if request.POST.get("verb") == "pause":
                did = "Paused." if RayQueue.objects.pause(name, backend, by=request.user.get_username()) else ""
            else:
                did = "Resumed." if RayQueue.objects.resume(name, backend) else ""
        except Locked as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            if did:
                note(request, RayQueue, did, Chosen(1, f"{name} ({backend})"))
        return self._back()

    def _explain(self, request: HttpRequest) -> HttpResponse:
        """Have somebody say why a queue is paused, once it is: the pause itself must not wait for that."""
        self._allow(request)
        if not self.has_change_permission(request):
            raise PermissionDenied
        said = request.POST if request.method == "POST" else request.GET
        name, backend = said.get("name", ""), said.get("backend", "")
        if backend not in settings.TASKS:
            raise Http404
        queue = RayQueue.objects.using(database_of(backend)).filter(name=name, backend=backend).first()
        if queue is None or queue.paused_at is None:
            raise Http404
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request), "title": _("Why is it paused?"), "opts": self.opts,
                "queue": queue,
            }  # fmt: skip
            return TemplateResponse(request, "admin/django_ray/rayqueue/explain.html", context)
        because = request.POST.get("because", "")
        try:
            has_changed = RayQueue.objects.say_why(name, backend, because)
        except Locked as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            if has_changed:
                note(request, RayQueue, f"Paused, because: {because}", Chosen(1, f"{name} ({backend})"))
        return self._back()

    def _tasks(self, request: HttpRequest) -> HttpResponse:
        """Show figures of each task, sorted by one of them."""
        self._allow(request)
        if not shows(self.admin_site, RayTaskExecution, request):
            raise PermissionDenied
        hours = request.GET.get("hours") if request.GET.get("hours") in SPANS else "1"
        by = request.GET.get("by") if request.GET.get("by") in COLUMNS else "ended"
        found, unreachable = of_each(lambda database: figures(database, timedelta(hours=int(hours or 1))))
        rows = [(database, row) for database, one in found.items() for row in one.tasks]
        rows.sort(key=lambda row: getattr(row[1], by or "ended") or 0, reverse=True)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Tasks"),
            "opts": self.opts,
            "rows": rows,
            "samples": [one for one in found.values() if one.is_sample],
            "sample": SAMPLE,
            "unreachable": unreachable,
            "hours": hours,
            "by": by,
            "spans": SPANS.items(),
            "columns": COLUMNS.items(),
        }
        return TemplateResponse(request, "admin/django_ray/rayqueue/tasks.html", context)

    def _may_cancel(self, request: HttpRequest) -> bool:
        site = self.admin_site
        return site.is_registered(RayTaskExecution) and site.get_model_admin(RayTaskExecution).has_change_permission(
            request
        )

    def _back(self) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:django_ray_rayqueue_changelist", current_app=self.admin_site.name))

    def _context(self, request: HttpRequest) -> dict[str, Any]:
        return {
            **dashboard.context(),
            "can_pause": self.has_change_permission(request),
            "can_see_executions": shows(self.admin_site, RayTaskExecution, request),
            "can_cancel": self._may_cancel(request),
            "can_see_supervisors": shows(self.admin_site, RayWorker, request),
            "can_see_flows": shows(self.admin_site, RayFlow, request),
            "can_see_gates": shows(self.admin_site, RayGate, request),
            "can_see_schedules": shows(self.admin_site, RaySchedule, request),
        }
