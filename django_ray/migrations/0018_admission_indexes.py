from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import F, Q

from django_ray.migrations._operations import AddUniqueConcurrently


class Migration(migrations.Migration):
    # The table may be large, and is written to meanwhile.
    atomic = False

    dependencies = [("django_ray", "0017_admission")]

    operations = [
        AddUniqueConcurrently(
            model_name="raytaskexecution",
            constraint=models.UniqueConstraint(
                fields=["backend", "unique_key"],
                name="django_ray_unique",
                condition=Q(state__in=("READY", "RUNNING", "WAITING"), unique_key__isnull=False),
            ),
        ),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                F("priority").desc(),
                "queue_name",
                "gate",
                "task_id",
                name="django_ray_gated",
                condition=Q(gate__isnull=False, state="WAITING"),
            ),
        ),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                "gate",
                "state",
                name="django_ray_behind",
                condition=Q(gate__isnull=False, state__in=("WAITING", "RUNNING")),
            ),
        ),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                "gate",
                "task_id",
                name="django_ray_impatient",
                condition=Q(gate_rule__has_key="full", state="WAITING"),
            ),
        ),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                "expires_at",
                name="django_ray_expiring",
                condition=Q(expires_at__isnull=False, started_at=None, state__in=("READY", "WAITING")),
            ),
        ),
    ]
