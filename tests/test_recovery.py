"""What is lost comes back: locked rows, dead and frozen peers, a session that was swallowed, a Ray that is gone."""

import asyncio
import signal
import time

import psutil
import pytest

from django_ray.models import RayTaskExecution
from tests import tasks
from tests.supervisors import Instant, living, until

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_row_that_was_locked_and_left_as_it_is_runs(database, connect):
    """Its transaction is rolled back, so nobody rings: the claim that skipped it looks again."""
    locker, executor = connect(autocommit=False), Instant()
    connect().execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
    locker.execute("SELECT 1 FROM django_ray_execution FOR UPDATE")
    async with living(database, executor):
        await asyncio.sleep(0.3)  # it has looked, and skipped it
        assert executor.ran == []
        locker.rollback()
        await executor.has_run(1)


async def test_a_clock_that_is_an_hour_off_changes_nothing(database, connect, monkeypatch):
    """F1: due times, pulses and the age of a peer's pulse are the database's."""
    real, executor = time.time, Instant()
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    session = connect()
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, run_after, due_at)"
        " VALUES ('tests.tasks.add', now() + interval '0.5 s', now() + interval '0.5 s')"
    )
    async with living(database, executor, pulse=0.1), living(database, Instant(), pulse=0.1, queues=("other",)):
        await executor.has_run(1)
    (row,) = session.execute("SELECT started_at - run_after AS late FROM django_ray_execution").fetchall()
    assert 0 <= row["late"].total_seconds() < 0.3
    assert session.execute("SELECT 1 FROM django_ray_worker WHERE lost_at IS NOT NULL").fetchall() == []


def test_a_dead_peers_work_runs_again_within_two_seconds(listen, tmp_path):
    """C1, five times of five."""
    survivor = listen("--sync")
    survivor.wait_for("is ready")
    for turn in range(5):
        victim = listen("--sync", "--queue", "other")
        victim.wait_for("is ready")
        path = tmp_path / f"started-{turn}"
        result = tasks.touch_and_sleep.using(queue_name="other").enqueue(str(path), 600)
        # Only the survivor serves the default queue; either may have taken this one.
        until(path.exists)
        row = RayTaskExecution.objects.get(task_id=result.id)
        if row.claimed_by.pid != victim.process.pid:
            survivor, victim = victim, survivor
        path.unlink()
        died = time.monotonic()
        victim.process.kill()
        until(path.exists, 10, "the second start")
        assert time.monotonic() - died < 2
        row.refresh_from_db()
        assert (row.losses, row.failures, row.attempt_number) == (1, 0, 2)
        assert row.exception_type == "django_ray.exceptions.TaskLost"
        survivor.process.kill()
        survivor.wait()
        RayTaskExecution.objects.all().delete()
        survivor = listen("--sync")
        survivor.wait_for("is ready")


def ray_process(supervisor, name):
    """The process of that name among the supervisor's."""
    children = psutil.Process(supervisor.process.pid).children(recursive=True)
    return next(child for child in children if name in " ".join(child.cmdline()[:1]))


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_ray_that_is_gone_is_started_again_and_costs_no_attempt(listen, tmp_path, finished, victim):
    """G2: with a task running and another waiting, and once more while idle."""
    supervisor = listen("--local", "--concurrency", "1")
    supervisor.wait_for("is ready")
    running = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 1)
    until((tmp_path / "started").exists)
    (tmp_path / "started").unlink()
    waiting = tasks.add.enqueue(1, 2)
    ray_process(supervisor, victim).kill()
    supervisor.wait_for("Ray is back")
    assert finished(running).return_value == "slept"
    assert finished(waiting).return_value == 3
    row = RayTaskExecution.objects.get(task_id=running.id)
    assert (row.attempt_number, row.failures, row.losses, row.errors) == (2, 0, 0, [])
    ray_process(supervisor, victim).kill()
    supervisor.wait_for("Ray is back")
    assert finished(tasks.add.enqueue(1, 3)).return_value == 4
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
