from django.db import migrations, models
from django.db.models.functions import Now

from django_ray.migrations._brief import BriefMigration


class Migration(BriefMigration):
    dependencies = [("django_ray", "0010_claims")]

    operations = [
        migrations.CreateModel(
            name="RayProgress",
            fields=[
                (
                    "execution",
                    models.OneToOneField(
                        db_column="task_id",
                        db_constraint=False,
                        on_delete=models.DO_NOTHING,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="django_ray.raytaskexecution",
                    ),
                ),
                ("attempt", models.IntegerField()),
                ("fraction", models.FloatField(null=True)),
                ("message", models.TextField(db_default="")),
                ("at", models.DateTimeField(db_default=Now())),
            ],
            options={
                "db_table": "django_ray_progress",
                "default_permissions": (),
                "required_db_vendor": "postgresql",
            },
        ),
    ]
