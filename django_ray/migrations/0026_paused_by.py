from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    """Who has paused a queue, and why."""

    dependencies = [("django_ray", "0025_rescued")]

    operations = [
        migrations.AddField("rayqueue", "paused_by", models.TextField(null=True)),
        migrations.AddField("rayqueue", "paused_because", models.TextField(null=True)),
    ]
