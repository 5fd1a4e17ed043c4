"""A head that stands still or dies at the wrong moment: nothing waits for it without end."""

import signal
from contextlib import contextmanager, suppress

import psutil
import pytest
from django.db import connection

from django_ray.models import RayTaskExecution, RayWorker, State
from tests import tasks
from tests.chaos import faults
from tests.supervisors import Listen, until

pytestmark = pytest.mark.django_db(transaction=True)
# A supervisor that a test starts for itself serves the backend "any": the shared one would take its tasks.


def head(supervisor):
    """Return the head of the Ray that it has or starts, as soon as others have been started that talk to it."""
    (server,) = until(
        lambda: len(faults.processes(supervisor)) > 1 and faults.gcs_servers(supervisor),
        120, "a gcs_server and another process",
    )  # fmt: skip
    return server


@contextmanager
def freezing(supervisor):
    server = head(supervisor)
    server.send_signal(signal.SIGSTOP)
    yield
    with suppress(psutil.NoSuchProcess):
        server.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def ray_listen(django_db_setup, django_db_blocker):
    """A supervisor that pulses every second."""
    with (
        django_db_blocker.unblock(),
        Listen(
            connection, "--local", "--concurrency", "2", DJANGO_SETTINGS_MODULE="tests.settings_lively"
        ) as supervisor,
    ):
        supervisor.wait_for("is ready", 180)
        yield supervisor


@pytest.fixture
def frozen(on_ray):
    """The same, with a head that stands still during a test."""
    with freezing(on_ray):
        yield on_ray


def pulses():
    return RayWorker.objects.latest("pk").pulse_at


def test_a_frozen_head_stops_neither_the_pulse_nor_what_runs_nor_the_next(frozen, finished, tmp_path):
    """L13: also what asks for a shape of options that was not seen before, or for more than there is."""
    running = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 2)
    until((tmp_path / "started").exists)
    impossible = tasks.add.using(num_gpus=1).enqueue(1, 2)
    frozen.wait_for("The head of the Ray cluster does not answer", 60)
    before = pulses()
    until(lambda: pulses() > before, 20, "a pulse")
    assert finished(tasks.add.using(num_cpus=0.37).enqueue(40, 2)).return_value == 42
    assert finished(tasks.add.using(timeout=30).enqueue("x" * 200_000, "y")).return_value == "x" * 200_000 + "y"
    assert finished(running).return_value == "slept"
    assert impossible.cancel()
    finished(impossible)


@pytest.mark.slow
def test_a_task_is_cancelled_all_the_same(frozen, finished, tmp_path):
    """L13."""
    running = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 600)
    until((tmp_path / "started").exists)
    running.cancel()
    finished(running)
    assert RayTaskExecution.objects.get(task_id=running.id).state == State.CANCELLED


@pytest.mark.slow
def test_sigterm_with_a_frozen_head_ends_with_zero_and_leaves_nothing(listen, finished, tmp_path):
    """L13, E1: within the grace and the time to end Ray."""
    supervisor = listen("--backend", "any", "--local", "--concurrency", "1", "--grace", "1")
    supervisor.wait_for("is ready", 180)
    running = tasks.touch_and_sleep.using(backend="any").enqueue(str(tmp_path / "started"), 600)
    until((tmp_path / "started").exists)
    processes, folders = faults.processes(supervisor), faults.folders(supervisor)
    with freezing(supervisor):
        supervisor.signal()
        assert supervisor.wait(60) == 0, supervisor.log
    row = RayTaskExecution.objects.get(task_id=running.id)
    assert (row.state, row.failures, row.losses) == (State.READY, 0, 0)
    assert not [process for process in processes if faults.runs(process)]
    assert folders
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
def test_a_head_that_dies_while_ray_starts_is_noticed_and_leaves_nothing(listen, finished):
    """L17: it is started again, in the same process as far as others see it."""
    supervisor = listen("--backend", "any", "--local", "--concurrency", "1")
    head(supervisor).kill()
    supervisor.wait_for("begins anew", 60)
    supervisor.wait_for("is ready", 240)
    assert finished(tasks.add.using(backend="any").enqueue(1, 2)).return_value == 3
    assert len(faults.gcs_servers(supervisor)) == 1
    assert len(faults.folders(supervisor)) == 1


def test_sigterm_while_ray_waits_for_a_dead_head_ends_with_zero_and_leaves_nothing(listen):
    """L17, E1."""
    supervisor = listen("--backend", "any", "--local", "--concurrency", "1")
    server = head(supervisor)
    server.send_signal(signal.SIGSTOP)
    before = faults.processes(supervisor)
    supervisor.signal()
    assert supervisor.wait(60) == 0, supervisor.log
    until(lambda: not [process for process in before if faults.runs(process)], 20, "an end of its processes")
    assert "Traceback" not in supervisor.log


@pytest.mark.slow
def test_a_start_that_fails_leaves_no_process(listen, finished):
    """L17: a raylet that dies at once; Ray itself leaves the others."""
    supervisor = listen("--backend", "any", "--local", "--concurrency", "1")
    until(lambda: faults.raylets(supervisor), 120, "a raylet")
    failed = faults.processes(supervisor)
    faults.kill_raylet(supervisor)
    supervisor.wait_for("Again in", 120)
    until(lambda: not [process for process in failed if faults.runs(process)], 20, "an end of its processes")
    supervisor.wait_for("is ready", 240)
    assert finished(tasks.add.using(backend="any").enqueue(1, 2)).return_value == 3
