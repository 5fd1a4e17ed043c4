from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    """What the cluster of a supervisor has, for who asks why something does not run."""

    dependencies = [("django_ray", "0018_admission_indexes")]

    operations = [migrations.AddField("rayworker", "resources", models.JSONField(null=True))]
