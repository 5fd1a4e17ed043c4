from django.db import migrations, models
from django.db.models.functions import Now

from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile
from django_ray.models import Uuid7


class Migration(BriefMigration):
    """What executions wait for each other. The index of a flow's executions comes with the next migration."""

    dependencies = [("django_ray", "0019_resources")]

    operations = [
        migrations.CreateModel(
            name="RayFlow",
            fields=[
                ("id", models.UUIDField(db_default=Uuid7(), editable=False, primary_key=True, serialize=False)),
                ("backend", models.CharField(db_collation="C", db_default="default", max_length=255)),
                ("name", models.CharField(max_length=255)),
                ("created_at", models.DateTimeField(db_default=Now())),
                ("cancelled_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "flow",
                "db_table": "django_ray_flow",
                "required_db_vendor": "postgresql",
                "indexes": [models.Index("backend", "created_at", name="django_ray_flow_created")],
            },
        ),
        migrations.AddField("raytaskexecution", "needs", models.CharField(max_length=7, null=True)),
        migrations.AddField("raytaskexecution", "is_upstream", models.BooleanField(db_default=False)),
        migrations.AddField(
            "raytaskexecution",
            "flow",
            models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=models.DO_NOTHING,
                related_name="executions",
                to="django_ray.rayflow",
            ),
        ),
        migrations.CreateModel(
            name="RayEdge",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "upstream_id", "downstream_id", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "upstream",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=models.DO_NOTHING,
                        related_name="+",
                        to="django_ray.raytaskexecution",
                    ),
                ),
                (
                    "downstream",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=models.DO_NOTHING,
                        related_name="+",
                        to="django_ray.raytaskexecution",
                    ),
                ),
                ("place", models.IntegerField()),
                ("met", models.BooleanField()),
                ("is_late", models.BooleanField(db_default=False)),
            ],
            options={
                "db_table": "django_ray_edge",
                "default_permissions": (),
                "required_db_vendor": "postgresql",
                "indexes": [
                    models.Index("downstream", "place", name="django_ray_edge_down"),
                    models.Index("downstream", "upstream", name="django_ray_edge_unmet", condition=models.Q(met=False)),
                    models.Index(
                        "downstream", "upstream", name="django_ray_edge_late", condition=models.Q(is_late=True)
                    ),
                ],
            },
        ),
        RunFile("0020_flows"),
    ]
