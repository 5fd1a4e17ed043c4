"""--cluster: the supervisor as a driver on a Ray that exists."""

import psutil
import pytest

from django_ray.models import RayTaskExecution
from tests import processes, tasks
from tests.chaos import faults
from tests.rays import TOKEN, free_port, kill
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def head(start_head):
    """A Ray head of its own, started outside the project's folder and without its environment."""
    address, _ = start_head(free_port())
    return address


@pytest.mark.slow
def test_a_cluster_runs_tasks_of_a_project_it_was_never_told_of(head, listen, finished):
    supervisor = listen("--cluster", head, RAY_AUTH_TOKEN=TOKEN)
    assert "2 slots" in supervisor.wait_for("is ready")
    assert finished(tasks.add.enqueue(40, 2)).return_value == 42
    assert [finished(tasks.add.enqueue(number, 0)).return_value for number in range(5)] == list(range(5))


@pytest.mark.slow
def test_a_head_that_dies_and_comes_back_costs_no_attempt(start_head, listen, finished, tmp_path):
    """G2."""
    port = free_port()
    address, head = start_head(port)
    supervisor = listen("--cluster", address, "--concurrency", "2", RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("is ready")
    running = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 1)
    until((tmp_path / "started").exists)
    kill(head)
    supervisor.wait_for("is gone")
    meanwhile = tasks.add.enqueue(1, 2)
    supervisor.wait_for("Again in")
    assert RayTaskExecution.objects.get(task_id=meanwhile.id).attempt_number == 0
    start_head(port)
    supervisor.wait_for("Ray is back")
    assert finished(running, timeout=60).return_value == "slept"
    assert finished(meanwhile).return_value == 3
    row = RayTaskExecution.objects.get(task_id=running.id)
    assert (row.failures, row.losses, row.errors) == (0, 0, [])


@pytest.mark.slow
def test_a_cluster_that_is_away_at_the_start_is_waited_for(start_head, listen, finished):
    """G4."""
    port = free_port()
    supervisor = listen("--cluster", f"127.0.0.1:{port}", RAY_AUTH_TOKEN=TOKEN)
    assert "cannot be reached" in supervisor.wait_for("Again in")
    start_head(port)
    supervisor.wait_for("is ready")
    assert finished(tasks.add.enqueue(40, 2)).return_value == 42


@pytest.mark.slow
def test_a_head_that_dies_before_it_has_a_node_is_waited_for(start_head, listen, finished):
    """G4: nothing hangs on a cluster that is gone, and the slots are those of the one that came."""
    port = free_port()
    _, head = start_head(port, cpus=0)
    supervisor = listen("--cluster", f"127.0.0.1:{port}", "--concurrency", "2", RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("waiting for a node")
    kill(head)
    supervisor.wait_for("is gone")
    start_head(port)
    assert "2 slots" in supervisor.wait_for("is ready")
    assert finished(tasks.add.enqueue(40, 2)).return_value == 42


@pytest.mark.slow
def test_sigterm_while_a_node_is_waited_for_ends_with_zero(start_head, listen):
    """E1, G4."""
    port = free_port()
    start_head(port, cpus=0)
    supervisor = listen("--cluster", f"127.0.0.1:{port}", "--concurrency", "2", RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("waiting for a node")
    supervisor.signal()
    assert supervisor.wait(60) == 0


@pytest.mark.slow
def test_sigterm_after_such_a_head_died_ends_with_zero(start_head, listen):
    """E1: leaving the cluster resets the signal handlers, which are put back within a millisecond or two."""
    port = free_port()
    _, head = start_head(port, cpus=0)
    supervisor = listen("--cluster", f"127.0.0.1:{port}", "--concurrency", "2", RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("waiting for a node")
    kill(head)
    supervisor.wait_for("is gone")
    supervisor.wait_for("Again in")
    supervisor.signal()
    assert supervisor.wait(60) == 0


def test_sigterm_while_a_cluster_is_waited_for_ends_with_zero(listen):
    """E1, G4."""
    supervisor = listen("--cluster", f"127.0.0.1:{free_port()}")
    supervisor.wait_for("Again in")
    supervisor.signal()
    assert supervisor.wait(60) == 0


@pytest.mark.slow
def test_what_no_node_has_waits_visibly_and_holds_up_nobody(head, listen, finished):
    """G3."""
    supervisor = listen("--cluster", head, "--concurrency", "1", RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("is ready")
    impossible = [tasks.add.using(num_gpus=1).enqueue(1, 2) for _ in range(3)]
    # Its time counts from the beginning of its body.
    impossible.append(tasks.add.using(resources={"unicorn": 1}, timeout=0.1, max_attempts=1).enqueue(1, 2))
    assert "GPU" in supervisor.wait_for("waits for a node")
    supervisor.wait_for("unicorn")
    assert finished(tasks.sleep.enqueue(3)).return_value == 3
    # One of each kind is known to Ray; the others wait where whoever can may take them.
    states = RayTaskExecution.objects.filter(callable_path="tests.tasks.add").values_list("state", flat=True)
    assert sorted(states) == ["RUNNING", "RUNNING", "WAITING", "WAITING"]
    for result in impossible:
        assert result.cancel()
        assert finished(result).errors[0].exception_class_path == "django_ray.exceptions.TaskCancelled"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["cancel", "timeout"])
def test_a_body_that_never_returns_to_python_ends_on_its_node(head, listen, finished, tmp_path, by):
    """L12, L16: its process is found there, also when it has all the CPUs of the cluster."""
    supervisor = listen("--cluster", head, "--concurrency", "1", RAY_AUTH_TOKEN=TOKEN)
    supervisor.wait_for("is ready")
    task = processes.hold_the_gil.using(num_cpus=2, max_attempts=1, **({"timeout": 1} if by == "timeout" else {}))
    result = task.enqueue(str(tmp_path / "started"))
    until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text(), 60)
    process = psutil.Process(int((tmp_path / "started").read_text()))
    if by == "cancel":
        assert result.cancel()
    name = {"cancel": "TaskCancelled", "timeout": "TaskTimeout"}[by]
    assert finished(result, 90).errors[0].exception_class_path == f"django_ray.exceptions.{name}"
    until(lambda: not faults.runs(process), 30, "an end of its process")
    assert finished(tasks.add.using(num_cpus=2).enqueue(1, 2), 90).return_value == 3
