from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q

from django_ray.migrations._operations import AddUniqueConcurrently


class Migration(migrations.Migration):
    # The table may be large, and is written to meanwhile.
    atomic = False

    dependencies = [("django_ray", "0015_schedules")]

    operations = [
        AddUniqueConcurrently(
            model_name="raytaskexecution",
            constraint=models.UniqueConstraint(
                fields=["schedule", "tick"], name="django_ray_tick", condition=Q(schedule__isnull=False)
            ),
        ),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "schedule", name="django_ray_unfinished", condition=Q(finished_at=None, schedule__isnull=False)
            ),
        ),
    ]
