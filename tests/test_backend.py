import math
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ray.backends import RayTaskBackend
from django_ray.models import RayTaskExecution
from tests import tasks

pytestmark = pytest.mark.django_db


def test_enqueue_is_one_insert_in_the_callers_transaction():
    with CaptureQueriesContext(connection) as queries:
        result = tasks.add.enqueue(1, b=2)
    assert [query["sql"].split()[0] for query in queries] == ["INSERT"]
    assert result.status == TaskResultStatus.READY
    assert (result.args, result.kwargs) == ([1], {"b": 2})
    assert result.enqueued_at is not None


def test_get_result_is_one_select_and_equals_what_enqueue_returned():
    result = tasks.add.enqueue(1, 2)
    with CaptureQueriesContext(connection) as queries:
        again = tasks.add.get_result(result.id)
    assert len(queries) == 1
    assert again == result


@pytest.mark.django_db(transaction=True)
async def test_async_callers_have_the_same():
    result = await tasks.add.aenqueue(1, 2)
    assert await tasks.add.aget_result(result.id) == result
    await sync_to_async(connections.close_all)()  # of the thread that Django's async ORM uses


def test_many_are_enqueued_in_order_with_a_statement_per_thousand():
    calls = [(tasks.add.using(priority=number % 3), (number,), {"b": 0}) for number in range(2500)]
    with CaptureQueriesContext(connection) as queries:
        results = task_backends["default"].enqueue_many(calls)
    inserts = [query["sql"] for query in queries if query["sql"].strip().startswith("INSERT")]
    assert len(inserts) == 3
    assert [result.args for result in results] == [[number] for number in range(2500)]
    assert [result.id for result in results] == sorted(result.id for result in results)
    assert tasks.add.get_result(results[7].id) == results[7]


def test_one_bad_call_among_many_enqueues_none():
    backend = task_backends["default"]
    with pytest.raises(TypeError, match="pass a list"):
        backend.enqueue_many([(tasks.add, (1, 2), {}), (tasks.add, ({1}, 2), {})])
    assert backend.enqueue_many([]) == []
    assert not RayTaskExecution.objects.exists()


def test_a_rolled_back_enqueue_never_was():
    class Oops(Exception): ...

    with pytest.raises(Oops), transaction.atomic():
        tasks.add.enqueue(1, 2)
        raise Oops
    assert not RayTaskExecution.objects.exists()


@pytest.mark.parametrize("result_id", ["", "nonsense", "00000000-0000-0000-0000-000000000000", None, 7])
def test_an_unknown_or_malformed_id_does_not_exist(result_id):
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result_id)


def test_a_result_of_another_task_is_a_mismatch():
    with pytest.raises(TaskResultMismatch):
        tasks.sleep.get_result(tasks.add.enqueue(1, 2).id)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("a\x00b", "NUL"),
        ("\ud800", "surrogate"),
        (math.nan, "nan"),
        ({"deep": [math.inf]}, "args[0]['deep'][0]"),
        ({1, 2}, "pass a list"),
        (timezone.now(), "isoformat"),
        (RayTaskExecution(), "primary key"),
        (lambda: None, "__json__"),
        ({(1, 2): 3}, "keys"),
    ],
)
def test_what_json_or_postgresql_cannot_hold_is_refused_before_sql(argument, says):
    with transaction.atomic():
        with pytest.raises((TypeError, ValueError)) as refusal:
            tasks.add.enqueue(argument, 2)
        assert says in str(refusal.value)
        assert "args[0]" in str(refusal.value)
        tasks.add.enqueue(1, 2)  # the block has survived
    assert RayTaskExecution.objects.count() == 1


def test_run_after_priority_and_queue_are_in_the_row():
    moment = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=moment, priority=7, queue_name="other").enqueue(1, 2)
    row = RayTaskExecution.objects.get(task_id=result.id)
    assert (row.run_after, row.due_at, row.priority, row.queue_name) == (moment, moment, 7, "other")
    assert tasks.add.get_result(result.id).task == result.task


def test_task_options_are_in_the_row_and_none_when_default():
    plain = RayTaskExecution.objects.get(task_id=tasks.add.enqueue(1, 2).id)
    assert plain.options is None
    task = tasks.add.using(num_cpus=0.5, timeout=3, max_attempts=5, retry_on=(ValueError,), fresh_process=True)
    row = RayTaskExecution.objects.get(task_id=task.enqueue(1, 2).id)
    assert row.options == {
        "retry": {"max_attempts": 5, "retry_on": ["builtins.ValueError"]},
        "timeout": 3,
        "ray": {"num_cpus": 0.5, "max_calls": 1},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": 101}, {"priority": True}, {"priority": 3.0}, {"queue_name": "nowhere"}, {"max_attempts": 0},
        {"timeout": -1}, {"timeout": "soon"}, {"max_attempts": True},
    ],
)  # fmt: skip
def test_an_invalid_task_is_refused_where_it_is_made(changes):
    with pytest.raises(InvalidTask):
        tasks.add.using(**changes)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"QUEUES": "default"}, "must be a list"),
        ({"QUEUES": [""]}, "1 to 255"),
        ({"OPTIONS": {"CONCURENCY": 3}}, "did you mean 'CONCURRENCY'?"),
        ({"OPTIONS": {"CONCURRENCY": 0}}, "at least 1"),
        ({"OPTIONS": {"BACKOFF": {"base": -1}}}, "at least 0"),
        ({"OPTIONS": {"BACKOFF": {"bass": 1}}}, "bass"),
        ({"OPTIONS": {"GRACE": "long"}}, "seconds"),
        ({"OPTIONS": []}, "dictionary"),
    ],
)
def test_a_bad_setting_names_the_setting_the_value_and_the_fix(params, says):
    with pytest.raises(InvalidTaskBackend) as refusal:
        RayTaskBackend("work", params)
    assert says in str(refusal.value)
    assert 'TASKS["work"]' in str(refusal.value)


def test_any_queue_is_valid_for_a_backend_without_queues():
    name = "Überall 'quoted' \"x\" " + "🦀" * 50
    result = tasks.add.using(backend="any", queue_name=name).enqueue(1, 2)
    assert task_backends["any"].get_result(result.id).task.queue_name == name


def test_a_raising_receiver_changes_nothing(caplog):
    def explode(**_):
        raise RuntimeError("receiver")

    task_enqueued.connect(explode, sender=RayTaskBackend)
    try:
        result = tasks.add.enqueue(1, 2)
    finally:
        task_enqueued.disconnect(explode, sender=RayTaskBackend)
    assert RayTaskExecution.objects.filter(task_id=result.id).exists()
    assert "receiver" in caplog.text


def test_the_result_of_a_task_whose_code_is_gone_can_still_be_read():
    row = RayTaskExecution.objects.create(callable_path="tests.gone.never", worker_ids=[], errors=[])
    result = task_backends["default"].get_result(str(row.pk))
    assert result.task.module_path == "tests.gone.never"


def test_ids_are_made_by_the_database_in_the_order_of_enqueueing():
    ids = [tasks.add.enqueue(number, 0).id for number in range(50)]
    assert ids == sorted(ids)
    assert all(task_id[14] == "7" for task_id in ids)
