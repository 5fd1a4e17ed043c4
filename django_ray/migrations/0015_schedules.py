import django.db.models.deletion
from django.db import migrations, models
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.db.models.lookups import Exact

from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile
from django_ray.timetable import default_zone


def _is_json(field: str, kind: str) -> Exact:
    return Exact(models.Func(F(field), function="jsonb_typeof", output_field=models.TextField()), kind)


class Migration(BriefMigration):
    """Schedules, and what an execution of one says. The indexes of executions come with the next migration."""

    dependencies = [("django_ray", "0014_waiting_index")]

    operations = [
        migrations.CreateModel(
            name="RaySchedule",
            fields=[
                ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "backend",
                    models.CharField(db_collation="C", db_default="default", default="default", max_length=255),
                ),
                ("name", models.CharField(db_collation="C", max_length=255)),
                ("callable_path", models.TextField()),
                ("args", models.JSONField(blank=True, db_default=Value([], models.JSONField()), default=list)),
                ("kwargs", models.JSONField(blank=True, db_default=Value({}, models.JSONField()), default=dict)),
                (
                    "queue_name",
                    models.CharField(db_collation="C", db_default="default", default="default", max_length=255),
                ),
                ("priority", models.SmallIntegerField(db_default=0, default=0)),
                ("options", models.JSONField(blank=True, null=True)),
                ("cron", models.TextField(blank=True, null=True)),
                ("every", models.DurationField(blank=True, null=True)),
                ("time_zone", models.TextField(db_default="UTC", default=default_zone)),
                (
                    "missed",
                    models.TextField(
                        choices=[("one", "The last one, once"), ("skip", "None"), ("all", "All")],
                        db_default="one",
                        default="one",
                    ),
                ),
                ("missed_within", models.DurationField(blank=True, null=True)),
                (
                    "overlap",
                    models.TextField(
                        choices=[("skip", "Skip the tick"), ("allow", "Run both")], db_default="skip", default="skip"
                    ),
                ),
                ("is_declared", models.BooleanField(db_default=False, default=False)),
                ("gone_at", models.DateTimeField(blank=True, null=True)),
                ("seen", models.JSONField(db_default=Value([], models.JSONField()), default=list, editable=False)),
                ("paused_at", models.DateTimeField(blank=True, null=True)),
                ("since", models.DateTimeField(db_default=Now(), editable=False)),
                ("last_at", models.DateTimeField(editable=False, null=True)),
                ("next_at", models.DateTimeField(editable=False, null=True)),
                ("lag", models.FloatField(editable=False, null=True)),
                ("skipped", models.IntegerField(db_default=0, editable=False)),
                ("lost", models.IntegerField(db_default=0, editable=False)),
                ("problem", models.TextField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "schedule",
                "db_table": "django_ray_schedule",
                "required_db_vendor": "postgresql",
                "indexes": [
                    models.Index(
                        "backend", "next_at", name="django_ray_next", condition=Q(gone_at=None, paused_at=None)
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint("backend", "name", name="django_ray_schedule_once"),
                    models.CheckConstraint(
                        name="django_ray_schedule_when",
                        condition=Q(cron=None, every__isnull=False) | Q(cron__isnull=False, every=None),
                    ),
                    models.CheckConstraint(
                        name="django_ray_schedule_words",
                        condition=Q(missed__in=["one", "skip", "all"], overlap__in=["skip", "allow"]),
                    ),
                    models.CheckConstraint(
                        name="django_ray_schedule_priority", condition=Q(priority__range=(-100, 100))
                    ),
                    models.CheckConstraint(
                        name="django_ray_schedule_json_shapes",
                        condition=Q(_is_json("args", "array"))
                        & Q(_is_json("kwargs", "object"))
                        & Q(_is_json("seen", "array")),
                    ),
                ],
            },
        ),
        migrations.AddField(
            "raytaskexecution",
            "schedule",
            models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="executions",
                to="django_ray.rayschedule",
            ),
        ),
        migrations.AddField("raytaskexecution", "tick", models.DateTimeField(null=True)),
        RunFile("0015_schedules"),
    ]
