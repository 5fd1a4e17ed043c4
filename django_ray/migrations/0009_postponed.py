from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    dependencies = [("django_ray", "0008_scheduled")]

    operations = [
        # A constant default: no row is rewritten, and a supervisor that does not know the column goes on to count.
        migrations.AddField("rayminute", "postponed", models.IntegerField(db_default=0)),
    ]
