from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    dependencies = [("django_ray", "0005_worlds")]

    operations = [
        # A constant default: no row is rewritten.
        migrations.AddField("raytaskexecution", "released", models.SmallIntegerField(db_default=0)),
    ]
