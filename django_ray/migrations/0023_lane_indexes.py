from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import F, Q


class Migration(migrations.Migration):
    # The table may be large, and is written to meanwhile.
    atomic = False

    dependencies = [("django_ray", "0022_lanes")]

    operations = [
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                "queue_name",
                "gate",
                F("priority").desc(),
                "task_id",
                name="django_ray_lanes",
                condition=Q(gate__isnull=False, gate_rule__has_key="lane", state="WAITING"),
            ),
        ),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                "due_at",
                name="django_ray_lanes_due",
                condition=Q(due_at__isnull=False, gate_rule__has_key="lane", state="READY"),
            ),
        ),
    ]
