"""Which process a body has, when its time begins, and how it ends. On one supervisor."""

import os
import time
from pathlib import Path

import psutil
import pytest

from django_ray.models import RayTaskExecution, State
from tests import processes, tasks
from tests.chaos import faults
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)

TIMEOUT = "django_ray.exceptions.TaskTimeout"
ROTATED_BYTES = 200_000


@pytest.fixture(scope="module")
def ray_listen(listen_for_all):
    """One supervisor, of a project that takes three seconds to set up."""
    return listen_for_all(
        "--local", "--concurrency", "2",
        DJANGO_SETTINGS_MODULE="tests.settings_slow", RAY_ROTATION_MAX_BYTES=str(ROTATED_BYTES),
    )  # fmt: skip


@pytest.fixture
def started(on_ray, tmp_path):
    """Enqueue a task with the path of a file that it writes; return its result once it has, and its process."""

    def start(task):
        path = tmp_path / "started"
        result = task.enqueue(str(path))
        until(lambda: path.exists() and path.read_text(), what="the start")
        return result, psutil.Process(int(path.read_text()))

    return start


def row(result):
    return RayTaskExecution.objects.get(task_id=result.id)


def ended(result, timeout=90):
    until(lambda: row(result).finished_at, timeout, "the end")
    result.refresh()
    return result


def test_a_fresh_process_was_nobodys_before_and_is_nobodys_after(on_ray):
    """L16."""
    known = {ended(processes.where.enqueue()).return_value[0] for _ in range(4)}
    fresh = [ended(processes.where.using(fresh_process=True).enqueue()).return_value for _ in range(2)]
    known |= {ended(processes.where.enqueue()).return_value[0] for _ in range(4)}
    assert [calls for _, calls in fresh] == [1, 1]
    assert len({pid for pid, _ in fresh} - known) == 2


@pytest.mark.slow
def test_the_time_until_a_process_is_there_is_not_the_bodys(on_ray):
    """L16: its process takes more than three seconds to be set up, and its timeout is one."""
    result = ended(processes.where.using(fresh_process=True, timeout=1, max_attempts=1).enqueue())
    assert result.return_value[1] == 1
    assert (row(result).attempt_number, row(result).failures) == (1, 0)


def test_the_time_until_a_slot_is_there_is_not_the_bodys(on_ray, tmp_path):
    """L16: Ray has no CPU for it, as somebody has taken all of them."""
    whole = tasks.touch_and_sleep.using(num_cpus=2).enqueue(str(tmp_path / "started"), 5)
    until((tmp_path / "started").exists)
    before = time.monotonic()
    result = ended(tasks.add.using(timeout=1, max_attempts=1).enqueue(1, 2))
    assert time.monotonic() - before > 2, "it did not wait"
    assert result.return_value == 3
    assert ended(whole).return_value == "slept"


@pytest.mark.slow
def test_after_a_kill_the_next_one_has_its_whole_time(started, on_ray):
    """L16."""
    result, process = started(tasks.touch_and_swallow)
    assert result.cancel()
    assert row(ended(result)).state == State.CANCELLED
    assert not faults.runs(process)
    both = [tasks.add.using(timeout=1, max_attempts=1).enqueue(number, 1) for number in range(4)]
    assert [ended(result).return_value for result in both] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["cancel", "timeout"])
def test_a_body_that_never_returns_to_python_ends_with_its_process(started, on_ray, by):
    """L12: its slot is free afterwards."""
    task = processes.hold_the_gil
    result, process = started(task if by == "cancel" else task.using(timeout=1, max_attempts=1))
    if by == "cancel":
        assert result.cancel()
    ended(result)
    until(lambda: not faults.runs(process), 20, "the process gone")
    if by == "cancel":
        assert row(result).state == State.CANCELLED
    else:
        assert (row(result).exception_type, row(result).failures, row(result).losses) == (TIMEOUT, 1, 0)
    whole = ended(tasks.add.using(num_cpus=2).enqueue(1, 2))
    assert whole.return_value == 3


@pytest.mark.slow
def test_a_body_that_does_not_heed_its_timeout_is_killed(started, on_ray):
    """L16: and what it had begun is known, so that it is charged."""
    result, process = started(tasks.touch_and_swallow.using(timeout=1, max_attempts=1))
    assert row(ended(result)).exception_type == TIMEOUT
    assert (row(result).failures, row(result).losses) == (1, 0)
    until(lambda: not faults.runs(process), 20, "the process gone")


def test_the_children_of_a_killed_task_end_with_it(on_ray, tmp_path):
    """L12: those that are still of its session."""
    path = tmp_path / "children"
    result = processes.start_children.enqueue(str(path))
    until(path.with_suffix(".started").exists)
    first, second = (psutil.Process(int(pid)) for pid in path.read_text().split())
    session = os.getsid(on_ray.process.pid)
    ours, other = (first, second) if os.getsid(first.pid) == session else (second, first)
    worker = next(process for process in faults.ray_workers(on_ray) if process in ours.parents())
    worker.kill()
    until(lambda: not faults.runs(ours), 30, "the child gone")
    RayTaskExecution.objects.cancel()
    ended(result)
    if faults.runs(other):
        other.kill()


@pytest.mark.slow
@pytest.mark.parametrize("task", [processes.end_child, processes.end_grandchild])
def test_what_a_body_starts_can_be_told_to_end(on_ray, task):
    """I19: it does not inherit what its Ray worker does with signals."""
    assert ended(task.enqueue()).return_value == -15


def test_what_a_body_forks_can_be_told_to_end(on_ray):
    """I19."""
    assert ended(processes.end_forked_child.enqueue()).return_value is True


@pytest.mark.slow
def test_shapes_of_options_leave_nothing_at_the_head(on_ray):
    """L14."""
    ended(processes.where.using(fresh_process=True).enqueue())
    before = ended(processes.exports.enqueue()).return_value
    results = [tasks.add.using(num_cpus=0.01 + number / 1000).enqueue(number, 1) for number in range(20)]
    assert [ended(result).return_value for result in results] == [number + 1 for number in range(20)]
    assert ended(processes.exports.enqueue()).return_value == before
    assert before <= 12  # as many functions as there are in functions.py, however many shapes they get


def test_what_a_task_prints_without_end_is_not_kept_without_end(on_ray):
    """L18."""
    ended(processes.write_much.enqueue(50_000))
    logs = Path(next(iter(faults.folders(on_ray)))) / "session_latest" / "logs"
    sizes = [log.stat().st_size for log in logs.glob("worker-*.out*")]
    assert max(sizes) > ROTATED_BYTES / 2, "nothing was written there"
    assert max(sizes) < 2 * ROTATED_BYTES
    assert len(sizes) < 40
