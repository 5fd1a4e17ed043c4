from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    """result.updates(): what is new for somebody who has seen some of it."""

    dependencies = [("django_ray", "0011_progress")]

    operations = [
        migrations.AddField("rayprogress", "number", models.IntegerField(db_default=1)),
        migrations.AddField("rayprogress", "output", models.TextField(db_default="")),
        migrations.AddField("rayprogress", "lines", models.IntegerField(db_default=0)),
    ]
