"""dumpdata and loaddata: what goes out comes back as it was, and harms no supervisor that lives where it is loaded."""

from datetime import datetime, timedelta

import pytest
from django.core import serializers
from django.core.management import call_command
from django.db import connection
from django.db.models import JSONField, Value
from django.db.models.functions import Now

from django_ray.models import RayQueue, RayTaskExecution, RayWorker
from django_ray.testing import run_tasks
from tests import tasks
from tests.supervisors import until

TABLES = ("execution", "queue", "worker", "minute")


def contents():
    """Return every row of ours, as PostgreSQL writes it."""
    with connection.cursor() as cursor:
        rows = []
        for table in TABLES:
            cursor.execute(f"SELECT '{table}', one::text FROM django_ray_{table} AS one ORDER BY 2")
            rows += cursor.fetchall()
        return rows


def empty():
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"DELETE FROM django_ray_{table}")


@pytest.fixture
def history(db):
    """Rows in each state but RUNNING."""
    tasks.add.enqueue(1, 2)
    tasks.fail.using(max_attempts=1).enqueue("größer\n\x1b[1m")
    tasks.fail.enqueue("once")
    RayTaskExecution.objects.create(callable_path="tests.tasks.nowhere", args=[None, {"a": [1.5, "\u2028"]}])
    run_tasks()
    RayTaskExecution.objects.create(
        callable_path="x.y", state="SUCCESSFUL", finished_at=Now(), result=Value(None, JSONField())
    )
    tasks.add.using(run_after=timedelta(hours=1), priority=7, timeout=5).enqueue(1, b=2)
    tasks.add.enqueue(3, 4).cancel()
    RayQueue.objects.pause("other")


@pytest.mark.parametrize("form", ["json", "jsonl", "xml", "yaml"])
def test_what_is_dumped_is_loaded_as_it_was(history, tmp_path, form):
    if form == "xml":  # has no control characters
        RayTaskExecution.objects.filter(output__contains="\x1b").delete()
        RayTaskExecution.objects.filter(args__0__contains="\x1b").delete()
    before = contents()
    assert len(before) > 5
    path = str(tmp_path / f"tasks.{form}")
    call_command("dumpdata", "django_ray", output=path, format=form)
    empty()
    call_command("loaddata", path, verbosity=0)
    with connection.cursor() as cursor:  # Django loads None as NULL, and reads both as None
        cursor.execute("UPDATE django_ray_execution SET result = 'null' WHERE result IS NULL AND state = 'SUCCESSFUL'")
    assert contents() == before


@pytest.mark.django_db
def test_a_moment_of_the_python_serializer_has_its_microseconds_too():
    result = tasks.add.enqueue(1, 2)
    (written,) = serializers.serialize("python", RayTaskExecution.objects.all())
    assert datetime.fromisoformat(written["fields"]["enqueued_at"]) == result.enqueued_at
    assert written["fields"]["finished_at"] is None


@pytest.mark.django_db(transaction=True)
def test_a_fixture_does_not_write_over_a_living_supervisor(tmp_path, connect):
    stored = {
        "hostname": "elsewhere", "pid": 1, "backend": "default", "queues": ["default"], "concurrency": 1,
        "ray_address": "", "version": "",
    }  # fmt: skip
    worker = RayWorker.objects.create(**stored)
    path = str(tmp_path / "tasks.json")
    call_command("dumpdata", "django_ray", output=path)
    RayWorker.objects.update(hostname="here")
    session = connect()
    session.execute("SELECT django_ray_identify(%s)", [worker.pk])
    with pytest.raises(ValueError, match=f"RayWorker.*supervisor {worker.pk} lives here"):
        call_command("loaddata", path, verbosity=0)
    assert RayWorker.objects.get().hostname == "here"
    session.close()
    until(lambda: not living(worker.pk), what="the end of the session")
    call_command("loaddata", path, verbosity=0)
    assert RayWorker.objects.get().hostname == "elsewhere"


def living(worker):
    with connection.cursor() as cursor:
        cursor.execute("SELECT django_ray_session(%s) IS NOT NULL", [worker])
        return cursor.fetchone()[0]


WITHOUT_SUPERVISORS = ("django_ray.raytaskexecution", "django_ray.rayqueue")


@pytest.mark.django_db(transaction=True)
def test_what_is_running_in_a_dump_runs_where_it_is_loaded(tmp_path, insert, listen):
    """By a supervisor that has never heard of the one that ran it."""
    running = {"state": "RUNNING", "claimed_by_id": 4711, "worker_ids": '["4711"]', "attempt_number": 1}
    task_id = insert(args="[1, 2]", last_attempted_at="2026-01-01", started_at="2026-01-01", **running)
    path = str(tmp_path / "tasks.json")
    call_command("dumpdata", *WITHOUT_SUPERVISORS, output=path)
    empty()
    call_command("loaddata", path, verbosity=0)
    supervisor = listen("--sync")
    supervisor.wait_for("is ready")
    assert tasks.add.get_result(str(task_id)).wait(timeout=60).return_value == 3


@pytest.mark.django_db
def test_a_dump_for_another_place_has_nothing_of_ours(history, tmp_path):
    path = tmp_path / "project.json"
    call_command("dumpdata", exclude=["django_ray"], output=str(path))
    assert "django_ray." not in path.read_text()
