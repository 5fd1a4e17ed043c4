"""A node of a cluster that stands still without a word: its calls are given up by our own clock, not by Ray's."""

import time

import pytest

from django_ray.models import RayTaskExecution
from tests import tasks
from tests.rays import TOKEN, Held, free_port, freezing
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 60  # That is promised, with Ray's and our own defaults.


@pytest.mark.slow
def test_calls_of_a_node_that_freezes_run_elsewhere_within_a_minute_and_the_other_node_goes_on(
    start_head, add_node, listen, finished, tmp_path
):
    address, _ = start_head(free_port(), cpus=0)
    node, other = add_node(address, 2), add_node(address, 2)
    supervisor = listen("--cluster", address, RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("is ready")
    held = Held(tmp_path, "abcd")
    until(lambda: all(map(held.pids, held.results)), 120, "four bodies running")
    running, ended = held.on(node)
    held.let_end(ended)
    finished(held.results[ended])
    with freezing(node):
        frozen_at = time.monotonic()
        unbegun = tasks.hold.enqueue(str(tmp_path), "unbegun")  # Ray sends it to the CPU that is free: it is frozen
        held.results["unbegun"] = unbegun
        for key in held.on(other):
            held.let_end(key)
            assert finished(held.results[key]).return_value == key
        supervisor.wait_for("has not answered", 120)
        supervisor.wait_for("has 2 CPUs", 120)
        until(lambda: {running, "unbegun"} <= set(held.on(other)), 120, "both running on the other node")
        took = time.monotonic() - frozen_at
        print(f"elsewhere after {took:.1f} s")
        assert took < SECONDS
        held.let_end(running, "unbegun")
        assert finished(held.results[running]).return_value == running
        assert finished(unbegun).return_value == "unbegun"
    supervisor.wait_for("answers again", 120)
    supervisor.wait_for("has 4 CPUs", 120)
    assert not RayTaskExecution.objects.exclude(failures=0, losses=0, errors=[]).exists()
    again = Held(tmp_path, "efgh")
    until(lambda: again.on(node), 120, "a body on the node that is back")
    again.let_end(*again.results)
    for key, result in again.results.items():
        assert finished(result).return_value == key
    assert all(finished(result).attempts <= 2 for result in held.results.values())
