"""Beside Ray's own autoscaler, whose nodes are processes of this host: none without work, then as many as it wants."""

import signal
import time
from collections import Counter

import pytest
from django.db.models import Sum

from django_ray.models import RayQueue, RayTaskExecution, RayWorker
from tests import tasks
from tests.rays import TOKEN, Held, free_port, raylets
from tests.supervisors import until

IDLE_SECONDS = 6
GOING_SECONDS = 90  # For an idle node to go; it takes some 15 s where the machine has time.

pytestmark = [pytest.mark.alone, pytest.mark.django_db(transaction=True)]


def nodes(head):
    return raylets(head) - 1


def states():
    return Counter(RayTaskExecution.objects.values_list("state", flat=True))


def wanted():
    return RayWorker.objects.filter(stopped_at=None, lost_at=None).aggregate(sum=Sum("wanted"))["sum"]


def test_one_enqueue_brings_a_node_that_goes_again(rays, listen, finished):
    address, head = rays.start_autoscaler(free_port(), most=3, idle_seconds=IDLE_SECONDS)
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    assert "0 slots" in supervisor.wait_for("is ready")
    began = time.monotonic()
    assert finished(tasks.add.enqueue(40, 2), 180).return_value == 42
    print(f"ran {time.monotonic() - began:.1f} s after the enqueue")
    assert nodes(head) == 1
    began = time.monotonic()
    until(lambda: nodes(head) == 0, GOING_SECONDS, "the node gone")
    print(f"gone {time.monotonic() - began:.1f} s after the task, with an idle timeout of {IDLE_SECONDS} s")
    assert (wanted(), rays.demand(address)) == (0, 0)


def test_many_bring_as_many_nodes_as_there_may_be_and_are_rows_until_then(rays, listen, finished, tmp_path):
    address, head = rays.start_autoscaler(free_port(), most=3, idle_seconds=600)
    RayQueue.objects.pause("other")
    held = Held(tmp_path, map(str, range(20)))
    results = [tasks.add.enqueue(number, 0) for number in range(80)]
    urgent = tasks.add.using(priority=50).enqueue(1, 1)
    paused = tasks.add.using(queue_name="other").enqueue(1, 1)
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("asks Ray for room")
    assert set(states()) == {"READY"}
    assert results.pop().cancel()
    until(lambda: len(held.begun) == 3, 240, "as many bodies as there may be nodes")
    assert nodes(head) == 3
    assert finished(urgent).return_value == 2
    until(lambda: states()["RUNNING"] == 3, what="no more claimed than there is room for")
    assert states()["READY"] == 20 + 79 + 1 - 3
    held.let_end(*held.results)
    for result in (*held.results.values(), *results):
        finished(result, 240)
    paused.refresh()
    assert paused.status == "READY"
    assert nodes(head) == 3
    assert states() == {"SUCCESSFUL": 20 + 79 + 1, "CANCELLED": 1, "READY": 1}
    assert not RayTaskExecution.objects.filter(state="SUCCESSFUL").exclude(failures=0, losses=0, errors=[]).exists()


def test_two_supervisors_ask_for_what_waits_once_and_the_demand_of_one_that_is_killed_goes_with_it(
    rays, listen, tmp_path
):
    address, head = rays.start_autoscaler(free_port(), most=1, idle_seconds=600)
    supervisors = [listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN) for _ in range(2)]
    for supervisor in supervisors:
        supervisor.wait_for("is ready")
    held = Held(tmp_path, map(str, range(8)))
    until(lambda: len(held.begun) == 1, 240, "a body on the only node")

    def is_asked_for():
        """Of what waits, each asks for its part; of what a peer has claimed meanwhile, one may be in it."""
        now, asked = states(), wanted()
        has_asked = now["READY"] <= asked <= now["READY"] + 2
        return has_asked and rays.demand(address) == asked + now["RUNNING"] - 1  # who has the CPU waits for none

    until(is_asked_for, 120, "both asking for what waits")
    assert states() == {"RUNNING": 2, "READY": 6}
    late = Held(tmp_path, ["late", "later"])  # every slot is taken, and no body ends
    until(is_asked_for, 120, "both asking for what came later")
    supervisors[1].signal(signal.SIGKILL)
    until(lambda: states()["RUNNING"] == 1, 120, "what the dead one had claimed READY again")
    until(is_asked_for, 120, "the other one asking for all of it")
    assert states() == {"RUNNING": 1, "READY": 9}
    held.let_end(*held.results, *late.results)
    until(lambda: not RayTaskExecution.objects.exclude(state="SUCCESSFUL").exists(), 240, "all of them done")
    until(lambda: wanted() == rays.demand(address) == 0, 120, "no demand")
    assert nodes(head) == 1
