"""Two versions of a project over one database, as while a deploy goes on: nothing fails, and nothing is lost."""

import re

import pytest
from django.db import connection

from django_ray.models import RayTaskExecution, State
from django_ray.status import status
from tests.deploys import RELEASE, Deploy
from tests.supervisors import database_url, until

pytestmark = pytest.mark.django_db(transaction=True)

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


@pytest.fixture
def deploy(transactional_db, tmp_path):
    with Deploy(database_url(connection), tmp_path) as deploy:
        yield deploy


@pytest.fixture(params=["today", RELEASE])
def old(deploy, request, released_packages):
    """The code before, on today's django-ray and on the released one."""
    return deploy.version("old", OLD + PROMOTED, packages=None if request.param == "today" else released_packages)


@pytest.fixture
def new(deploy):
    return deploy.version("new", NEW)


def result_of(task_id):
    execution = RayTaskExecution.objects.filter(pk=task_id)

    def look():
        # What was put off is made due again and again: which of two supervisors takes it then is anybody's guess.
        execution.filter(state=State.READY, due_at__isnull=False).update(due_at=None)
        return execution.filter(finished_at__isnull=False).first()

    row = until(look, 60, "the end")
    assert (row.state, row.failures, row.errors, row.missing_since) == (State.SUCCESSFUL, 0, [], None)
    assert len(row.worker_ids) == 1
    return row.result


def test_what_the_old_code_does_not_know_is_counted(deploy, new, admin_client):
    deploy.version("old", OLD).supervise()
    new.enqueue("added")
    until(lambda: any(queue.postponed for queue in status().queues), what="the count")
    page = admin_client.get("/admin/django_ray/rayqueue/").content.decode()
    assert re.search(r"\d+ postponed", page)


def test_the_web_processes_come_first(old, new, admin_client):
    """A task that only the new code knows waits for a supervisor with the new code."""
    before = old.supervise()
    waiting = {name: new.enqueue(name) for name in ("added", "promoted")}
    for task_id in waiting.values():
        row = until(RayTaskExecution.objects.filter(pk=task_id, state=State.READY, missing_since__isnull=False).first)
        assert (row.errors, row.worker_ids, row.started_at) == ([], [], None)
    page = admin_client.get(f"/admin/django_ray/raytaskexecution/{waiting['added']}/change/").content.decode()
    assert "If its code is new, restart the supervisors, or use --reload." in page
    both_know = new.enqueue("greet", "Ada")
    assert result_of(both_know) == "Hello, Ada, from the old code."
    new.supervise()
    before.signal()
    assert result_of(waiting["added"]) == "done by the new code"
    assert result_of(waiting["promoted"]) == "was a plain function"
    assert before.wait() == 0


def test_the_supervisors_come_first(old, new):
    """A task that only the old code knows waits for a supervisor with the old code, which goes on for a while."""
    after = new.supervise()
    waiting = old.enqueue("retired")
    line = after.wait_for(f"deployed_tasks.retired {waiting} is not known here")
    assert "If its code is new, restart this supervisor, or use --reload" in line
    both_know = old.enqueue("greet", "Ada")
    assert result_of(both_know) == "Hello, Ada, from the new code."
    old.supervise()
    assert result_of(waiting) == "done by the old code"


def test_what_no_code_knows_fails_when_the_grace_is_over(deploy, old):
    impatient = deploy.version("impatient", NEW, grace=1)
    supervisor = impatient.supervise()
    task_id = old.enqueue("retired")
    supervisor.wait_for("is not known here")
    supervisor.wait_for(f"{task_id} failed")
    row = until(RayTaskExecution.objects.filter(pk=task_id, state=State.FAILED).first)
    assert (row.exception_type, row.failures) == ("builtins.ImportError", 1)
    assert "retired" in row.error_message


def test_an_option_that_only_newer_code_knows_waits_as_well(old, insert):
    supervisor = old.supervise()
    task_id = insert(callable_path="deployed_tasks.greet", args='["Ada"]', options='{"from_the_future": 1}')
    supervisor.wait_for(f"{task_id} is not known here: The options have the unknown key 'from_the_future'")
    until(RayTaskExecution.objects.filter(pk=task_id, missing_since__isnull=False).exists)
