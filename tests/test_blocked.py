"""The state WAITING: something else than time has to make it READY."""

import io
import json

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction
from django.db.utils import IntegrityError, ProgrammingError
from django.test import RequestFactory
from django.urls import reverse

import django_ray.views
from django_ray.models import RayTaskExecution, State
from django_ray.status import status
from django_ray.testing import run_tasks
from django_ray_sql import load
from tests import tasks

pytestmark = pytest.mark.django_db


@pytest.fixture
def blocked():
    """An execution in that state."""
    result = tasks.add.enqueue(3, 4)
    RayTaskExecution.objects.filter(pk=result.id).update(state=State.WAITING)
    result.refresh()
    return result


def test_it_is_ready_to_django_and_nobody_runs_it(blocked):
    assert (blocked.status, blocked.is_finished) == ("READY", False)
    assert run_tasks() == []
    assert RayTaskExecution.objects.get().state == State.WAITING


def test_an_update_to_ready_has_it_run(blocked):
    RayTaskExecution.objects.update(state=State.READY)
    (result,) = run_tasks()
    assert result.return_value == 7


def test_it_is_cancelled_at_once_as_one_and_as_many(blocked):
    assert blocked.cancel()
    blocked.refresh()
    assert (blocked.status, blocked.errors[0].exception_class_path) == (
        "FAILED", "django_ray.exceptions.TaskCancelled",
    )  # fmt: skip
    assert not blocked.cancel()
    RayTaskExecution.objects.create(callable_path="a.task", state=State.WAITING)
    output = io.StringIO()
    call_command("django_ray_cancel", "--state", "WAITING", stdout=output)
    assert output.getvalue() == "Cancelled 1 execution.\n"
    assert set(RayTaskExecution.objects.values_list("state", flat=True)) == {State.CANCELLED}


def test_prune_and_retry_leave_it(blocked):
    assert (RayTaskExecution.objects.retry(), RayTaskExecution.objects.prune()) == (0, 0)
    assert RayTaskExecution.objects.get().state == State.WAITING


def test_it_is_told_why(blocked):
    assert "is blocked: something else has to happen first" in blocked._why_not(1)


@pytest.mark.parametrize(
    "columns", [{"due_at": "2030-01-01T00:00Z"}, {"finished_at": "2020-01-01T00:00Z"}, {"result": 7}]
)
def test_it_is_neither_due_nor_finished(blocked, columns):
    with pytest.raises(IntegrityError), transaction.atomic():
        RayTaskExecution.objects.update(**columns)


def test_it_is_counted_by_queue_and_not_as_claimable():
    for queue_name, number in (("default", 2), ("elsewhere", 1)):
        for _ in range(number):
            RayTaskExecution.objects.create(callable_path="a.task", state=State.WAITING, queue_name=queue_name)
    found = {queue.name: (queue.waiting, queue.blocked, queue.oldest) for queue in status().queues}
    assert found == {"default": (0, 2, None), "elsewhere": (0, 1, None), "other": (0, 0, None)}
    output = io.StringIO()
    call_command("django_ray_status", "--json", stdout=output)
    assert [queue["blocked"] for queue in json.loads(output.getvalue())["queues"]] == [2, 1, 0]
    page = django_ray.views.metrics(RequestFactory().get("/")).text
    assert 'django_ray_queue_blocked{backend="default",queue="elsewhere"} 1' in page


def test_the_admin_calls_it_blocked(blocked, client):
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(reverse("admin:django_ray_raytaskexecution_changelist"), {"state": "WAITING"}).text
    assert '<span class="dr-state dr-waiting">Blocked</span>' in page
    page = client.get(reverse("admin:django_ray_raytaskexecution_change", args=[blocked.id])).text
    assert "Blocked" in page
    assert "Cancel" in page
    assert client.get(reverse("admin:django_ray_live")).text.count(">Blocked<") == 1


def test_its_count_is_by_an_index(blocked):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN SELECT FROM django_ray_execution WHERE backend = 'default' AND state = 'WAITING'")
        assert "django_ray_waiting" in str(cursor.fetchall())


def test_the_way_back_is_refused_while_there_is_one(blocked):
    with (
        pytest.raises(ProgrammingError, match="in state WAITING"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(load("0013_waiting").down)
