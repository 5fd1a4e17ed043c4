"""Lanes and warm workers on a cluster that several supervisors share, and what is killed there under load."""

import os
import signal
from itertools import accumulate
from statistics import quantiles

import pytest
from django.db.models import F

from django_ray.models import RayTaskExecution
from django_ray.status import status
from tests import tasks, warming
from tests.chaos import faults
from tests.rays import TOKEN, family, free_port
from tests.supervisors import until
from tests.test_warm import lines

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DJANGO_RAY_WARMING", str(tmp_path))
    return tmp_path


def enqueue(task, calls):
    return task.get_backend().enqueue_many([(task, list(args), {}) for args in calls])


def left():
    return RayTaskExecution.objects.filter(finished_at=None).count()


def p95_of_waits(**chosen):
    waits = RayTaskExecution.objects.filter(**chosen).annotate(wait=F("started_at") - F("enqueued_at"))
    return quantiles([wait.total_seconds() for wait in waits.values_list("wait", flat=True)], n=20)[-1]


def replicas(head):
    """Return the processes of this Ray in which workers stay: another test may have a Ray beside it."""
    return [one.pid for one in family(head) if faults._title(one).startswith("ray::Replica")]


def test_gpu_tasks_hold_up_no_cpu_tasks_and_two_run_at_a_time(folder, start_head, listen):
    port = free_port()
    address, _ = start_head(port, 2, "--num-gpus=2")
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("is ready", 120)
    enqueue(tasks.add, [(1, 1)] * 500)
    until(lambda: not left(), 120, "the CPU tasks alone")
    alone = p95_of_waits()
    RayTaskExecution.objects.all().delete()
    enqueue(warming.on_gpu, [(0.3,)] * 50)
    until(lambda: lines(folder, "gpu"), 60, "the first GPU task")
    enqueue(tasks.add, [(1, 1)] * 500)
    until(lambda: not RayTaskExecution.objects.filter(finished_at=None, callable_path="tests.tasks.add").exists(), 120)
    ended = RayTaskExecution.objects.filter(callable_path="tests.warming.on_gpu", finished_at__isnull=False).count()
    print(f"p95 of 500 CPU tasks: {alone:.3f} s alone, {p95_of_waits(callable_path='tests.tasks.add'):.3f} beside")
    assert ended < 50
    assert RayTaskExecution.objects.filter(state="RUNNING").count() <= 2
    until(lambda: not left(), 120, "the GPU tasks")
    moments = sorted((float(line[1:]), 1 if line[0] == "+" else -1) for line in lines(folder, "gpu"))
    assert max(accumulate(step for _, step in moments)) == 2


def test_two_classes_take_turns_on_one_gpu(folder, start_head, listen):
    """Each would stay for ten minutes, and there is room for one."""
    port = free_port()
    address, _ = start_head(port, 2, "--num-gpus=1")
    listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN).wait_for("is ready", 120)
    for task, name in ((warming.first_on_gpu, "first"), (warming.second_on_gpu, "second")) * 2:
        assert task.enqueue().wait(timeout=60).return_value == name
    assert lines(folder, "turns") == ["OnGpu", "OnTheSameGpu"] * 2


def test_three_supervisors_build_a_worker_once_each_and_leave_none(folder, start_head, listen):
    port = free_port()
    address, head = start_head(port, 2)
    supervisors = [listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN) for _ in range(3)]
    for supervisor in supervisors:
        supervisor.wait_for("is ready", 120)
    task = warming.double_all.using(idle=2)
    enqueue(task, [(number,) for number in range(10_000)])
    until(lambda: not left(), 300, "all calls")
    assert RayTaskExecution.objects.filter(state="SUCCESSFUL", attempt_number=1).count() == 10_000
    assert len(lines(folder, "built")) == len(set(lines(folder, "built"))) <= 3
    assert sum(map(int, lines(folder, "batches"))) == 10_000
    until(lambda: not replicas(head), 60, "no replica left")
    until(lambda: not any(one.replicas for one in status().supervisors), 60, "the pages saying so")


def test_whatever_is_killed_under_load_nothing_is_lost(folder, start_head, listen):
    port = free_port()
    address, head = start_head(port, 2)
    supervisors = [listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN) for _ in range(2)]
    for supervisor in supervisors:
        supervisor.wait_for("is ready", 120)
    results = enqueue(warming.double_all, [(number, 0.05) for number in range(3000)])
    until(lambda: left() < 2500, 120, "work under way")
    os.kill(replicas(head)[0], signal.SIGKILL)
    until(lambda: left() < 1500, 120, "work going on")
    supervisors[0].signal(signal.SIGKILL)
    until(lambda: not left(), 240, "all calls")
    rows = RayTaskExecution.objects.filter(state="SUCCESSFUL")
    assert rows.count() == 3000
    values = dict(rows.values_list("task_id", "result"))
    assert [values[result_id] for result_id in sorted(values)] == [2 * number for number in range(3000)]
    assert len(results) == 3000
    # Nobody knows who has ended the replica: nobody is charged. Those of the supervisor that died are.
    assert set(rows.values_list("failures", flat=True)) == {0}
