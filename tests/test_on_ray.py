"""Tasks on a real Ray: one django-ray-listen --local serves this module."""

import asyncio
import statistics
import time
from datetime import timedelta

import psutil
import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.db.models import Max
from django.db.models.functions import Now
from django.tasks import TaskResultStatus, task_backends
from django.utils import timezone

from django_ray.models import RayQueue, RayTaskExecution, State
from django_ray_worker.recording.tally import PERIOD_SECONDS
from tests import tasks
from tests.chaos import faults
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_sleeping_supervisor_starts_a_task_within_milliseconds(on_ray, sleepers, finished):
    """The event path. The supervisor has no timer at all, so that nothing but the notification can have done it."""
    delays = []
    for _ in range(10):
        until(sleepers, what="the supervisor asleep")
        before = time.time()
        result = finished(tasks.started_at.enqueue())
        delays.append((result.return_value - before) * 1000)
    print(f"enqueue to body, ms: {', '.join(f'{delay:.1f}' for delay in delays)}; p50 {statistics.median(delays):.1f}")
    assert min(delays) < 100
    assert statistics.median(delays) < 2000  # a busy machine may hold up some


def test_run_after_is_exact(on_ray, finished):
    moment = timezone.now() + timedelta(seconds=1)
    before = time.time()
    result = finished(tasks.started_at.using(run_after=moment).enqueue())
    assert 0.99 <= result.return_value - before < 5


def test_an_earlier_due_time_overtakes_a_later_one(on_ray, finished):
    """A6."""
    now = timezone.now()
    tasks.started_at.using(run_after=now + timedelta(hours=1)).enqueue()
    result = finished(tasks.started_at.using(run_after=now + timedelta(seconds=0.5)).enqueue(), timeout=20)
    assert result.status == TaskResultStatus.SUCCESSFUL


def test_a_failing_task_is_retried_when_its_backoff_says(on_ray, finished):
    result = finished(tasks.fail_until_third.enqueue())
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.attempts == 3
    assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
    waited = result.return_value - result.enqueued_at.timestamp()
    assert 1.0 <= waited < 10
    assert result.started_at < result.last_attempted_at


def test_a_task_that_fails_for_good_tells_why(on_ray, finished):
    result = finished(tasks.fail.enqueue("bad\x01news"))
    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class is ValueError
    assert "bad\x01news" in result.errors[0].traceback
    row = RayTaskExecution.objects.get(task_id=result.id)
    assert (row.state, row.exception_type, row.error_message) == (State.FAILED, "builtins.ValueError", "bad\x01news")


@pytest.mark.parametrize(
    ("task", "args", "value"),
    [(tasks.add, [1, 2], 3), (tasks.add_later, [3, 4], 7), (tasks.attempt_number, [], 1)],
)
def test_sync_async_and_context_tasks_run(on_ray, finished, task, args, value):
    assert finished(task.enqueue(*args)).return_value == value


def test_a_local_ray_has_no_process_that_a_task_does_not_need(on_ray):
    """Neither the autoscaler nor the server of a dashboard that is left out."""
    children = psutil.Process(on_ray.process.pid).children(recursive=True)
    programs = {part.rpartition("/")[2] for child in children for part in faults._words(child)[:4]}
    assert {"gcs_server", "raylet", "log_monitor.py"} <= programs
    assert not {"monitor.py", "dashboard.py"} & programs


def test_the_other_queue_is_served_too(on_ray, finished):
    assert finished(tasks.add.using(queue_name="other").enqueue(1, 1)).return_value == 2


def test_a_burst_of_tasks_all_run_exactly_once(on_ray, tmp_path):
    for number in range(200):
        tasks.write_line.enqueue(str(tmp_path / "log"), number)
    until(lambda: RayTaskExecution.objects.filter(state=State.SUCCESSFUL).count() == 200)
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(200))


@pytest.mark.slow
def test_the_memory_of_the_supervisor_stays_flat_over_thousands_of_awaited_tasks(on_ray, connect):
    """D8: what an await of Ray's leaves behind would add up."""
    session, supervisor = connect(), psutil.Process(on_ray.process.pid)

    def after(number):
        session.execute(
            "INSERT INTO django_ray_execution (callable_path, args)"
            " SELECT 'tests.tasks.add', '[1, 2]' FROM generate_series(1, %s)",
            [number],
        )
        left = "SELECT 1 FROM django_ray_execution WHERE finished_at IS NULL LIMIT 1"
        until(lambda: not session.execute(left).fetchall(), 120, "the end of all")
        return supervisor.memory_info().rss / 1024

    warm = after(1000)  # caches and pools have their size
    grown = after(3000) - warm
    print(f"{grown:.0f} KiB more after 3,000 tasks, from {warm:.0f}")
    assert grown < 3000 * 2


def test_a_task_that_kills_its_process_ends_and_harms_nobody(on_ray, finished):
    """C2, D3."""
    victim = tasks.kill_process.enqueue()
    others = [tasks.add.enqueue(number, 0) for number in range(5)]
    assert [finished(other).return_value for other in others] == list(range(5))
    result = finished(victim, timeout=60)
    assert result.status == TaskResultStatus.FAILED
    assert {error.exception_class_path for error in result.errors} == {"django_ray.exceptions.TaskLost"}
    row = RayTaskExecution.objects.get(task_id=victim.id)
    assert (row.losses, row.failures) == (4, 0)


