from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile


class Migration(BriefMigration):
    """The state WAITING. What is there already is checked by the next migration, which holds up nobody."""

    dependencies = [("django_ray", "0012_updates")]

    operations = [
        RunFile("0013_waiting"),
        migrations.AlterField(
            model_name="raytaskexecution",
            name="state",
            field=models.CharField(
                choices=[
                    ("WAITING", "Blocked"),
                    ("READY", "Ready"),
                    ("RUNNING", "Running"),
                    ("SUCCESSFUL", "Successful"),
                    ("FAILED", "Failed"),
                    ("CANCELLED", "Cancelled"),
                ],
                db_default="READY",
                max_length=10,
            ),
        ),
        migrations.RemoveConstraint(model_name="raytaskexecution", name="django_ray_state"),
        AddConstraintNotValid(
            model_name="raytaskexecution",
            constraint=models.CheckConstraint(
                condition=models.Q(("state__in", ["WAITING", "READY", "RUNNING", "SUCCESSFUL", "FAILED", "CANCELLED"])),
                name="django_ray_state",
            ),
        ),
    ]
