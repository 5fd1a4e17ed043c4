"""What can happen to a supervisor with a Ray of its own."""

import os
import signal
import threading
import time
from contextlib import suppress

import psycopg
import pytest

from tests.chaos import faults
from tests.supervisors import until


@pytest.fixture
def file(tmp_path):
    return tmp_path / "started"


@pytest.mark.slow
def test_a_killed_ray_worker_costs_a_loss_and_no_attempt(supervise, enqueue, finished, file):
    """G1, D3: its neighbour runs on."""
    supervisor = supervise("--local", "--concurrency", "2")
    victim = enqueue("touch_and_wait", file)
    process = int(until(lambda: file.exists() and file.read_text()))
    assert process in {worker.pid for worker in faults.ray_workers(supervisor)}
    neighbour = enqueue("touch_and_wait", file.with_name("neighbour"))
    until(file.with_name("neighbour").exists)
    file.unlink()
    os.kill(process, signal.SIGKILL)
    until(file.exists, what="the second start")
    file.with_suffix(".go").touch()
    file.with_name("neighbour.go").touch()
    row = finished(victim)
    assert (row["state"], row["attempt_number"], row["losses"], row["failures"]) == ("SUCCESSFUL", 2, 1, 0)
    assert finished(neighbour)["attempt_number"] == 1


@pytest.mark.slow
def test_ten_seconds_without_a_database_under_load_cost_nothing(  # noqa: PLR0917
    supervise, migrated, sql, enqueue, finished, file
):
    """A2: no restart of anything; what finished meanwhile is recorded; the next enqueue starts within a second."""
    supervisor = supervise("--local", "--concurrency", "4")
    stop = threading.Event()

    def load():
        while not stop.is_set():
            with suppress(psycopg.Error), psycopg.connect(migrated.url, autocommit=True) as session:
                while not stop.wait(0.02):
                    session.execute(
                        "INSERT INTO django_ray_execution (callable_path)"
                        " SELECT 'tests.tasks.started_at' FROM generate_series(1, 5)"
                    )
            stop.wait(0.1)

    loading = threading.Thread(target=load)
    loading.start()
    outlasting = [enqueue("touch_and_sleep", file.with_name(str(number)), 3) for number in range(2)]
    until(lambda: len(list(file.parent.iterdir())) == 2, what="two tasks that finish during the outage")
    migrated.stop()
    time.sleep(10)  # the outage
    migrated.start()
    back = time.monotonic()
    sql(  # before the backlog, whose end is not what is measured
        "INSERT INTO django_ray_execution (callable_path, args, priority)"
        " VALUES ('tests.tasks.touch_and_sleep', jsonb_build_array(%s::text, 0), 100)",
        str(file),
    )
    until(file.exists, 60, "the first start after the outage")
    seconds = time.monotonic() - back
    stop.set()
    loading.join()
    outlasted = [finished(read) for read in outlasting]
    until(lambda: not sql("SELECT 1 FROM django_ray_execution WHERE finished_at IS NULL LIMIT 1"), 60, "the rest")
    rows = sql("SELECT state, failures, losses FROM django_ray_execution")
    print(f"{len(rows)} tasks; the first after the outage started {seconds:.2f} s after the server's return")
    assert {(row["state"], row["failures"], row["losses"]) for row in rows} == {("SUCCESSFUL", 0, 0)}
    assert [row["attempt_number"] for row in outlasted] == [1, 1]
    assert supervisor.process.poll() is None
    assert seconds < 10
