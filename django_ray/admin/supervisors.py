"""The supervisors in the admin, with what runs in their name. Nothing can be done here."""

from __future__ import annotations

from typing import Any, override

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest

from django_ray.admin.lists import ReadOnly
from django_ray.models import RayTaskExecution, RayWorker, State
from django_ray.rows import queues_of
from django_ray.templatetags.django_ray import ago

__all__ = ["SupervisorAdmin"]


@admin.register(RayWorker)
class SupervisorAdmin(ReadOnly):
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
        return "any" if row.queues is None else ", ".join(queues_of(row.queues))

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
