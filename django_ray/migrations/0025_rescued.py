from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    """How many executions were taken back from a supervisor that was found dead, as the pages show it."""

    dependencies = [("django_ray", "0024_stock")]

    operations = [migrations.AddField("rayworker", "rescued", models.IntegerField(db_default=0))]
