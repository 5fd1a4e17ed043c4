"""Cancel and timeout, on a real Ray: at once where the body can be reached, by force where it cannot."""

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import TaskResultDoesNotExist

from django_ray.models import RayTaskExecution, State
from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)

CANCELLED = "django_ray.exceptions.TaskCancelled"


@pytest.fixture
def started(on_ray, tmp_path):
    """Enqueue a task with the path of a file that it touches; return its result once it has, and the file."""

    def start(task):
        path = tmp_path / "started"
        result = task.enqueue(str(path))
        until(path.exists, what="the start")
        return result, path

    return start


@pytest.mark.parametrize("task", [tasks.loop, tasks.loop_async, tasks.block, tasks.query_long, tasks.clean_up])
def test_what_can_be_reached_is_cancelled_without_force(started, task):
    result, path = started(task)
    assert result.cancel()
    row = RayTaskExecution.objects.get(task_id=result.wait(timeout=60).id)
    seconds = (row.finished_at - row.cancel_requested_at).total_seconds()
    print(f"{task.name} cancelled in {seconds * 1000:.0f} ms")
    assert (row.state, row.exception_type, row.failures, row.losses) == (State.CANCELLED, CANCELLED, 0, 0)
    assert result.status == TaskResultStatus.FAILED
    assert path.with_suffix(".cleaned").exists() == (task is tasks.clean_up)
    assert seconds < 2, "it was not reached, but killed"


@pytest.mark.parametrize("task", [tasks.stick_in_c, tasks.swallow, tasks.swallow_async])
def test_what_cannot_be_reached_is_cancelled_by_force(started, finished, task):
    result, _ = started(task)
    assert result.cancel()
    assert result.wait(timeout=60).errors[-1].exception_class_path == CANCELLED
    row = RayTaskExecution.objects.get(task_id=result.id)
    assert (row.state, row.losses, len(row.errors)) == (State.CANCELLED, 0, 1)
    assert finished(tasks.add.enqueue(1, 2)).return_value == 3


def test_after_a_cancelled_task_its_ray_worker_is_as_good_as_new(started, finished, tmp_path):
    for _ in range(5):
        result, path = started(tasks.loop)
        path.unlink()
        result.cancel()
        result.wait(timeout=60)
        assert [finished(tasks.add.enqueue(number, 1)).return_value for number in range(4)] == [1, 2, 3, 4]


def test_what_waits_is_cancelled_at_once_and_never_starts(on_ray, tmp_path):
    result = tasks.loop.using(run_after=timedelta(hours=1)).enqueue(str(tmp_path / "started"))
    assert async_to_sync(result.acancel)()
    result.refresh()
    assert result.errors[0].exception_class_path == CANCELLED
    assert RayTaskExecution.objects.get(task_id=result.id).state == State.CANCELLED
    assert not result.cancel()


def test_what_is_finished_is_not_cancelled_and_what_is_unknown_does_not_exist(on_ray, finished):
    result = finished(tasks.add.enqueue(1, 2))
    assert not result.cancel()
    result.refresh()
    assert result.return_value == 3
    for unknown in ("nonsense", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(TaskResultDoesNotExist):
            task_backends["default"].cancel(unknown)


def test_a_request_outlives_the_attempt(started):
    """It fails by itself in the moment in which somebody wants it cancelled: it is not tried again."""
    result, path = started(tasks.fail_after_file)
    with_request = RayTaskExecution.objects.filter(task_id=result.id)
    with connection.cursor() as cursor:
        # As if the message were lost with the session.
        cursor.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER django_ray_on_cancel")
        assert with_request.cancel() == 1
        cursor.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER django_ray_on_cancel")
    path.with_suffix(".go").touch()
    result.wait(timeout=60)
    row = with_request.get()
    assert (row.state, row.failures, row.attempt_number) == (State.CANCELLED, 1, 1)


def test_many_are_cancelled_by_one_statement(on_ray, tmp_path):
    results = [tasks.loop.enqueue(str(tmp_path / str(number))) for number in range(12)]
    until(lambda: len(list(tmp_path.iterdir())) == 4, what="the slots taken")
    assert RayTaskExecution.objects.cancel() == 12
    for result in results:
        assert result.wait(timeout=60).errors[-1].exception_class_path == CANCELLED


@pytest.mark.parametrize("task", [tasks.loop, tasks.loop_async, tasks.block, tasks.clean_up])
def test_a_timeout_fires_on_time(started, task):
    result, path = started(task.using(timeout=1, max_attempts=1))
    row = RayTaskExecution.objects.get(task_id=result.wait(timeout=60).id)
    assert row.exception_type == "django_ray.exceptions.TaskTimeout"
    assert row.failures == 1
    # Its time begins after its claim, and hardly later than its body.
    assert (row.finished_at - row.last_attempted_at).total_seconds() >= 1
    seconds = row.finished_at.timestamp() - path.stat().st_mtime
    print(f"{task.name} timed out after {seconds:.3f} s")
    assert seconds < 3, "it was not reached, but killed"
