"""manage.py django_ray_schedules; and what status and metrics know of schedules."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

import django_ray.views
from django_ray import timetable
from django_ray.models import RaySchedule, RayTaskExecution, State
from django_ray.status import status
from tests.supervisors import ROOT, database_url

pytestmark = pytest.mark.django_db

LONG_AGO = timedelta(minutes=3)


def make(name="nightly", **columns):
    values = {"callable_path": "tests.clockwork.tasks.wind", "cron": "0 3 * * *", **columns}
    return RaySchedule.objects.create(name=name, **values)


def write(name, what, *values):
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE django_ray_schedule SET {what} WHERE name = %s", [*values, name])


def run(*arguments, command="schedules"):
    output = io.StringIO()
    call_command(f"django_ray_{command}", *map(str, arguments), stdout=output)
    return output.getvalue().strip()


def plain(*arguments):
    return json.loads(run("--json", *arguments))["schedules"]


def test_the_list_says_when_each_is_due_and_what_became_of_the_last_tick():
    make(time_zone="Asia/Tokyo").run_now()
    RayTaskExecution.objects.update(state=State.FAILED, finished_at=timezone.now())
    make("often", cron=None, every=timedelta(minutes=5), time_zone="UTC")
    write("often", "next_at = now() - interval '3 min', skipped = 1234, lost = 5")
    make("odd", cron="* * * * * *")
    write("odd", "problem = 'six\nfields'")
    make("quiet").pause()
    make("old", is_declared=True, gone_at=timezone.now())
    lines = {line.split()[0]: line for line in run().splitlines()[1:]}
    for name, parts in {
        "nightly": (" 03:00 ", "in ", "Asia/Tokyo", "FAILED"),
        "often": ("every 5 min", "overdue for 3 min", "1,234"),
        "odd": ("six fields",),
        "quiet": ("paused",),
        "old": ("gone",),
    }.items():
        for part in parts:
            assert part in lines[name], (name, part)
    assert "overdue" not in lines["nightly"]


def test_without_schedules_it_says_how_to_make_one():
    assert "no task has a @schedule" in run()
    assert plain() == []


def test_names_narrow_what_is_listed_and_the_backend_does():
    make("a")
    make("b")
    make("a", backend="any")
    assert [row["name"] for row in plain()] == ["a", "a", "b"]
    assert [row["backend"] for row in plain("a")] == ["any", "default"]
    assert [row["name"] for row in plain("--backend", "default")] == ["a", "b"]


def test_json_has_everything_that_a_program_may_ask():
    row = make(args=[1], kwargs={"b": 2}, time_zone="Europe/Berlin", missed_within=timedelta(hours=2))
    result = row.run_now()
    (said,) = plain()
    assert said["task"] == "tests.clockwork.tasks.wind"
    assert (said["args"], said["kwargs"], said["missed_within"], said["every"]) == ([1], {"b": 2}, 7200.0, None)
    assert (said["last_id"], said["last_state"]) == (result.id, "READY")
    times = [datetime.fromisoformat(moment) for moment in said["next_times"]]
    assert said["next_at"] == said["next_times"][0]
    assert [moment.hour for moment in times] == [3] * 5
    assert times == sorted(set(times))
    row.pause()
    (said,) = plain()
    assert said["paused_at"] is not None
    assert (said["next_at"], said["next_times"]) == (None, [])


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
def test_whatever_a_row_says_it_is_listed(moment):
    make("a", cron="* * * * * *", time_zone="Mars/Base")
    make("b", cron=None, every=timedelta(0))
    make("c\n\x1b[31m")
    write("b", "lag = 'NaN'")
    for name in ("a", "b", "c\n\x1b[31m"):
        write(name, "next_at = %s", moment)
    assert "\x1b" not in run()
    assert [row["lag"] for row in plain()] == [None] * 3
    assert len(status().schedules) == 3
    assert run(command="status")
    json.loads(run("--json", command="status"), parse_constant=pytest.fail)


def test_verbs_do_what_they_say_and_say_what_they_did():
    row = make()
    make("b")
    assert run("--pause", "nightly", "b") == "b is paused.\nnightly is paused."
    assert run("nightly", "--pause") == "nightly was paused already."
    said = run("--run-now", "nightly")
    execution = RayTaskExecution.objects.get()
    assert said == f"nightly is enqueued as {execution.pk}."
    assert execution.schedule_id == row.pk
    assert run("--resume", "nightly") == "nightly is resumed."
    assert run("--resume", "nightly") == "nightly was not paused."
    row.refresh_from_db()
    assert row.is_active


def test_a_time_is_made_up_for_in_the_zone_of_the_schedule_and_once():
    make(time_zone="Europe/Berlin")
    fill = lambda *span: run("nightly", "--backfill", *span)  # noqa: E731
    assert fill("2026-03-28", "2026-03-30") == "nightly has 2 executions more."
    ticks = list(RayTaskExecution.objects.order_by("tick").values_list("tick", flat=True))
    assert ticks == [datetime(2026, 3, 28, 2, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)]
    assert fill("2026-03-28", "2026-03-30T03:00+02:00") == "nightly has 0 executions more."
    assert fill("2026-03-28", "2026-03-30T03:01") == "nightly has 1 execution more."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nightli"], "nightli: there is no such schedule: did you mean nightly?"),
        (["--pause", "xyz"], "xyz: there is no such schedule: there are nightly, odd."),
        (["--pause"], "Say which schedules"),
        (["--run-now"], "Say which schedules"),
        (["--backend", "defalt"], "TASKS has no such alias: did you mean default?"),
        (["nightly", "--backfill", "yesterday", "2026-01-01"], "'yesterday' is no moment"),
        (["nightly", "--backfill", "2026-01-02", "2026-01-01"], "TO must be later than FROM"),
        (["nightly", "--backfill", "1926-01-01", "2026-01-01"], "more than 10,000 times"),
        (["odd", "--backfill", "2026-01-01", "2026-01-02"], "six fields"),
        (["nightly", "--pause", "--resume"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_value_and_the_remedy(arguments, message):
    make()
    make("odd", cron="* * * * * *")
    with pytest.raises(CommandError, match=message.replace("?", r"\?")):
        run(*arguments)
    assert not RayTaskExecution.objects.exists()
    assert not RaySchedule.objects.filter(paused_at__isnull=False).exists()


@pytest.mark.django_db(transaction=True)
def test_one_wrong_name_leaves_the_others_alone():
    make()
    with pytest.raises(CommandError, match="no such schedule"):
        run("--pause", "nightly", "nightmare")
    assert RaySchedule.objects.get().is_active


@pytest.mark.django_db(transaction=True)
def test_a_reader_that_leaves_ends_it_without_a_word():
    RaySchedule.objects.bulk_create(
        RaySchedule(name=f"{number:04}-{'x' * 60}", callable_path="x.y", cron="@daily") for number in range(1500)
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url(connection)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "example")])
    command = [sys.executable, "-m", "django", "django_ray_schedules"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# What others show of them.


def test_what_fires_next_comes_first_and_what_cannot_fire_last():
    for hours in range(1, 13):
        make(f"in {hours:02}")
        write(f"in {hours:02}", f"next_at = now() + interval '{hours} h'")
    make("odd", cron="* * * * * *", next_at=None)
    make("late")
    write("late", "next_at = now() - interval '1 min'")
    make("paused").pause()
    found = status().schedules
    assert [one.row.name for one in found] == ["late", *(f"in {hours:02}" for hours in range(1, 10))]
    assert found[0].overdue >= 60
    assert found[1].overdue is None
    RaySchedule.objects.filter(name__startswith="in ").delete()
    assert [(one.row.name, one.at is None) for one in status().schedules] == [("late", False), ("odd", True)]


def test_before_a_supervisor_has_looked_the_rule_says_when():
    make(cron=None, every=timedelta(days=1), time_zone="UTC")
    (one,) = status().schedules
    assert one.row.next_at is None
    assert (one.at.hour, one.at.minute, one.at > timezone.now()) == (0, 0, True)


def test_what_is_shown_of_schedules_costs_the_same_beside_many():
    counts = []
    for number in (20, 3000):
        RaySchedule.objects.bulk_create(
            RaySchedule(name=f"{number} {each}", callable_path="x.y", cron="0 3 * * *") for each in range(number)
        )
        write(f"{number} 0", "next_at = now()")
        with CaptureQueriesContext(connection) as queries:
            assert len(status().schedules) == 10
        counts.append(len(queries))
        for query in queries:
            assert "django_ray_schedule" not in query["sql"] or visited(query["sql"]) <= 10, query["sql"]
    assert counts[0] == counts[1]


def visited(sql):
    """Return how many schedules the scans of a statement return or drop, planned as the page has it planned."""
    with django_ray.status.planned_by_index("default"), connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql)
        (plan,) = cursor.fetchone()
    plan = json.loads(plan) if isinstance(plan, str) else plan

    def rows(node):
        here = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        return (here if "Scan" in node["Node Type"] else 0) + sum(map(rows, node.get("Plans", ())))

    return rows(plan[0]["Plan"])


def test_the_status_shows_what_is_due_next():
    assert "Due next\n  Nothing." in run(command="status")
    make(time_zone="Asia/Tokyo")
    make("late")
    write("late", "next_at = now() - interval '3 min'")
    text = run(command="status")
    assert "Asia/Tokyo" in text
    assert "overdue for 3 min" in text
    said = json.loads(run("--json", command="status"))["schedules"]
    assert [(one["name"], one["overdue"] is None) for one in said] == [("late", False), ("nightly", True)]
    assert datetime.fromisoformat(said[1]["next_at"]).hour == 3


def scrape():
    """Return (gauge, schedule) -> value, as Prometheus reads it."""
    page = django_ray.views.metrics(RequestFactory().get("/metrics/tasks")).content.decode()
    return {
        (sample.name.removeprefix("django_ray_schedule_"), sample.labels["schedule"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("django_ray_schedule_")
    }


def test_metrics_tell_the_lag_what_was_skipped_and_whether_there_is_a_problem():
    assert scrape() == {}
    make()
    write("nightly", "lag = 0.25, skipped = 3, lost = 4, problem = 'Why?', next_at = now() - interval '3 min'")
    make('odd "name"\nof two lines').pause()
    write('odd "name"\nof two lines', "lag = 'NaN'")
    found = scrape()
    overdue = found.pop(("overdue_seconds", "nightly"))
    assert 180 <= overdue < 240
    assert {name: value for (name, schedule), value in found.items() if schedule == "nightly"} == {
        "lag_seconds": 0.25, "skipped": 3, "lost": 4, "problem": 1, "paused": 0,
    }  # fmt: skip
    assert {name: value for (name, schedule), value in found.items() if schedule != "nightly"} == {
        "overdue_seconds": 0, "skipped": 0, "lost": 0, "problem": 0, "paused": 1,
    }  # fmt: skip


def test_what_is_deleted_meanwhile_is_not_run():
    row = make()
    RaySchedule.objects.all().delete()
    with connection.cursor() as cursor:
        assert timetable._run_now(cursor, row.pk, row.backend) is None
    with pytest.raises(RaySchedule.DoesNotExist, match="is deleted"):
        row.run_now()
