"""manage.py django_ray_status, and what it and the live page know."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from django_ray.models import RayMinute, RayProgress, RayQueue, RayTaskExecution, RayWorker, State
from django_ray.status import MOST, status
from tests import tasks
from tests.supervisors import NOHUP, ROOT, database_url

pytestmark = pytest.mark.django_db


def shown(*arguments):
    output = io.StringIO()
    call_command("django_ray_status", *arguments, stdout=output)
    return output.getvalue()


def fill():
    worker = RayWorker.objects.create(
        hostname="host-1", pid=7, backend="default", queues=["default"], concurrency=4, ray_address="ray:1",
        version="0", pulse=0,
    )  # fmt: skip
    now = timezone.now()
    for minutes, succeeded, failed in ((0, 3, 1), (5, 10, 0), (70, 1000, 1000)):
        RayMinute.objects.create(
            minute=now.replace(second=0, microsecond=0) - timedelta(minutes=minutes), backend="default",
            queue_name="default", worker=worker, succeeded=succeeded, failed=failed, retried=0, cancelled=0,
            postponed=2, waited=7.0, longest_wait=2.0,
        )  # fmt: skip
    tasks.add.enqueue(1, 2)
    tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    RayTaskExecution.objects.create(
        callable_path="a.running", state=State.RUNNING, claimed_by=worker, worker_ids=[str(worker.pk)],
        last_attempted_at=now - timedelta(seconds=90),
    )  # fmt: skip
    RayProgress.objects.create(
        execution=RayTaskExecution.objects.get(state=State.RUNNING), attempt=1, fraction=0.4, message="40\nof 100"
    )
    error = {"exception_class_path": "builtins.ValueError", "message": "no\nway \x1b[31m", "traceback": "t"}
    RayTaskExecution.objects.create(
        callable_path="a.failed", state=State.FAILED, finished_at=now, errors=[error], queue_name="odd"
    )
    RayQueue.objects.pause("other")
    return worker


def test_queues_as_they_are():
    fill()
    found = {(queue.backend, queue.name): queue for queue in status().queues}
    assert set(found) == {("default", "default"), ("default", "other")}
    queue = found["default", "default"]
    assert (queue.waiting, queue.scheduled, queue.running) == (1, 1, 1)
    assert (queue.ended, queue.failed, queue.postponed, queue.wait) == (14, 1, 4, 1.0)
    assert queue.oldest is not None
    assert found["default", "other"].paused_at is not None


def test_counts_stop():
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, %s)", [MOST + 50]
        )
    (queue,) = [queue for queue in status().queues if queue.name == "default" and queue.backend == "default"]
    assert queue.waiting == MOST + 1
    assert "10,000+" in shown()


def test_a_supervisor_without_a_session_is_told_from_one_that_has_it(connect):
    worker = fill()
    assert [one.is_here for one in status().supervisors] == [False]
    connect().execute("SELECT django_ray_identify(%s)", [worker.pk])
    assert [one.is_here for one in status().supervisors] == [True]


def test_what_a_supervisor_has():
    worker = fill()
    RayWorker.objects.filter(pk=worker.pk).update(
        wanted=3,
        resources={"GPU": 2.0, "memory": 8e9, "accelerator_type:H200": 1, "CPU": 1000.5, "licence": 1},
        replicas={"shop.models.Classifier": 2},
    )
    (one,) = status().supervisors
    assert (one.wanted, one.replicas, one.resources["memory"]) == (3, {"shop.models.Classifier": 2}, 8e9)
    text = shown()
    assert "3 more wanted" in text
    assert "1,000.5 CPU, 2 GPU, 1 licence  2 shop.models.Classifier" in text
    assert json.loads(shown("--json"))["supervisors"][0]["replicas"] == {"shop.models.Classifier": 2}


@pytest.mark.parametrize("written", [[1], "much", {"a\x1b[31m": 10**400, "b": "many", "c": None}])
def test_what_somebody_has_written_into_the_row_of_a_supervisor_hurts_no_page(written):
    worker = fill()
    RayWorker.objects.filter(pk=worker.pk).update(replicas=written, resources=written)
    (one,) = status().supervisors
    assert set(one.replicas) <= {"a\x1b[31m"}
    assert "\x1b" not in shown()


def test_plain_text_where_it_is_no_terminal():
    worker = fill()
    text = shown()
    assert "\x1b" not in text
    assert "paused" in text
    assert "a.running" in text
    assert re.search(r"1 min 3\d s", text)
    assert "  ValueError: no way  [31m" in text
    assert f"{str(worker.pk).ljust(2)}  no session  host-1 (7)" in text
    for line in text.splitlines():
        assert line == line.rstrip()


def test_json_for_programs():
    fill()
    found = json.loads(shown("--json"))
    assert found["queues"][0]["waiting"] == 1
    assert found["running"][0]["task"] == "a.running"
    assert found["running"][0]["progress"] == {"fraction": 0.4, "message": "40\nof 100"}
    assert "40 % 40 of 100" in shown()
    assert found["failures"][0]["message"].startswith("no\nway")
    assert found["supervisors"][0]["queues"] == ["default"]


def test_nothing_at_all():
    text = shown()
    assert "None: nothing will be run until you start django-ray-listen." in text
    assert "Nothing." in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("start", [(), NOHUP])
@pytest.mark.django_db(transaction=True)
def test_a_table_in_a_terminal_and_again_when_something_happens(start, number, connect):
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(ROOT), str(ROOT / "example")])
    process = subprocess.Popen(
        [*start, sys.executable, "-m", "django", "django_ray_status", "--watch"],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={
            **os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "tests.settings", "COLUMNS": "150",
            "DATABASE_URL": database_url(connection), "TERM": "xterm-256color",
        },
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 65536)

    try:
        read_until(b"django-ray-listen.")
        RayQueue.objects.pause("other")
        read_until(b"paused")
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
