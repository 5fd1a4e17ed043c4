"""--reload: an edit is picked up, and costs nothing that runs."""

import os
import signal
import sys
import time

import psutil
import pytest
from django.db import connection

from django_ray.models import RayTaskExecution, State
from tests.chaos import faults
from tests.supervisors import ROOT, Process, database_url, until

pytestmark = pytest.mark.django_db(transaction=True)

CODE = """
import os
import subprocess
import time
from pathlib import Path
from django.tasks import task

@task
def version():
    return {version}

@task
def process():
    return os.getpid()

@task
def leave_running():
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

@task
def touch_and_wait(path):
    Path(path).touch()
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    return {version}
"""

MANAGE = """
import sys
from django.core.management import execute_from_command_line
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""
SETTINGS = """
from tests.settings import *
TASKS["default"]["OPTIONS"]["CONCURRENCY"] = {}
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a project, and what edits its code."""

    def write(code):
        (tmp_path / "edited_tasks.py").write_text(code)

    (tmp_path / "edited_settings.py").write_text("from tests.settings import *")
    write(CODE.format(version=1))
    return write


@pytest.fixture
def supervise(listen, tmp_path):
    def _supervise(*arguments, **options):
        return listen("--settings", "edited_settings", "--pythonpath", str(tmp_path), "--reload", *arguments, **options)

    return _supervise


@pytest.fixture
def run(insert):
    """Enqueue without importing: this process is not the project."""

    def enqueue(name, args="[]"):
        task_id = insert(callable_path=f"edited_tasks.{name}", args=args)

        def end():
            row = until(RayTaskExecution.objects.filter(pk=task_id, finished_at__isnull=False).first, 60, "the end")
            assert (row.state, len(row.worker_ids)) == (State.SUCCESSFUL, 1)
            return row.result

        end.row = lambda: RayTaskExecution.objects.get(pk=task_id)
        return end

    return enqueue


def until_it_runs(version, run):
    """Run tasks until one ran with this version; the supervisor before may take one until it gets its signal."""
    until(lambda: run("version")() == version, 60, f"a task with version {version}")


def test_an_edit_is_picked_up_and_what_runs_is_drained(supervise, project, run, tmp_path):
    supervisor = supervise("--sync")
    supervisor.wait_for("is ready")
    assert run("version")() == 1
    started = tmp_path / "started"
    running = run("touch_and_wait", f'["{started}"]')
    until(started.exists)
    project(CODE.format(version=2))
    supervisor.wait_for("edited_tasks.py changed: draining")
    supervisor.wait_for("1 task runs and has")
    queued = run("version")
    started.with_name("started.go").touch()
    assert running() == 1
    assert queued() == 2
    supervisor.signal()
    assert supervisor.wait() == 0


@pytest.mark.slow
def test_of_many_edits_in_a_second_the_last_one_counts(supervise, project, run):
    supervisor = supervise("--sync")
    supervisor.wait_for("is ready")
    for version in range(2, 8):
        project(CODE.format(version=version))
        supervisor.wait_for("edited_tasks.py changed: draining")
    until_it_runs(7, run)
    supervisor.signal()
    assert supervisor.wait() == 0
    assert "Traceback" not in supervisor.log


@pytest.mark.parametrize(
    "command", [["manage.py"], pytest.param(["-m", "django"], marks=pytest.mark.slow)], ids=" ".join
)
def test_the_management_command_is_the_same(project, run, tmp_path, command):
    (tmp_path / "manage.py").write_text(MANAGE)
    environment = {
        "DATABASE_URL": database_url(connection),
        "DJANGO_SETTINGS_MODULE": "edited_settings",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}{os.pathsep}{ROOT / 'example'}",
    }
    arguments = [*command, "django_ray_listen", "--sync", "--reload", "--log-level", "debug"]
    with Process(*arguments, above=["env", "-C", str(tmp_path), sys.executable], **environment) as supervisor:
        supervisor.wait_for("The next supervisor is prepared")
        project(CODE.format(version=2))
        supervisor.wait_for("is ready")
        assert run("version")() == 2
        assert "reload.successor" in " ".join(psutil.Process(run("process")()).cmdline())
        supervisor.signal()
        assert supervisor.wait() == 0, supervisor.log


# With a process group of its own, as a terminal gives it: it sends Ctrl-C to all of them.
ALONE = ["setsid", sys.executable]


@pytest.mark.slow
def test_with_a_ray_of_its_own_ray_stays_and_old_code_goes(supervise, project, run, tmp_path):
    supervisor = supervise("--local", "--concurrency", "2", "--log-level", "debug", "--grace", "100", above=ALONE)
    supervisor.wait_for("is ready", 180)
    heads = faults.gcs_servers(supervisor)

    def edit(version):
        """Return the seconds from the saved file to the end of the next task that runs with it."""
        supervisor.wait_for("The next supervisor is prepared")
        assert run("version")() == version - 1
        old = psutil.Process(run("process")())
        began = time.monotonic()
        project(CODE.format(version=version))
        until_it_runs(version, run)
        seconds = time.monotonic() - began
        until(lambda: not faults.runs(old), 30, "an end of the process with the code before")
        return seconds

    left = psutil.Process(run("leave_running")())
    seconds = [edit(2), edit(3)]
    assert not faults.runs(left)

    # What runs is drained, through two edits; and it holds up nobody.
    started = tmp_path / "started"
    running = run("touch_and_wait", f'["{started}"]')
    until(started.exists)
    seconds += _edit_twice(supervisor, project, run)
    started.with_name("started.go").touch()
    assert running() == 3
    print("from the saved file to the next task, s:", *(f"{each:.2f}" for each in seconds))
    assert faults.gcs_servers(supervisor) == heads

    # Ctrl-C once ends all but what runs, twice that as well.
    again = run("touch_and_wait", f'["{tmp_path / "again"}"]')
    until((tmp_path / "again").exists)
    processes, folders = faults.processes(supervisor), faults.folders(supervisor)
    os.killpg(supervisor.process.pid, signal.SIGINT)
    supervisor.wait_for("1 task runs and has 100 s")
    os.killpg(supervisor.process.pid, signal.SIGINT)
    assert supervisor.wait(60) == 0, supervisor.log
    assert again.row().state == State.READY
    assert not [process for process in processes if faults.runs(process)]
    assert folders
    assert not any(folder.exists() for folder in folders)
    assert "Traceback" not in supervisor.log


def _edit_twice(supervisor, project, run):
    for version in (4, 5):
        supervisor.wait_for("The next supervisor is prepared")
        began = time.monotonic()
        project(CODE.format(version=version))
        supervisor.wait_for("edited_tasks.py changed: draining")
        until_it_runs(version, run)
        yield time.monotonic() - began


@pytest.mark.slow
def test_a_ray_that_is_gone_or_does_not_fit_is_replaced_and_nobody_is_left_behind(supervise, project, run, tmp_path):
    settings = tmp_path / "edited_settings.py"
    settings.write_text(SETTINGS.format(1))
    supervisor = supervise("--log-level", "debug")
    assert "1 slot" in supervisor.wait_for("is ready", 180)
    supervisor.wait_for("The next supervisor is prepared")
    (head,) = faults.gcs_servers(supervisor)
    head.parent().kill()
    supervisor.wait_for_all("Ray is back", "The next supervisor is prepared")  # either may be the first
    assert run("version")() == 1
    assert len(faults.gcs_servers(supervisor)) == 1
    settings.write_text(SETTINGS.format(2))
    assert "2 slots" in supervisor.wait_for("is ready", 180)
    supervisor.wait_for("The next supervisor is prepared")
    assert run("version")() == 1
    assert len(faults.gcs_servers(supervisor)) == 1
    # What was prepared for this Ray is no driver of another one.
    settings.write_text(SETTINGS.format(2) + "TASKS['default']['OPTIONS']['RAY_ADDRESS'] = '127.0.0.1:1'")
    supervisor.wait_for("cannot be reached at 127.0.0.1:1")
    processes = faults.processes(supervisor)
    supervisor.process.kill()
    supervisor.wait()
    until(lambda: not [process for process in processes if faults.runs(process)], 60, "an end of all processes")


@pytest.mark.slow
def test_a_signal_while_ray_starts_ends_all(supervise, project):
    supervisor = supervise("--local", "--concurrency", "1")
    until(lambda: faults.gcs_servers(supervisor), 60, "a head")
    processes = faults.processes(supervisor)
    supervisor.signal()
    assert supervisor.wait(60) == 0, supervisor.log
    until(lambda: not [process for process in processes if faults.runs(process)], 60, "an end of all processes")
    assert "Traceback" not in supervisor.log


def test_code_that_cannot_be_imported_is_waited_out(supervise, project, run, tmp_path):
    supervisor = supervise("--sync")
    supervisor.wait_for("is ready")
    settings = tmp_path / "edited_settings.py"
    settings.write_text("from tests.settings import *\nthis is no Python")
    supervisor.wait_for("SyntaxError")
    supervisor.wait_for("it starts again when code changes")
    queued = run("version")
    settings.write_text("from tests.settings import *\n")
    assert queued() == 1


def test_it_can_be_ended_while_it_waits_for_a_change(supervise, project, tmp_path):
    supervisor = supervise("--sync")
    supervisor.wait_for("is ready")
    (tmp_path / "edited_settings.py").write_text("1 / 0")
    supervisor.wait_for("it starts again when code changes")
    supervisor.signal()
    assert supervisor.wait() == 1


def test_what_fails_before_any_edit_ends_it(supervise, project, tmp_path):
    """As without --reload: who started it may start it again, as Docker does while the tables are not there yet."""
    (tmp_path / "edited_settings.py").write_text("from tests.settings import *\nTASKS = {}")
    supervisor = supervise("--sync")
    assert supervisor.wait() == 78


def test_it_contradicts_burst(supervise, project):
    supervisor = supervise("--burst")
    assert supervisor.wait() == 2
    assert "--reload and --burst contradict each other" in supervisor.log
