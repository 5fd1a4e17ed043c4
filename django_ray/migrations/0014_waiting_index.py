from django.contrib.postgres.operations import AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models


class Migration(migrations.Migration):
    # The table may be large, and is written to meanwhile.
    atomic = False

    dependencies = [("django_ray", "0013_waiting")]

    operations = [
        ValidateConstraint(model_name="raytaskexecution", name="django_ray_state"),
        AddIndexConcurrently(
            model_name="raytaskexecution",
            index=models.Index(
                "backend",
                "queue_name",
                condition=models.Q(("state", "WAITING")),
                name="django_ray_waiting",
            ),
        ),
    ]
