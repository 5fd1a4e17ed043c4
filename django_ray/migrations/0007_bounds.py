from django.db import migrations, models
from django.db.models.functions import Coalesce

from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile


class Migration(BriefMigration):
    dependencies = [("django_ray", "0006_released")]

    operations = [
        RunFile("0007_bounds"),
        migrations.AddIndex(
            model_name="rayworker",
            index=models.Index(
                Coalesce("stopped_at", "lost_at"),
                condition=models.Q(("stopped_at__isnull", False), ("lost_at__isnull", False), _connector="OR"),
                name="django_ray_worker_ended",
            ),
        ),
        migrations.AlterField(
            model_name="rayminute",
            name="id",
            field=models.BigAutoField(primary_key=True, serialize=False),
        ),
    ]
