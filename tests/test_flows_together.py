"""Flows together with the other things that an enqueue can say: what docs/flows.md tells of it."""

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.tasks import task, task_backends

from django_ray import Flow, task_options, value_of
from django_ray.models import RayEdge, RayTaskExecution
from django_ray.testing import run_tasks
from tests.tasks import add, double, fail, fan_out, look_back, total

pytestmark = pytest.mark.django_db(transaction=True)


@task(takes_context=True)
@task_options(atomic=True)
def plan(context, numbers):
    return total.enqueue([double.enqueue(number) for number in numbers]).id


@task(takes_context=True)
def upstreams_in_order(context, first, second=0):
    return [one.args[0] for one in context.upstreams()]


def row(result):
    return RayTaskExecution.objects.get(pk=result.id)


def test_a_gate_for_each_value_and_a_key_are_made_of_the_ids_of_results():
    first = add.enqueue(1, 2)
    second = add.using(limit=1, limit_by="a", unique=True, unique_by="a").enqueue(first, 1)
    twin = add.using(unique=True, unique_by="a").enqueue(first, 2)
    assert (twin.is_duplicate, twin.id) == (True, second.id)
    assert row(second).gate_rule["gate"].endswith(f":{first.id}")
    run_tasks()
    second.refresh()
    assert second.return_value == 4


def test_the_time_of_what_expires_passes_while_it_waits_for_others():
    first = add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    second = add.using(expires=timedelta(microseconds=1)).enqueue(first, 1)
    third = look_back.using(needs="end").enqueue(second)
    with connection.cursor() as cursor:
        cursor.execute("SELECT django_ray_expire('default')")
    assert (row(second).state, row(second).exception_type) == ("FAILED", "django_ray.exceptions.TaskExpired")
    run_tasks()
    third.refresh()
    assert third.return_value["upstreams"] == [["add", "FAILED", ["django_ray.exceptions.TaskExpired"]]]


def test_what_an_atomic_body_enqueues_waits_for_nothing_that_still_runs():
    planned = plan.enqueue([1, 2, 3])
    assert len(run_tasks()) == 5
    planned.refresh()
    assert task_backends["default"].get_result(planned.return_value).return_value == 12


def test_a_copy_waits_for_nothing_and_reads_the_results_that_are_there():
    with Flow() as flow:
        first = add.enqueue(1, 2)
        second = add.enqueue(first, 10)
    rows = RayTaskExecution.objects.filter(pk=second.id)
    assert rows.enqueue_again() == 1
    copy = RayTaskExecution.objects.exclude(pk__in=[first.id, second.id]).get()
    assert (copy.state, copy.flow_id, copy.args) == ("READY", None, [first.id, 10])
    RayTaskExecution.objects.filter(pk=first.id).update(run_after=None, due_at=None, priority=-100)
    run_tasks()
    copy.refresh_from_db()
    assert (copy.state, copy.exception_type) == ("FAILED", "django_ray.exceptions.UpstreamFailed")
    assert copy.error_message == f"The execution {first.id}, whose result is an argument, is READY."
    assert rows.enqueue_again() == 1
    (late,) = run_tasks()
    assert late.return_value == 13
    assert flow.progress().total == 2


def test_an_upstream_may_be_of_another_backend(settings):
    backend = settings.TASKS["default"]
    settings.TASKS = {"default": backend, "second": backend}
    first = add.using(backend="second").enqueue(1, 2)
    second = add.enqueue(first, 10)
    assert run_tasks() == []
    assert [result.id for result in run_tasks(backend="second")] == [first.id]
    assert [result.return_value for result in run_tasks()] == [13]
    assert second


def test_a_flow_in_a_flow_is_one_of_its_own():
    with Flow("outer") as outer:
        first = add.enqueue(1, 2)
        with Flow("inner") as inner:
            add.enqueue(first, 1)
            fan_out.enqueue([1, 2])
        add.enqueue(1, 1)
    run_tasks()
    assert (outer.progress().successful, inner.progress().successful) == (2, 4)


def test_the_upstreams_come_in_the_order_in_which_they_were_passed():
    results = [add.enqueue(number, 1) for number in range(4)]
    seen = upstreams_in_order.using(after=[results[0], results[3]]).enqueue(results[2], second=[results[1], results[2]])
    run_tasks()
    seen.refresh()
    assert seen.return_value == [2, 1, 0, 3]


def test_an_attempt_that_is_tried_again_is_no_end():
    first = fail.using(max_attempts=2, backoff={"base": 60}).enqueue("once")
    second = add.using(after=first).enqueue(1, 1)
    run_tasks()
    assert (row(first).state, row(second).state) == ("READY", "WAITING")
    run_tasks(ahead=timedelta(days=1))
    assert (row(first).state, row(second).state, row(second).attempt_number) == ("FAILED", "FAILED", 0)


def test_a_type_checker_is_all_that_value_of_is_for():
    first = add.enqueue(1, 2)
    pages = [first]
    assert value_of(first) is first
    assert value_of(pages) is pages
    total.enqueue(value_of(pages))
    assert RayEdge.objects.count() == 1


def test_a_coroutine_enqueues_into_a_flow():
    async def enqueue():
        async with Flow("later") as flow:
            first = await add.aenqueue(1, 2)
            await add.aenqueue(first, 1)
        await add.aenqueue(1, 1)
        assert (await flow.aprogress()).total == 2
        assert await flow.acancel() == 2
        assert (await flow.await_end(timeout=1)).cancelled == 2

    async_to_sync(enqueue)()
