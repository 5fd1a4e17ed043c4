"""stall_timeout: a body that gives no sign of life for so long is ended, and one that gives them is not."""

import itertools
import threading
import time
from dataclasses import replace

import psutil
import pytest
from django.db import connection
from django.tasks import TaskResultStatus

from django_ray.models import RayTaskExecution, State
from django_ray.requirements import TaskOptions
from django_ray.runtime import limits as limits_module
from django_ray.runtime.limits import Limits, Overrun
from django_ray.runtime.reporting import Reporter
from django_ray_worker.core.outcome import Returned, Stalled, TimedOut
from django_ray_worker.running.answer import NoAnswer, answer_of
from django_ray_worker.running.inprocess import InProcessExecutor
from tests import processes, steps, tasks, untidy
from tests.chaos import faults
from tests.supervisors import database_url, until
from tests.test_policy import CLAIM

TIMEOUT = "django_ray.exceptions.TaskTimeout"


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when it is told to."""
    now = [100.0]
    monkeypatch.setattr(limits_module, "seconds", lambda: now[0])

    def go(seconds):
        now[0] += seconds

    return go


def test_a_sign_of_life_moves_the_moment_and_the_end_of_the_time_does_not_move(clock):
    limits = Limits(10, 4)
    limits.begin()
    assert limits.due() == 104
    clock(3)
    limits.note()
    assert limits.due() == 107
    clock(3)
    limits.note()
    clock(3)
    limits.note()
    assert (limits.due(), limits.overrun) == (110, None)
    clock(1)
    assert limits.due() == 110
    assert limits.overrun == Overrun(10, has_stalled=False)


def test_who_has_stalled_has_stalled_for_good(clock):
    """What is being ended and reports on is ended all the same."""
    limits = Limits(None, 4)
    limits.begin()
    clock(4)
    assert limits.due() == 104
    assert limits.overrun == Overrun(4, has_stalled=True)
    limits.note()
    assert limits.due() == 104


def test_after_the_end_a_thread_that_is_left_says_nothing_of_the_next_body(clock, monkeypatch):
    noted = []
    monkeypatch.setattr(limits_module.mark, "alive", noted.append)
    limits = Limits(None, 4)
    limits.note()  # it has not begun
    limits.begin()
    clock(1)
    limits.note()
    limits.end()
    clock(1)
    limits.note()
    assert noted == [101]
    clock(100)
    limits.due()
    assert limits.overrun is None


def test_a_report_says_that_it_has_stalled_beside_what_it_says_of_a_timeout():
    raised = {"kind": "raised", "exception_class_path": "builtins.KeyboardInterrupt", "message": "", "traceback": ""}
    report = {"envelopes": [raised], "seconds": [1.0], "is_interrupted": True, "overran": 60.0}
    assert answer_of(report).outcomes == [TimedOut(60.0)]
    assert answer_of({**report, "has_stalled": True}).outcomes == [Stalled(60.0)]
    returned = {"kind": "returned", "result": "1"}
    assert answer_of({**report, "envelopes": [returned], "has_stalled": True}).outcomes == [Returned("1")]


@pytest.fixture(scope="module")
def process(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), untidy.Process(database_url(connection)) as process:
        process.run(tasks.add, 1, 2)  # it has started: the seconds of a test are those of its bodies
        yield process


def told(task, *args, **options):
    return untidy.payload(task, *args, options=options)


@pytest.mark.parametrize(
    "task", [steps.report_and_stop, steps.report_and_stop_later, steps.report_from_below_and_stop, tasks.block]
)
def test_a_body_that_says_no_more_is_interrupted_where_it_waits(process, tmp_path, task):
    report = process.call(told(task, str(tmp_path / "started"), stall_timeout=0.5))
    assert (report.overran, report.has_stalled, report.is_interrupted) == (0.5, True, True)
    assert 0.5 <= report.seconds[0] < 10
    assert process.run(tasks.add, 1, 2) == 3


@pytest.mark.parametrize("task", [steps.report_until, steps.report_in_a_thread])
def test_a_body_that_goes_on_to_report_goes_on(process, tmp_path, task):
    """L19: it says the same each time."""
    path = tmp_path / "go"
    process.begin(told(task, str(path), stall_timeout=3))
    threading.Timer(4, path.touch).start()
    report = process.end()
    assert (report.envelopes[0]["result"], report.overran) == ('"reported"', None)
    assert report.seconds[0] > 3


@pytest.mark.parametrize(("timeout", "stall_timeout", "first"), [(0.4, 60, "timeout"), (60, 0.4, "stall_timeout")])
def test_of_both_the_first_ends_it(process, timeout, stall_timeout, first):
    report = process.call(told(tasks.sleep, 600, timeout=timeout, stall_timeout=stall_timeout))
    assert report.overran == 0.4
    assert report.has_stalled == (first == "stall_timeout")


def test_a_timeout_ends_a_body_that_reports(process, tmp_path):
    report = process.call(told(steps.report_until, str(tmp_path / "never"), timeout=0.5, stall_timeout=30))
    assert (report.overran, report.has_stalled) == (0.5, False)


def test_the_one_after_it_in_its_process_has_all_of_its_time(process, tmp_path):
    for number in range(3):
        stalled = told(steps.report_and_stop, str(tmp_path / str(number)), stall_timeout=0.3)
        assert process.call(stalled).has_stalled
        assert process.call(told(tasks.sleep, 0.1, stall_timeout=30)).overran is None


def test_a_call_tells_nothing_of_it_where_nobody_stalled(process):
    report = process.call(told(tasks.add, 1, 2, stall_timeout=30), told(tasks.add, 3, 4))
    assert [envelope["result"] for envelope in report.envelopes] == ["3", "7"]
    assert not hasattr(report, "has_stalled")


async def test_with_sync_it_is_recorded_and_the_body_runs_on(tmp_path):
    path = tmp_path / "started"
    claim = replace(
        CLAIM,
        options=TaskOptions(stall_timeout=0.3),
        payload=untidy.payload(tasks.touch_and_wait, str(path)),
    )
    assert await InProcessExecutor().run([claim]) == NoAnswer(Stalled(0.3))
    path.with_suffix(".go").touch()


async def test_with_sync_a_body_that_reports_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Reporter, "report", lambda *_: None)  # which needs a row
    path = tmp_path / "go"
    options = TaskOptions(stall_timeout=2)
    claim = replace(CLAIM, options=options, payload=untidy.payload(steps.report_until, str(path)))
    threading.Timer(3, path.touch).start()
    answer = await InProcessExecutor().run([claim])
    assert answer.outcomes == [Returned('"reported"')]


def row(result):
    return RayTaskExecution.objects.get(task_id=result.id)


@pytest.mark.parametrize("task", [steps.report_and_stop, steps.report_and_stop_later, tasks.block, tasks.loop_async])
def test_on_ray_a_body_that_says_no_more_fails_with_what_to_do(on_ray, finished, tmp_path, task):
    """L19."""
    result = finished(task.using(stall_timeout=1, max_attempts=1).enqueue(str(tmp_path / "started")))
    (error,) = result.errors
    assert error.exception_class_path == TIMEOUT
    assert "stalled: no progress() for 1 s" in error.traceback
    assert "raise its stall_timeout" in error.traceback
    ended = row(result)
    assert (ended.state, ended.failures, ended.losses) == (State.FAILED, 1, 0)
    assert 1 <= (ended.finished_at - ended.last_attempted_at).total_seconds() < 3, "it was not reached, but killed"


def test_on_ray_it_is_tried_again_as_after_any_failure(on_ray, finished):
    result = finished(steps.stall_once.using(stall_timeout=0.5).enqueue())
    assert (result.return_value, result.attempts) == (2, 2)
    assert result.errors[0].exception_class_path == TIMEOUT


@pytest.mark.parametrize("task", [steps.report_and_swallow, processes.hold_the_gil, tasks.touch_and_swallow])
def test_on_ray_what_cannot_be_reached_is_ended_with_its_process(on_ray, finished, tmp_path, task):
    """L19: it knows no interrupt, never returns to Python, or reports on when it should have ended."""
    path = tmp_path / "started"
    result = task.using(stall_timeout=1, max_attempts=1).enqueue(str(path))
    until(lambda: path.exists() and path.read_text(), what="the start")
    process = psutil.Process(int(path.read_text()))
    assert finished(result, 120).errors[0].exception_class_path == TIMEOUT
    assert "no progress() for 1 s" in result.errors[0].traceback
    assert (row(result).failures, row(result).losses) == (1, 0)
    until(lambda: not faults.runs(process), 20, "the process gone")
    assert finished(tasks.add.using(stall_timeout=1).enqueue(1, 2)).return_value == 3


def test_on_ray_many_signs_a_second_keep_a_body_alive(on_ray, finished):
    """L19: longer than its limit and the grace, so that its supervisor has looked as well."""
    result = finished(steps.hurry.using(stall_timeout=4, max_attempts=1).enqueue(7.0))
    assert result.status == TaskResultStatus.SUCCESSFUL, result.errors
    assert result.return_value > 10_000
    assert result.attempts == 1


def test_a_sign_of_life_is_cheap():
    """No more than a look at the clock: nobody is woken for it."""
    limits = Limits(None, 3600)
    limits.begin()
    times = 20_000
    best = min(_seconds_of(limits.note, times) for _ in range(5))
    print(f"a sign of life takes {best / times * 1e9:.0f} ns")
    assert best / times < 20e-6


def _seconds_of(function, times):
    began = time.perf_counter()
    for _ in itertools.repeat(None, times):
        function()
    return time.perf_counter() - began
