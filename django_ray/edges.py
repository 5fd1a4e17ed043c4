"""The rows of flows: a flow, and the edges between its executions, or any others.

An edge says that an execution, the downstream, waits for another one, its upstream. It is met when the upstream has
ended as the downstream needs it. The database keeps edges as they have to be: see django_ray_settle() in 0020_flows.
"""

from __future__ import annotations

from typing import override

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS
from django.utils.translation import gettext_lazy as _

from django_ray.fields import Uuid7, moment_field

__all__ = ["RayEdge", "RayFlow"]


class RayFlow(models.Model):
    """Executions that belong together: those enqueued in a Flow, and what they enqueue."""

    id = models.UUIDField(primary_key=True, db_default=Uuid7(), editable=False)
    backend = models.CharField(max_length=255, db_collation="C", db_default=DEFAULT_TASK_BACKEND_ALIAS)
    name = models.CharField(max_length=255)
    created_at = moment_field(db_default=Now())
    cancelled_at = moment_field(null=True)  # From then on, what is enqueued into it is cancelled.

    class Meta:
        db_table = "django_ray_flow"
        required_db_vendor = "postgresql"
        verbose_name = _("flow")
        indexes = [models.Index("backend", "created_at", name="django_ray_flow_created")]

    @override
    def __str__(self) -> str:
        return self.name or str(self.pk)


class RayEdge(models.Model):
    """One execution waits for another."""

    pk = models.CompositePrimaryKey("upstream_id", "downstream_id")
    # No constraints: they would cost whoever deletes executions, and an upstream may be gone.
    upstream = models.ForeignKey(
        "django_ray.RayTaskExecution", models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    downstream = models.ForeignKey(
        "django_ray.RayTaskExecution", models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    place = models.IntegerField()  # Among the upstreams of its downstream, in the order of the enqueue; from 1.
    met = models.BooleanField()
    is_late = models.BooleanField(db_default=False)  # Somebody was in the way when it should have been looked at.

    class Meta:
        db_table = "django_ray_edge"
        required_db_vendor = "postgresql"
        default_permissions = ()
        indexes = [
            models.Index("downstream", "place", name="django_ray_edge_down"),
            models.Index("downstream", "upstream", name="django_ray_edge_unmet", condition=Q(met=False)),
            models.Index("downstream", "upstream", name="django_ray_edge_late", condition=Q(is_late=True)),
        ]

    @override
    def __str__(self) -> str:
        return " -> ".join(map(str, self.pk))
