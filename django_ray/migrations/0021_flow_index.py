from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    # The table may be large, and is written to meanwhile.
    atomic = False

    dependencies = [("django_ray", "0020_flows")]

    operations = [
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index("flow", "state", "task_id", name="django_ray_members", condition=Q(flow__isnull=False)),
        ),
    ]