def test_system_exit_is_a_failure_of_the_task(on_ray, finished):
    """D3."""
    assert finished(tasks.exit_politely.enqueue()).errors[0].exception_class is SystemExit


def test_a_timeout_ends_the_attempt_on_time(on_ray, finished):
    result = finished(tasks.too_long.enqueue())
    assert result.errors[0].exception_class_path == "django_ray.exceptions.TaskTimeout"
    assert 1.0 <= (result.finished_at - result.last_attempted_at).total_seconds() < 3


def test_a_task_leaves_its_transaction_open_and_the_next_one_finds_it_closed(on_ray, finished):
    """D6."""
    for _ in range(8):
        finished(tasks.leaves_transaction_open.enqueue())
    assert finished(tasks.backend_pid.enqueue()).status == TaskResultStatus.SUCCESSFUL


@pytest.mark.parametrize("path", ["tests.tasks.not_a_task", "no.such.task", "os.system"])
def test_a_row_that_names_no_task_fails_clearly_and_calls_nothing(on_ray, finished, path):
    """C10."""
    row = RayTaskExecution.objects.create(callable_path=path, worker_ids=[], errors=[])
    result = finished(task_backends["default"].get_result(str(row.pk)))
    assert result.status == TaskResultStatus.FAILED
    assert path.rpartition(".")[2] in result.errors[0].traceback
    assert result.attempts == 1
    assert not tasks.CALLED.exists()


def test_waiting_leaves_a_row_claimable_by_a_sleeping_supervisor(on_ray):
    """The mark locks the row for a moment: a claim that skipped it is rung for."""
    assert tasks.add.enqueue(3, 4).wait(timeout=60).return_value == 7
    later = tasks.add.using(run_after=timedelta(seconds=0.3)).enqueue(3, 5)
    assert later.wait(timeout=60).return_value == 8


async def test_a_chain_can_be_awaited(on_ray):
    results = [await tasks.add.aenqueue(number, 1) for number in range(20)]
    ended = await asyncio.gather(*(result.await_result(timeout=20) for result in results))
    assert [result.return_value for result in ended] == list(range(1, 21))
    await sync_to_async(connections.close_all)()


def test_an_idle_supervisor_sends_no_statement(on_ray, connect, sleepers):
    """10 s of sleep: no session of ours has begun a statement. Whatever it opens, its pool keeps for ten minutes."""
    session = connect()
    sql = (
        "SELECT pid, query_start, state_change FROM pg_stat_activity WHERE application_name = 'django-ray-listen'"
        " AND datname = current_database() ORDER BY pid"
    )

    def is_at_rest():
        sample = session.execute(sql).fetchall()
        time.sleep(PERIOD_SECONDS + 0.5)  # between two of its last statements all sessions are idle, too
        return sample == session.execute(sql).fetchall()

    until(sleepers, what="the supervisor asleep")
    until(is_at_rest, what="the supervisor at rest")
    before = session.execute(sql).fetchall()
    time.sleep(10)  # the time over which nothing may happen
    assert session.execute(sql).fetchall() == before
    assert len(before) >= 2


def test_a_pause_holds_within_100_ms_while_ray_drains_a_backlog(on_ray):
    """What was claimed may end, what was not begun goes back; nothing is claimed any more, and nothing begins."""
    task_backends["default"].enqueue_many([(tasks.add, (number, 1), {}) for number in range(4000)])
    rows = RayTaskExecution.objects
    until(lambda: rows.filter(state=State.SUCCESSFUL).count() > 200, what="the first results")
    RayQueue.objects.pause("default")
    # The row says when the pause was asked for; what was claimed before the commit was claimed rightly.
    paused_at = RayQueue.objects.values_list(Now(), flat=True).get()
    # A claim that was under way is seen when it is committed; the next one is of the other queue.
    tasks.add.using(queue_name="other").enqueue(1, 1).wait(timeout=60)
    rows = rows.filter(queue_name="default")
    until(lambda: not rows.filter(state=State.RUNNING).exists(), what="the end of what runs")
    claimed, ended = rows.aggregate(claimed=Max("last_attempted_at"), ended=Max("finished_at")).values()
    claimed, ended = ((moment - paused_at).total_seconds() for moment in (claimed, ended))
    print(f"claimed for {claimed:.3f} s, recorded for {ended:.3f} s")
    assert claimed < 0.1
    left = rows.filter(state=State.READY).count()
    assert left > 0, "the backlog was too short to be paused"
    assert rows.exclude(state__in=[State.READY, State.SUCCESSFUL]).count() == 0
    RayQueue.objects.resume("default")
    until(lambda: rows.filter(state=State.SUCCESSFUL).count() == 4000, what="the rest")


def test_large_arguments_are_read_by_the_ray_workers(on_ray, finished):
    """J9: many of them, short ones, so that they share calls with others."""
    calls = [(tasks.add, ("x" * (100_000 if number % 2 else 10), str(number)), {}) for number in range(100)]
    results = task_backends["default"].enqueue_many(calls)
    returned = [finished(result).return_value for result in results]
    assert [text.strip("x") for text in returned] == [str(number) for number in range(100)]
    assert {len(text) > 100_000 for text in returned} == {True, False}
