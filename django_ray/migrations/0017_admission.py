from django.db import migrations, models
from django.db.models import Q

from django_ray.bounds import LONGEST
from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile


class Migration(BriefMigration):
    """What admits an execution. The indexes come with the next migration."""

    dependencies = [("django_ray", "0016_ticks")]

    operations = [
        migrations.CreateModel(
            name="RayGate",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("backend", models.CharField(db_collation="C", db_default="default", max_length=255)),
                ("name", models.CharField(db_collation="C", max_length=255)),
                ("limit", models.IntegerField(blank=True, null=True)),
                ("rate_count", models.IntegerField(blank=True, null=True)),
                ("rate_per", models.FloatField(blank=True, null=True)),
                ("rate_burst", models.IntegerField(db_default=1, default=1)),
                ("next_at", models.DateTimeField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "gate",
                "db_table": "django_ray_gate",
                "required_db_vendor": "postgresql",
                "indexes": [
                    models.Index("backend", "next_at", name="django_ray_gate_next", condition=Q(next_at__isnull=False))
                ],
                "constraints": [
                    models.UniqueConstraint(fields=["backend", "name"], name="django_ray_gate_once"),
                    models.CheckConstraint(name="django_ray_gate_numbers", condition=Q(limit__gte=0) | Q(limit=None)),
                    models.CheckConstraint(
                        name="django_ray_gate_rate",
                        condition=Q(rate_count=None, rate_per=None)
                        | Q(
                            rate_count__isnull=False,
                            rate_per__isnull=False,
                            rate_count__gte=1,
                            rate_per__gt=0,
                            rate_per__lte=LONGEST,
                            rate_burst__gte=1,
                        ),
                    ),
                ],
            },
        ),
        migrations.AddField("raytaskexecution", "unique_key", models.TextField(db_collation="C", null=True)),
        migrations.AddField("raytaskexecution", "gate", models.TextField(db_collation="C", null=True)),
        migrations.AddField("raytaskexecution", "gate_rule", models.JSONField(null=True)),
        migrations.AddField("raytaskexecution", "expires_at", models.DateTimeField(null=True)),
        migrations.AddField("rayschedule", "admission", models.JSONField(blank=True, editable=False, null=True)),
        RunFile("0017_admission"),
    ]
