"""Slots follow a cluster: nodes that join are used, and nothing is claimed before there is room."""

import pytest

from django_ray.models import RayTaskExecution, RayWorker
from tests import tasks
from tests.rays import TOKEN, answers, free_port, kill
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


def states():
    return sorted(RayTaskExecution.objects.values_list("state", flat=True))


def slots():
    return RayWorker.objects.get().concurrency


@pytest.mark.slow
def test_nothing_is_claimed_before_there_is_a_node_and_its_slots_are_used_when_it_comes(start_head, add_node, listen):
    port = free_port()
    address, _ = start_head(port, cpus=0)
    assert answers(port)
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    assert "0 slots" in supervisor.wait_for("is ready")
    results = [tasks.sleep.enqueue(0.2) for _ in range(6)]
    cancelled = tasks.add.enqueue(1, 1)
    assert cancelled.cancel()
    supervisor.wait_for("asks Ray for room", 120)
    assert states() == ["CANCELLED"] + ["READY"] * 6
    node = add_node(address, 2)
    supervisor.wait_for("has 2 CPUs", 120)
    for result in results:
        result.wait(timeout=120)
    until(lambda: slots() == 2, 120, "the row of the supervisor telling its slots")
    running = tasks.sleep.enqueue(60)
    until(lambda: RayTaskExecution.objects.get(pk=running.id).state == "RUNNING", 120, "the body running")
    kill(node)
    supervisor.wait_for("has 0 CPUs", 120)
    until(lambda: slots() == 0, 120, "the row of the supervisor telling its slots")
    lost = RayTaskExecution.objects.get(pk=running.id)
    assert (lost.failures, lost.losses, lost.errors) == (0, 0, [])
    add_node(address, 2)
    supervisor.wait_for("has 2 CPUs", 120)
    until(lambda: tasks.add.enqueue(1, 1).wait(timeout=120).return_value == 2, 120, "work going on")


@pytest.mark.slow
def test_a_head_that_comes_back_with_more_has_more_slots(start_head, listen, finished):
    port = free_port()
    address, head = start_head(port, cpus=1)
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    assert "1 slot," in supervisor.wait_for("is ready")
    kill(head)
    supervisor.wait_for("is gone")
    start_head(port, cpus=3)
    supervisor.wait_for("Ray is back")
    until(lambda: slots() == 3, 120, "the row of the supervisor telling its slots")
    assert finished(tasks.add.enqueue(40, 2)).return_value == 42
