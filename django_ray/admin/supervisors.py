"""The supervisors in the admin, with what runs in their name. Nothing can be done here."""

from __future__ import annotations

from typing import Any, override

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from django_ray.admin.lists import ReadOnly
from django_ray.models import RayTaskExecution, RayWorker, State
from django_ray.rows import numbers_of, queues_of
from django_ray.templatetags.django_ray import ago, amounts

__all__ = ["SupervisorAdmin"]


@admin.register(RayWorker)
class SupervisorAdmin(ReadOnly):
    """Supervisors, the present and the past ones."""

    list_display = (
        "shown_id",
        "hostname",
        "shown_pid",
        "backend",
        "shown_queues",
        "concurrency",
        "running",
        "since",
        "shown_end",
    )
    fields = (
        *("hostname", "shown_pid", "backend", "shown_queues", "concurrency", "wanted"),
        *("shown_replicas", "ray_address", "shown_resources", "version"),
        *("started_at", "pulse", "pulse_at", "stopped_at", "lost_at"),
    )
    readonly_fields = ("shown_pid", "shown_queues", "shown_replicas", "shown_resources")
    ordering = ("-id",)

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description=_("id"))
    def shown_id(self, row: RayWorker) -> str:
        """Return the name that it has everywhere: a number that nobody groups."""
        return str(row.pk)

    @admin.display(description=_("process"))
    def shown_pid(self, row: RayWorker) -> str:
        """Return the number of its process, as its host writes it."""
        return str(row.pid)

    @admin.display(description=_("queues"))
    def shown_queues(self, row: RayWorker) -> str:
        """Return the names, or any."""
        return gettext("any") if row.queues is None else ", ".join(queues_of(row.queues))

    @admin.display(description=_("workers that stay"))
    def shown_replicas(self, row: RayWorker) -> str:
        """Return how many replicas of each worker it has."""
        return amounts(numbers_of(row.replicas)) or "\N{EN DASH}"

    @admin.display(description=_("resources"))
    def shown_resources(self, row: RayWorker) -> str:
        """Return what its cluster has in all."""
        return amounts(numbers_of(row.resources)) or "\N{EN DASH}"

    @admin.display(description=_("running"))
    def running(self, row: Any) -> int:
        """Return how many executions run in its name."""
        return row.number_running or 0

    @admin.display(description=_("started"))
    def since(self, row: RayWorker) -> str:
        """Return how long ago it started."""
        return ago(row.started_at)

    @admin.display(description=pgettext_lazy("what became of it", "now"))
    def shown_end(self, row: RayWorker) -> str:
        """Return what became of it."""
        if row.stopped_at:
            return gettext("stopped %(when)s") % {"when": ago(row.stopped_at)}
        if row.lost_at:
            return gettext("found dead %(when)s") % {"when": ago(row.lost_at)}
        return gettext("last seen %(when)s") % {"when": ago(row.pulse_at)}

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # A join would read every execution.
        running = RayTaskExecution.objects.filter(state=State.RUNNING, claimed_by=OuterRef("pk")).order_by()
        number = Subquery(running.values("claimed_by").annotate(number=Count("*")).values("number"))
        return super().get_queryset(request).annotate(number_running=number)  # type: ignore[no-any-return]
