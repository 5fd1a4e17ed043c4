"""The supervisors in the admin, with what runs in their name. Nothing can be done here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, override

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from django_ray.admin.lists import ReadOnly, link_to, rows_of, shows
from django_ray.databases import database_of_row
from django_ray.models import RayMinute, RayTaskExecution, RayWorker, State
from django_ray.rows import numbers_of, queues_of
from django_ray.templatetags.django_ray import ago, amounts, count_all, duration, seconds_since

__all__ = ["SupervisorAdmin"]

MOST_RUNNING = 50  # Executions that the page of one lists.
_HOUR = timedelta(hours=1)


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
    readonly_fields = (
        *("shown_pid", "shown_queues", "shown_replicas", "shown_resources", "shown_hour", "shown_running"),
        *("shown_end",),
    )
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

    @admin.display(description=_("last hour"))
    def shown_hour(self, row: RayWorker) -> str:
        """Return what has become of executions there within the last hour."""
        minutes = rows_of(RayMinute, database_of_row(row)).filter(worker=row, minute__gt=timezone.now() - _HOUR)
        found = minutes.aggregate(*(Sum(name, default=0) for name in ("succeeded", "failed", "retried", "cancelled")))
        return gettext("%(succeeded)s succeeded, %(failed)s failed, %(retried)s retried, %(cancelled)s cancelled") % {
            name.removesuffix("__sum"): count_all(number) for name, number in found.items()
        }

    @admin.display(description=_("runs now"))
    def shown_running(self, row: RayWorker) -> SafeString | str:
        """Return links to what runs in its name, the longest running ones first."""
        rows = rows_of(RayTaskExecution, database_of_row(row)).filter(state=State.RUNNING, claimed_by=row.pk)
        found = rows.order_by("last_attempted_at").only("callable_path", "last_attempted_at")[: MOST_RUNNING + 1]
        lines = [
            (
                link_to("admin:django_ray_raytaskexecution_change", one, self.admin_site.name),
                one.callable_path,
                duration(None if one.last_attempted_at is None else seconds_since(one.last_attempted_at)),
            )
            for one in found[:MOST_RUNNING]
        ]
        more = gettext("and more") if len(found) > MOST_RUNNING else ""
        if not lines:
            return "\N{EN DASH}"
        return format_html("{}{}", format_html_join("", '<a href="{}">{}</a> {}<br>', lines), more)

    @override
    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is known of it: with what runs there for who may see that, and how it was lost where it was."""
        return (
            *("shown_end", "hostname", "shown_pid", "backend", "shown_queues", "concurrency"),
            *(("wanted",) if obj is None or obj.wanted else ()),
            *(("shown_running",) if shows(self.admin_site, RayTaskExecution, request) else ()),
            *("shown_hour", "shown_replicas", "ray_address", "shown_resources", "version", "started_at"),
            *(("stopped_at",) if obj is not None and obj.stopped_at else ("pulse", "pulse_at")),
            *(("lost_at", "rescued") if obj is not None and obj.lost_at else ()),
        )

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
