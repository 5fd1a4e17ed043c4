from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    """The replicas of a supervisor, and the slots that it has asked for, as the pages show them."""

    dependencies = [("django_ray", "0023_lane_indexes")]

    operations = [
        migrations.AddField("rayworker", "replicas", models.JSONField(null=True)),
        migrations.AddField("rayworker", "wanted", models.IntegerField(db_default=0)),
    ]
