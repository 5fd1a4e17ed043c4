"""--reload: an edit is picked up, and costs nothing that runs."""

import pytest

from django_ray.models import RayTaskExecution, State
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)

CODE = """
import time
from pathlib import Path
from django.tasks import task

@task
def version():
    return {version}

@task
def touch_and_wait(path):
    Path(path).touch()
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    return {version}
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
    def _supervise(*arguments):
        return listen("--settings", "edited_settings", "--pythonpath", str(tmp_path), "--reload", *arguments)

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

        return end

    return enqueue


@pytest.mark.parametrize(
    "mode", [["--sync"], pytest.param(["--local", "--concurrency", "1"], marks=pytest.mark.slow)], ids=" ".join
)
def test_an_edit_is_picked_up_and_what_runs_is_drained(supervise, project, run, tmp_path, mode):
    supervisor = supervise(*mode)
    supervisor.wait_for("is ready")
    assert run("version")() == 1
    started = tmp_path / "started"
    running = run("touch_and_wait", f'["{started}"]')
    until(started.exists)
    project(CODE.format(version=2))
    supervisor.wait_for("edited_tasks.py changed: draining")
    queued = run("version")
    started.with_name("started.go").touch()
    assert running() == 1
    assert queued() == 2
    supervisor.signal()
    assert supervisor.wait() == 0


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
