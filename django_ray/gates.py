"""What overrides the limits of a gate, live, and when its next start is due. Supervisors hear of each change.

A gate needs no row: what waits behind it says its limits. One is made for a gate with a rate when something starts.
"""

from __future__ import annotations

from typing import Any, override

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS
from django.utils.translation import gettext_lazy as _

from django_ray.bounds import LONGEST
from django_ray.databases import PlacedQuerySet, database_of
from django_ray.fields import moment_field

__all__ = ["MOST_GATE", "RayGate"]

MOST_GATE = 255  # Characters of a name.


class RayGate(models.Model):
    """A gate, or with a star behind its colon all of that name, and what holds there instead of what the code says."""

    id = models.BigAutoField(primary_key=True)
    backend = models.CharField(max_length=255, db_collation="C", db_default=DEFAULT_TASK_BACKEND_ALIAS)
    name = models.CharField(max_length=MOST_GATE, db_collation="C")
    # How many may run at a time; null is what the code says, 0 is none.
    limit = models.IntegerField(null=True, blank=True)
    # So many starts in so many seconds; null is what the code says.
    rate_count = models.IntegerField(null=True, blank=True)
    rate_per = models.FloatField(null=True, blank=True)
    rate_burst = models.IntegerField(db_default=1, default=1)  # How many of these may be made up for at once.
    next_at = moment_field(null=True, editable=False)  # When the next start is due, where there is a rate.

    objects = PlacedQuerySet["RayGate"].as_manager()

    class Meta:
        db_table = "django_ray_gate"
        required_db_vendor = "postgresql"
        verbose_name = _("gate")
        indexes = [models.Index("backend", "next_at", name="django_ray_gate_next", condition=Q(next_at__isnull=False))]
        constraints = [
            models.UniqueConstraint(fields=["backend", "name"], name="django_ray_gate_once"),
            models.CheckConstraint(
                name="django_ray_gate_numbers",
                condition=Q(limit__gte=0) | Q(limit=None),
            ),
            models.CheckConstraint(
                name="django_ray_gate_rate",
                condition=Q(rate_count=None, rate_per=None)
                | Q(
                    rate_count__isnull=False, rate_per__isnull=False, rate_count__gte=1, rate_per__gt=0,
                    rate_per__lte=LONGEST, rate_burst__gte=1,
                ),
            ),
        ]  # fmt: skip

    @override
    def __str__(self) -> str:
        return f"{self.name} ({self.backend})"

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save it, where the executions of its backend live."""
        if self._state.db is None and kwargs.get("using") is None:
            said = isinstance(self.backend, str)  # else the database says it
            kwargs["using"] = database_of(self.backend if said else DEFAULT_TASK_BACKEND_ALIAS)
        super().save(*args, **kwargs)

    @override
    def clean(self) -> None:
        if (self.rate_count is None) != (self.rate_per is None):
            raise ValidationError(_("A rate is so many starts in so many seconds: give both, or neither."))

    @property
    def overrides(self) -> bool:
        """Whether it says anything else than the code."""
        return self.limit is not None or self.rate_count is not None
