"""Two versions of a project over one database, as while a deploy goes on: nothing fails, and nothing is lost."""

import os
import subprocess
import sys

import pytest
from django.db import connection

from django_ray.models import RayTaskExecution, State
from tests.supervisors import ROOT, database_url, until

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = """
from copy import deepcopy
from tests.settings import *
TASKS = deepcopy(TASKS)
TASKS["default"]["OPTIONS"]["IMPORT_GRACE"] = {grace}
"""
OLD = """
from django.tasks import task

@task
def greet(name):
    return f"Hello, {name}, from the old code."

@task
def retired():
    return "done by the old code"
"""
NEW = """
from django.tasks import task

@task
def greet(name, greeting="Hello"):
    return f"{greeting}, {name}, from the new code."

@task
def added():
    return "done by the new code"

@task
def promoted():
    return "was a plain function"
"""
PROMOTED = """
def promoted():
    return "is a plain function"
"""


class Version:
    """One version of the project: its web processes and its supervisors."""

    def __init__(self, folder, code, listen, grace=600):
        folder.mkdir()
        self.folder = folder
        (folder / "deployed_settings.py").write_text(SETTINGS.format(grace=grace))
        (folder / "deployed_tasks.py").write_text(code)
        self._listen = listen

    def enqueue(self, name, *args):
        """Enqueue in a web process of this version; return the id."""
        code = (
            f"import django; django.setup(); import deployed_tasks;print(deployed_tasks.{name}.enqueue(*{args!r}).id)"
        )
        environment = {
            **os.environ,
            "DATABASE_URL": database_url(connection),
            "DJANGO_SETTINGS_MODULE": "deployed_settings",
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT), str(ROOT / "example")]),
        }
        done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
        return done.stdout.strip()

    def supervise(self, *arguments):
        supervisor = self._listen("--settings", "deployed_settings", "--pythonpath", str(self.folder), *arguments)
        supervisor.wait_for("is ready")
        return supervisor


@pytest.fixture
def old(tmp_path, listen):
    return Version(tmp_path / "old", OLD + PROMOTED, listen)


@pytest.fixture
def new(tmp_path, listen):
    return Version(tmp_path / "new", NEW, listen)


def result_of(task_id):
    row = until(lambda: RayTaskExecution.objects.filter(pk=task_id, finished_at__isnull=False).first(), 60, "the end")
    assert (row.state, row.failures, row.errors, row.missing_since) == (State.SUCCESSFUL, 0, [], None)
    assert len(row.worker_ids) == 1
    return row.result


def test_the_web_processes_come_first(old, new):
    """A task that only the new code knows waits for a supervisor with the new code."""
    before = old.supervise("--sync")
    waiting = {name: new.enqueue(name) for name in ("added", "promoted")}
    for task_id in waiting.values():
        until(RayTaskExecution.objects.filter(pk=task_id, missing_since__isnull=False).exists)
    row = RayTaskExecution.objects.get(pk=waiting["added"])
    assert row.missing_since
    assert (row.errors, row.worker_ids, row.started_at) == ([], [], None)
    both_know = new.enqueue("greet", "Ada")
    assert result_of(both_know) == "Hello, Ada, from the old code."
    new.supervise("--sync")
    before.signal()
    assert result_of(waiting["added"]) == "done by the new code"
    assert result_of(waiting["promoted"]) == "was a plain function"
    assert before.wait() == 0


def test_the_supervisors_come_first(old, new):
    """A task that only the old code knows waits for a supervisor with the old code, which goes on for a while."""
    after = new.supervise("--sync")
    waiting = old.enqueue("retired")
    after.wait_for(f"deployed_tasks.retired {waiting} is not known here")
    both_know = old.enqueue("greet", "Ada")
    assert result_of(both_know) == "Hello, Ada, from the new code."
    old.supervise("--sync")
    assert result_of(waiting) == "done by the old code"


def test_what_no_code_knows_fails_when_the_grace_is_over(tmp_path, listen, old):
    impatient = Version(tmp_path / "impatient", NEW, listen, grace=1)
    supervisor = impatient.supervise("--sync")
    task_id = old.enqueue("retired")
    supervisor.wait_for("is not known here")
    supervisor.wait_for(f"{task_id} failed")
    row = RayTaskExecution.objects.get(pk=task_id)
    assert (row.state, row.exception_type, row.failures) == (State.FAILED, "builtins.ImportError", 1)
    assert "retired" in row.error_message


def test_an_option_that_only_newer_code_knows_waits_as_well(old, insert):
    supervisor = old.supervise("--sync")
    task_id = insert(callable_path="deployed_tasks.greet", args='["Ada"]', options='{"from_the_future": 1}')
    supervisor.wait_for(f"{task_id} is not known here: The options have the unknown key 'from_the_future'")
    until(RayTaskExecution.objects.filter(pk=task_id, missing_since__isnull=False).exists)
