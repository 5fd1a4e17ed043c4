"""Signals that reach a whole unit, as service managers send them, and those of a terminal."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from django.db import connection

from django_ray.models import RayTaskExecution, State
from tests import processes, tasks
from tests.chaos import faults
from tests.supervisors import NOHUP, ROOT, Listen, database_url, until

pytestmark = pytest.mark.django_db(transaction=True)


def signal_all(supervisor, number):
    """As systemd does with KillMode=control-group, and Heroku."""
    for process in [psutil.Process(supervisor.process.pid), *faults.processes(supervisor)]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.slow
def test_a_unit_that_is_told_to_end_keeps_the_grace_of_its_bodies(listen, finished, tmp_path):
    """I19: what runs ends by itself, what takes too long is released, and nothing is charged; buffers are sent."""
    supervisor = listen("--local", "--concurrency", "2", "--grace", "8")
    supervisor.wait_for("is ready", 180)
    word = tmp_path / "word"
    first = finished(processes.leave_word.enqueue(str(word))).return_value
    short = tasks.touch_and_sleep.enqueue(str(tmp_path / "short"), 3)
    long = tasks.touch_and_sleep.enqueue(str(tmp_path / "long"), 600)
    until(lambda: (tmp_path / "short").exists() and (tmp_path / "long").exists(), 120)
    assert str(first) in {(tmp_path / "short").read_text(), (tmp_path / "long").read_text()}
    signal_all(supervisor, signal.SIGTERM)
    signal_all(supervisor, signal.SIGHUP)  # SendSIGHUP=yes
    assert supervisor.wait(90) == 0, supervisor.log
    short.refresh()
    assert short.return_value == "slept"
    row = RayTaskExecution.objects.get(task_id=long.id)
    assert (row.state, row.failures, row.losses, row.errors) == (State.READY, 0, 0, [])
    assert word.read_text() == "sent"
    assert "Traceback" not in supervisor.log


@pytest.mark.slow
def test_what_dies_while_the_supervisor_stops_is_not_charged(listen, tmp_path):
    """I19."""
    supervisor = listen("--local", "--concurrency", "1", "--grace", "60")
    supervisor.wait_for("is ready", 180)
    result = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 600)
    until((tmp_path / "started").exists, 120)
    supervisor.signal()
    supervisor.wait_for("stopping")
    os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)
    assert supervisor.wait(60) == 0, supervisor.log
    row = RayTaskExecution.objects.get(task_id=result.id)
    assert (row.state, row.failures, row.losses) == (State.READY, 0, 0)


def test_a_terminal_that_is_closed_is_a_stop(listen, tmp_path):
    """I19: however often it says so."""
    supervisor = listen("--sync")
    supervisor.wait_for("is ready")
    result = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 2)
    until((tmp_path / "started").exists)
    for _ in range(3):
        supervisor.signal(signal.SIGHUP)
        time.sleep(0.1)
    assert supervisor.wait(60) == 0, supervisor.log
    result.refresh()
    assert result.return_value == "slept"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_shell_has_put_in_the_background_ends_all_the_same(number):
    """M7: a script that says `nohup django-ray-listen &` has SIGINT and SIGHUP ignored."""
    with Listen(connection, "--sync", above=[*NOHUP, sys.executable]) as supervisor:
        supervisor.wait_for("is ready")
        supervisor.signal(signal.SIGHUP)
        supervisor.signal(number)
        assert supervisor.wait(60) == 0, supervisor.log
        assert f"{number.name}: stopping." in supervisor.log


def test_nohup_is_heeded():
    """I19: who has closed the terminal on purpose said so before."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from django_ray_worker.core.signals import ending; print(*(number.name for number in ending()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["SIGTERM", "SIGINT"]


MANAGE = "from django.core.management import execute_from_command_line as run; run(['', 'django_ray_listen'])"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("command", ["from django_ray_worker.main import main; main(['--local'])", MANAGE])
def test_a_signal_while_it_imports_what_it_needs_ends_with_zero(command, number, tmp_path):
    """I19: and without a traceback."""
    slow = tmp_path / "ray.py"
    slow.write_text("from pathlib import Path; import time; Path(__file__).with_name('here').touch(); time.sleep(60)")
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(connection),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "example")]),
    }
    with subprocess.Popen(
        [sys.executable, "-c", command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as process:  # fmt: skip
        until((tmp_path / "here").exists, 60)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in output) == (0, False), output


@pytest.fixture
def short_path():
    """A folder for Ray's sockets, whose paths are long already."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_the_folder_of_a_killed_supervisor_is_removed_by_the_next(listen, short_path, tmp_path):
    """L18: with the processes that a body has left; a living one keeps its own."""
    supervisor = Listen(connection, "--local", "--concurrency", "1", RAY_TMPDIR=str(short_path))
    with supervisor:
        supervisor.wait_for("is ready", 180)
        (folder,) = faults.folders(supervisor)
        assert folder.parent == short_path
        children = tmp_path / "children"
        processes.start_children.enqueue(str(children))
        until(children.with_suffix(".started").exists, 120)
        pids = [int(pid) for pid in children.read_text().split()]
        supervisor.process.kill()
        supervisor.wait()
    living = listen("--local", "--concurrency", "1", RAY_TMPDIR=str(short_path))
    living.wait_for("is ready", 180)
    assert not folder.exists()
    assert not any(psutil.pid_exists(pid) and faults.runs(psutil.Process(pid)) for pid in pids)
    (left,) = short_path.glob("django-ray.*")
    assert {left} == faults.folders(living)
    living.signal()
    assert living.wait(90) == 0
    assert not list(short_path.glob("django-ray.*"))


def test_a_folder_whose_path_is_too_long_is_refused_in_one_sentence(listen, tmp_path):
    """L18."""
    supervisor = listen("--local", RAY_TMPDIR=str(tmp_path))
    assert supervisor.wait(60) == 78
    assert "RAY_TMPDIR is" in supervisor.log
    assert "Traceback" not in supervisor.log
