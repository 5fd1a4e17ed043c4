"""What a body leaves behind in its process: the next one does not find it, whatever it was."""

import json
import os
import signal

import pytest
from django.db import connection
from django.tasks import TaskResultStatus, task_backends

from django_ray.models import RayTaskExecution, State
from tests import tasks, untidy
from tests.supervisors import database_url, until

pytestmark = pytest.mark.django_db(transaction=True)

CANCELLED = "django_ray.exceptions.TaskCancelled"
TIMED_OUT = "django_ray.exceptions.TaskTimeout"


@pytest.fixture(scope="module")
def process(django_db_setup, django_db_blocker):
    """One process for the bodies of a module, which keeps its connections."""
    with django_db_blocker.unblock(), untidy.Process(database_url(connection), CONN_MAX_AGE=None) as process:
        yield process


@pytest.fixture(scope="module")
def one_slot(listen_for_all):
    """A supervisor with a real Ray, whose bodies run one after the other, most of them in the same process."""
    return listen_for_all("--local", "--concurrency", "1", "--queue", "default")


@pytest.fixture
def run(one_slot, finished):
    """Enqueue a task and return its result when it is finished."""
    return lambda task, *args: finished(task.enqueue(*args))


@pytest.fixture
def other(listen):
    """Start a supervisor of the test's own, for another queue."""
    return lambda *arguments: listen(*arguments, "--queue", "other")


def row_of(result):
    return RayTaskExecution.objects.get(task_id=result.id)


@pytest.mark.parametrize(
    "what",
    [
        "handlers", "default_handler", "program", "receiver", "alarm", "timer", "blocked", "folder", "gone_folder",
        "umask", "streams", "closed_streams",
    ],
)  # fmt: skip
def test_a_body_finds_its_process_as_it_was_before_the_one_that_left_something_behind(process, tmp_path, what):
    """H10."""
    before = process.run(untidy.found)
    assert process.run(untidy.leave, what, str(tmp_path)) == what
    assert process.run(untidy.found) == before
    if what != "blocked":  # which is put right before each call, and not within one, as it costs more than the rest
        envelopes = process.call((untidy.leave, what, str(tmp_path)), untidy.found).envelopes
        assert json.loads(envelopes[-1]["result"]) == before


def test_what_a_module_does_to_the_process_when_it_is_imported_is_put_right_before_the_body(process):
    """H10."""
    before = process.run(untidy.found)
    from tests import untidy_module

    assert process.run(untidy_module.found_by_the_first_body) == before["handlers"]["SIGINT"]


def test_a_task_that_runs_another_one_in_place_keeps_its_own_surroundings(process, tmp_path):
    assert process.run(untidy.run_in_place, str(tmp_path)) == str(tmp_path)


def test_a_body_that_left_an_event_loop_running_is_the_last_of_its_process(django_db_blocker):
    """H10."""
    with untidy.Process(database_url(connection)) as process:
        report = process.call((untidy.leave, "loop"), untidy.query)
        assert [envelope["kind"] for envelope in report.envelopes] == ["returned"], "the other one was not started"
        # Without a Ray that ends it, as with --sync, it goes on, as well as it can.
        assert process.run(untidy.query) == 42
        assert process.run(untidy.query_async) == 42


@pytest.mark.parametrize("what", ["loop", pytest.param("playwright", marks=pytest.mark.slow)])
def test_after_a_loop_that_was_left_running_tasks_run_in_another_process(run, what):
    """H10."""
    first = run(untidy.pid).return_value
    assert run(untidy.leave, what).status == TaskResultStatus.SUCCESSFUL
    for task in (untidy.query_async, untidy.query):
        result = run(task)
        assert (result.status, result.attempts, result.return_value) == (TaskResultStatus.SUCCESSFUL, 1, 42)
    assert run(untidy.pid).return_value != first


@pytest.mark.slow
def test_a_function_of_a_map_that_left_a_loop_running_is_the_last_of_its_process(run):
    """H10."""
    assert len(set(run(untidy.map_and_leave).return_value)) == 3
    assert run(untidy.query_async).return_value == 42


@pytest.mark.slow
def test_a_process_that_ends_after_its_answer_loses_neither_that_nor_the_next_task(run):
    """H10."""
    assert run(untidy.leave, "umask").status == TaskResultStatus.SUCCESSFUL
    backend = task_backends["default"]
    backend.enqueue_many([(untidy.leave, ["loop" if number % 5 == 0 else "umask"], {}) for number in range(10)])
    unfinished = RayTaskExecution.objects.filter(state__in=[State.READY, State.RUNNING])
    until(lambda: not unfinished.exists(), timeout=120, what="the end of all")
    rows = RayTaskExecution.objects.values_list("state", "losses", "failures", "worker_ids")
    assert {(state, losses, failures, len(workers)) for state, losses, failures, workers in rows} == {
        (State.SUCCESSFUL, 0, 0, 1)
    }


