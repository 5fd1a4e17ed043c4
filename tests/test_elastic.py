"""Slots follow a cluster: nodes that join are used, and nothing is claimed before there is room."""

import time

import pytest

from django_ray.models import RayTaskExecution, RayWorker
from tests import tasks
from tests.rays import TOKEN, Held, answers, free_port, kill
from tests.supervisors import until

JOIN_SECONDS = 30  # It takes less than 2 s where the machine has time.

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


@pytest.mark.slow
def test_a_node_that_joins_under_load_is_used_at_once_and_one_that_drains_costs_no_task_anything(
    rays, listen, finished, tmp_path
):
    """Its fallback, the pulse of the supervisor, comes after a minute."""
    address, _ = rays.start_head(free_port(), cpus=0)
    rays.add_node(address, 2)
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("is ready")
    held = Held(tmp_path, map(str, range(20)))
    until(lambda: len(held.begun) == 2, 120, "as many bodies as there are CPUs")
    node = rays.add_node(address, 2)
    joined = time.monotonic()
    supervisor.wait_for("has 4 CPUs")
    took = time.monotonic() - joined
    print(f"noticed {took:.1f} s after it has joined")
    assert took < JOIN_SECONDS
    until(lambda: len(held.on(node)) == 2, 120, "bodies on the new node")
    rays.drain(address, node)
    supervisor.wait_for("has 2 CPUs")
    for key in held.on(node):
        held.let_end(key)
        finished(held.results[key])
    kill(node)
    held.let_end(*held.results)
    for key, result in held.results.items():
        assert finished(result, 180).return_value == key
    assert not RayTaskExecution.objects.exclude(failures=0, losses=0, errors=[]).exists()
