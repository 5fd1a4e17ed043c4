from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # The table may be large, and is written to meanwhile.
    atomic = False

    dependencies = [("django_ray", "0007_bounds")]

    operations = [
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                models.F("backend"),
                models.OrderBy(models.F("due_at"), nulls_first=True),
                condition=models.Q(("due_at__isnull", False), ("state", "READY")),
                name="django_ray_scheduled",
            ),
        ),
    ]