@pytest.mark.parametrize("what", ["handlers", "default_handler", "program", "receiver", "blocked"])
def test_after_a_body_with_signal_handlers_a_cancel_still_reaches_the_next_one(run, tmp_path, what):
    """H10."""
    process = run(untidy.pid).return_value
    run(untidy.leave, what)
    result = tasks.clean_up.enqueue(str(tmp_path / "started"))
    until((tmp_path / "started").exists, what="the start")
    assert result.cancel()
    result.wait(timeout=60)
    row = row_of(result)
    assert (row.state, row.exception_type, row.failures, row.losses) == (State.CANCELLED, CANCELLED, 0, 0)
    assert (tmp_path / "started.cleaned").exists(), "its finally ran"
    assert run(untidy.pid).return_value == process, "it was not killed"


@pytest.mark.parametrize(
    "what",
    ["default", "own", pytest.param("none", marks=pytest.mark.slow), pytest.param("passes", marks=pytest.mark.slow)],
)
def test_a_body_with_a_handler_of_its_own_is_cancelled_and_not_failed(run, one_slot, tmp_path, what):
    """H10."""
    result = untidy.replace_handler_and_sleep.enqueue(what, str(tmp_path / "started"))
    until((tmp_path / "started").exists, what="the start")
    assert result.cancel()
    result.wait(timeout=60)
    row = row_of(result)
    assert (row.state, row.exception_type, row.failures, row.losses) == (State.CANCELLED, CANCELLED, 0, 0)
    assert run(tasks.add, 1, 2).return_value == 3


@pytest.mark.parametrize("what", ["default", "own", "none"])
def test_a_body_with_a_handler_of_its_own_times_out(run, tmp_path, what):
    """H10."""
    result = untidy.replace_handler_and_sleep.using(timeout=1.0).enqueue(what, str(tmp_path / "started"))
    result.wait(timeout=60)
    row = row_of(result)
    assert (row.state, row.exception_type, row.failures, row.losses) == (State.FAILED, TIMED_OUT, 1, 0)


def test_a_body_that_has_put_the_handler_back_is_cancelled_and_not_failed(run, tmp_path):
    """H10."""
    run(tasks.add, 1, 2)
    result = untidy.replace_handler_for_a_while.enqueue(str(tmp_path / "started"))
    until((tmp_path / "started").exists, what="the start")
    assert result.cancel()
    result.wait(timeout=60)
    assert (row_of(result).state, row_of(result).failures) == (State.CANCELLED, 0)


@pytest.mark.slow
def test_a_stop_of_the_supervisor_charges_no_body_with_a_handler_of_its_own(other, tmp_path):
    """H10."""
    supervisor = other("--local", "--concurrency", "3", "--grace", "0")
    kinds = ("default", "own", "none")
    task = untidy.replace_handler_and_sleep.using(queue_name="other")
    results = [task.enqueue(what, str(tmp_path / what)) for what in kinds]
    until(lambda: all((tmp_path / what).exists() for what in kinds), timeout=120, what="the start of all")
    supervisor.signal()
    assert supervisor.wait() == 0
    for row in map(row_of, results):
        assert (row.state, row.failures, row.losses, row.errors) == (State.READY, 0, 0, [])


def test_a_body_that_leaves_a_busy_pool_of_forked_processes_ends(run, tmp_path):
    """H10."""
    assert run(untidy.leave_a_busy_pool, str(tmp_path / "busy")).return_value == "left"


def test_with_sync_forked_processes_end_by_a_sigterm_that_the_supervisor_does_not_take_for_its_own(
    other, finished, tmp_path
):
    """H10."""
    supervisor = other("--sync")
    for number in range(2):
        result = untidy.leave_a_busy_pool.using(queue_name="other").enqueue(str(tmp_path / f"busy{number}"))
        assert finished(result).return_value == "left"
    supervisor.signal()
    assert supervisor.wait() == 0
    assert supervisor.log.count("SIGTERM: stopping") == 1


def test_a_child_ends_by_sigterm_and_keeps_the_handlers_of_its_body(run, tmp_path):
    """H10."""
    assert run(untidy.signal_a_child, str(tmp_path / "heard")).return_value == ["heard", -signal.SIGTERM]


def test_with_sync_the_next_body_finds_folder_umask_streams_and_loop_again(other, finished, tmp_path):
    """H10."""
    other("--sync")
    before = finished(untidy.found_in_thread.using(queue_name="other").enqueue()).return_value
    assert before["folder"] == str(os.getcwd())  # noqa: PTH109 - where the supervisor was started
    for what in ("folder", "umask", "streams", "loop"):
        assert finished(untidy.leave.using(queue_name="other").enqueue(what, str(tmp_path))).return_value == what
        assert finished(untidy.found_in_thread.using(queue_name="other").enqueue()).return_value == before
        assert finished(untidy.query.using(queue_name="other").enqueue()).return_value == 42


def test_a_signal_of_a_forked_process_is_not_taken_for_one_of_its_parent(process):
    """H10: also where it has a handler of its own."""
    assert process.run(untidy.wakeup_of_a_child) is True
