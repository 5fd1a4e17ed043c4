"""Flows while a supervisor of the released version, which knows none, is still there: nothing is lost."""

import psycopg
import pytest
from django.db import connection

from django_ray import Flow
from django_ray.models import RayTaskExecution, State
from tests.deploys import Deploy
from tests.supervisors import database_url, until

pytestmark = pytest.mark.django_db(transaction=True)

TASKS = """
from django.tasks import task

@task
def number(one):
    return one

@task
def total(numbers):
    return sum(numbers)

@task
def broken():
    raise ValueError("broken")
"""
CALLBACK = """
from django_ray import task

@task(needs="end", max_attempts=1, takes_context=True)
def told(context):
    return [one.status.value for one in context.upstreams()]

"""
ENQUEUE = """
import django
django.setup()
from deployed_tasks import broken, number, told, total
from django_ray import Flow
with Flow("beside") as flow:
    numbers = [number.enqueue(one) for one in range(3)]
    print(flow.id, total.enqueue(numbers).id, told.using(after=numbers).enqueue().id)
    bad = broken.using(max_attempts=1).enqueue()
    print(bad.id, total.enqueue([*numbers, bad]).id, told.using(after=bad).enqueue().id)
"""
POSTPONED = {"state": State.READY, "missing_since__isnull": False}


@pytest.fixture
def deploy(transactional_db, tmp_path):
    with Deploy(database_url(connection), tmp_path) as deploy:
        yield deploy


@pytest.fixture
def new(deploy):
    return deploy.version("new", TASKS + CALLBACK)


@pytest.fixture
def enqueued(new):
    """A flow of today's, and five ids of it."""
    flow, *ids = new.run("-c", ENQUEUE).split()
    return Flow.get(flow), ids


def row(task_id):
    return RayTaskExecution.objects.get(pk=task_id)


def test_it_releases_what_waits_and_gives_back_what_it_would_run_with_ids(deploy, new, enqueued, released_packages):
    """S11: its records are seen by the triggers; the downstream waits for a supervisor of today."""
    flow, (joined, told, bad, doomed, bad_told) = enqueued
    old = deploy.version("old", TASKS, packages=released_packages).supervise()
    for _ in range(3):
        old.wait_for("is not known here: The options have the unknown key 'needs'")
    for task_id in (joined, told, bad_told):
        found = until(RayTaskExecution.objects.filter(pk=task_id, **POSTPONED).first, what="given back")
        assert (found.errors, found.worker_ids, found.started_at) == ([], [], None)
    until(lambda: row(bad).state == State.FAILED, what="the end of what fails")
    assert row(doomed).exception_type == "django_ray.exceptions.UpstreamFailed"
    assert flow.progress().successful == 3
    new.supervise()
    old.signal()
    assert old.wait() == 0

    def look():
        RayTaskExecution.objects.filter(state=State.READY, due_at__isnull=False).update(due_at=None)
        return flow.progress().is_finished

    until(look, what="the end of the flow")
    assert (row(joined).result, row(told).result, row(bad_told).result) == (3, ["SUCCESSFUL"] * 3, ["FAILED"])
    assert {row(one).failures for one in (joined, told, bad_told)} == {0}
    assert (flow.progress().successful, flow.progress().failed) == (6, 2)


def test_alone_it_fails_what_waits_when_the_grace_is_over_and_a_retry_mends_that(
    deploy, new, enqueued, released_packages
):
    """S11: it never runs a body with ids, and no result is lost."""
    _, (joined, told, *_) = enqueued
    old = deploy.version("old", TASKS, packages=released_packages, grace=1).supervise()
    until(lambda: {row(joined).state, row(told).state} == {State.FAILED}, what="the end of the grace")
    assert "'needs'" in row(joined).error_message
    old.signal()
    assert old.wait() == 0
    new.supervise()
    assert RayTaskExecution.objects.filter(pk__in=[joined, told]).retry() == 2
    until(lambda: row(joined).result == 3 and row(told).result == ["SUCCESSFUL"] * 3, what="the end of both")


def test_it_prunes_no_result_that_somebody_waits_for(new, released_packages):
    """S9: its statement does not ask."""
    from tests.tasks import add

    first, other = add.enqueue(1, 2), add.enqueue(3, 4)
    second = add.enqueue(first, other)
    RayTaskExecution.objects.filter(pk=first.id).update(
        state="SUCCESSFUL", result=3, finished_at="2020-01-01T00:00:00Z", due_at=None
    )
    statement = (released_packages / "django_ray_worker" / "sql" / "prune.sql").read_text()
    parameters = {"backend": "default", "age": 1, "limit": 100}
    with psycopg.connect(database_url(connection), autocommit=True, application_name="django-ray-listen") as released:
        assert released.execute(statement, parameters).rowcount == 0
        second.cancel()
        assert released.execute(statement, parameters).rowcount == 1
    assert not RayTaskExecution.objects.filter(pk=first.id).exists()
