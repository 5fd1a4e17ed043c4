"""Lanes: what waits in them is taken as there are places, by statements and without Ray; and what is said of that."""

import asyncio
import functools
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from django.core.management import call_command
from django.db import connection
from django.tasks import TaskResultStatus
from django.tasks.exceptions import InvalidTask
from django.test import override_settings

from django_ray import task
from django_ray.batching import results_of
from django_ray.exceptions import InvalidResult
from django_ray.models import RayQueue, RayTaskExecution, RayWorker
from django_ray.requirements import TaskOptions
from django_ray.testing import run_tasks
from django_ray_worker.core.outcome import Unstarted
from django_ray_worker.database.statements import SQL, claim_parameters, lane_parameters
from django_ray_worker.running.together import Together
from tests import tasks, warming
from tests.supervisors import Instant, living

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DJANGO_RAY_WARMING", str(tmp_path))
    return tmp_path


@pytest.fixture
def worker():
    return RayWorker.objects.create(backend="default", hostname="here", pid=1, concurrency=1, queues=[])


@pytest.fixture
def alive(worker, connect):
    """The supervisor serves its queue, and has a session."""
    worker.queues = ["default"]
    worker.save()
    connect().execute("SELECT django_ray_identify(%s)", [worker.pk])


@pytest.fixture
def take(worker, connect):
    """Take from lanes; return the rows that were taken, and what was said of lanes."""
    session = connect()

    def _take(rooms="{}", limit=1000, queues=None, after=(None, None)):
        scope = {"backend": "default", "queues": queues}
        rows = session.execute(
            SQL["claim_lanes"], scope | lane_parameters(worker.pk, limit, rooms, after=after)
        ).fetchall()
        return [row for row in rows if row["task_id"] is not None], rows[0]

    return _take


gpu = tasks.add.using(num_gpus=1)


def enqueue(task, number, *args):
    return task.get_backend().enqueue_many([(task, args or [1, 1], {}) for _ in range(number)])


def test_what_asks_for_more_than_a_cpu_waits_in_a_lane(take, worker, connect):
    gpu.enqueue(1, 1)
    plain = tasks.add.enqueue(1, 1)
    row = RayTaskExecution.objects.get(state="WAITING")
    assert (row.gate, row.gate_rule) == ("!tests.tasks.add num_gpus=1", {"limit": 0, "lane": True})
    scope = {"backend": "default", "queues": None}
    claimed = connect().execute(SQL["claim"], scope | claim_parameters(worker.pk, 10)).fetchall()
    assert [str(row["task_id"]) for row in claimed] == [plain.id]
    taken, said = take()
    assert [taken_row["lane"] for taken_row in taken] == ["!tests.tasks.add num_gpus=1"]
    assert said["more"] == '["!tests.tasks.add num_gpus=1"]'
    assert take()[1]["more"] == "[]"


def test_of_each_lane_as_many_are_taken_as_it_has_room_for(take):
    enqueue(gpu, 10)
    enqueue(warming.double_all, 100)
    taken, said = take('{"!tests.tasks.add num_gpus=1": [2, 1], "!tests.warming.double_all": [1, 64]}')
    assert len(taken) == 66
    assert said["more"] == '["!tests.tasks.add num_gpus=1","!tests.warming.double_all"]'
    taken, said = take('{"!tests.tasks.add num_gpus=1": [0, 1], "!tests.warming.double_all": [1, 64]}')
    assert len(taken) == 36
    assert said["more"] == '["!tests.tasks.add num_gpus=1"]'


def test_priority_and_age_decide_in_a_lane(take):
    first, second = enqueue(gpu, 2)
    urgent = gpu.using(priority=5).enqueue(1, 1)
    taken, _ = take('{"!tests.tasks.add num_gpus=1": [2, 1]}')
    assert [str(row["task_id"]) for row in taken] == [urgent.id, first.id]
    assert [str(row["task_id"]) for row in take()[0]] == [second.id]


def test_a_lane_is_in_several_queues_and_its_room_is_one(take):
    enqueue(gpu, 3)
    enqueue(gpu.using(queue_name="other"), 3)
    assert len(take('{"!tests.tasks.add num_gpus=1": [4, 1]}')[0]) == 4
    assert {row["queue_name"] for row in take('{"!tests.tasks.add num_gpus=1": [4, 1]}', queues=["other"])[0]} == {
        "other"
    }


def test_no_slot_is_asked_for_what_waits_in_lanes(worker, connect):
    enqueue(gpu, 3)
    enqueue(tasks.add, 2)
    asked = {"backend": "default", "queues": None, "limit": 100}
    assert connect().execute(SQL["waiting"], asked).fetchone()["number"] == 2


def test_a_paused_queue_is_left_alone(take):
    enqueue(gpu, 1)
    RayQueue.objects.create(backend="default", name="default", paused_at="2026-01-01T00:00Z")
    assert take()[0] == []


@pytest.fixture
def paused():
    enqueue(gpu, 3)
    return RayQueue.objects.create(backend="default", name="default", paused_at="2026-01-01T00:00Z")


async def test_a_resumed_queue_rings_for_its_lanes(paused, database, connect):
    session = connect()
    executor = Instant()
    async with living(database, executor):
        await asleep_on("queue:default:!lanes", session)
        assert executor.ran == []
        session.execute("UPDATE django_ray_queue SET paused_at = NULL")
        await executor.has_run(3)


async def asleep_on(bell, session):
    """Return when somebody sleeps on a bell."""
    key = session.execute("SELECT django_ray_key(%s)::bigint & 4294967295 AS key", [bell]).fetchone()["key"]
    held = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1145721434 AND objid = %s::bigint::oid"
    while not session.execute(held, [key]).fetchall():  # noqa: ASYNC110 - a lock has no event
        await asyncio.sleep(0.05)


def test_lanes_come_in_a_circle_and_share_the_places_of_their_task(take):
    for _ in range(2):
        for tenant in "abcde":
            warming.of_tenant.enqueue(tenant, 1)
    seen, after = [], (None, None)
    for _ in range(5):
        taken, said = take('{"!tests.warming.of_tenant": [2, 1]}', after=after)
        seen += [row["lane"][-1] for row in taken]
        after = said["after_queue"], said["after_gate"]
    assert seen == ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    for tenant in "abcde":
        warming.of_tenant.enqueue(tenant, 1)
    taken, said = take('{"!tests.warming.of_tenant": [2, 10]}', after=("default", "!tests.warming.of_tenant:d"))
    assert sorted(row["lane"][-1] for row in taken) == ["a", "e"]
    assert (said["is_cut"], said["after_gate"][-1]) == (False, "a")


def test_a_claim_looks_into_so_many_lanes(take):
    for tenant in "abc":
        warming.of_tenant.enqueue(tenant, 1)
    taken, said = take('{"!tests.warming.of_tenant": [9, 1]}', limit=2)
    assert ([row["lane"][-1] for row in taken], said["is_cut"]) == (["a", "b"], True)


def test_what_somebody_has_locked_is_told(take, connect):
    first, second = enqueue(gpu, 2)
    other = connect(autocommit=False)
    other.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [first.id])
    taken, said = take('{"!tests.tasks.add num_gpus=1": [2, 1]}')
    assert [str(row["task_id"]) for row in taken] == [second.id]
    assert said["has_skipped"]


def test_a_due_time_is_told_and_the_row_joins_its_lane(take):
    gpu.using(run_after=timedelta(hours=1)).enqueue(1, 1)
    taken, said = take()
    assert taken == []
    assert 3500 < said["next_due"] <= 3600
    RayTaskExecution.objects.update(due_at=None)
    assert len(take()[0]) == 1


def test_no_backlog_makes_a_claim_walk(worker, connect):
    """Whatever waits in lanes, a claim from the queues reads no more than without."""
    session = connect(autocommit=False)

    def pages(statement, parameters):
        """Return how many pages it reads; what it does is rolled back."""
        for _ in range(2):  # the first one reads the catalogue as well
            asked = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + _bare(statement)
            plan = session.execute(asked, parameters).fetchone()
            session.rollback()
        return plan["QUERY PLAN"][0]["Plan"]["Shared Hit Blocks"]

    enqueue(gpu, 3000)
    scope = {"backend": "default", "queues": None}
    assert pages(SQL["claim"], scope | claim_parameters(worker.pk, 2)) < 400
    assert (
        pages(SQL["claim_lanes"], scope | lane_parameters(worker.pk, 1000, '{"!tests.tasks.add num_gpus=1": [2, 1]}'))
        < 400
    )


def _bare(statement):
    return b"\n".join(line for line in statement.split(b"\n") if not line.startswith(b"--"))


@pytest.fixture
def enqueued():
    enqueue(gpu, 8)
    enqueue(tasks.add, 30)


async def test_a_full_supervisor_goes_on_in_lanes_and_the_other_way_round(enqueued, database):
    """Eight of a lane with one place hold up nobody in the slots."""
    executor = Instant()
    async with living(database, executor):
        await executor.has_run(38)


def test_run_tasks_runs_what_is_in_lanes(folder):
    warm = warming.double_all.enqueue(21)
    lone = warming.double.enqueue(4)
    run_tasks()
    warm.refresh()
    lone.refresh()
    assert (warm.return_value, lone.return_value[0]) == (42, 8)


@override_settings(
    TASKS={"default": {"BACKEND": "django_ray.testing.ImmediateBackend", "QUEUES": ["default", "other"]}}
)
def test_immediate_backend_runs_batches_of_one():
    assert warming.double_all.enqueue(21).return_value == 42
    failed = warming.double_all.using(max_attempts=1).enqueue("mine")
    assert (failed.status, failed.errors[0].exception_class_path) == (TaskResultStatus.FAILED, "builtins.ValueError")


async def test_call_gives_the_instance_and_lists():
    assert warming.double_all.call(21) == 42
    assert await warming.double_all.acall(21) == 42
    assert (await warming.double.acall(4))[0] == 8
    with pytest.raises(ValueError, match="mine alone"):
        warming.double_all.call("mine")


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (map(str, [1]), r"got 1 in a batch and returned a map: .* a list with a result for each: list\(...\)\."),
        (np.zeros(1), r"returned a ndarray: .* a list with a result for each: .tolist\(\)\."),
        ({1: 1}, r"returned a dict: .* a list with a result for each\."),
        ("1", r"returned a str: .* a list with a result for each\."),
        ([1, 2], r"got 1 in a batch and returned 2: .* a list with a result for each\."),
    ],
)
def test_what_is_no_list_of_results_is_refused_with_what_makes_one(returned, says):
    with pytest.raises(InvalidResult, match=says):
        results_of(warming.double_all, returned, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0: it must be a whole number of at least 1"),
        ({"batch": 2, "atomic": True}, "atomic is for one execution at a time"),
        ({"batch": 2, "stall_timeout": 3}, "stall_timeout is for one execution at a time"),
        ({"batch": 2, "takes_context": True}, "takes_context is for one execution at a time"),
        ({"batch_wait": 1}, "batch_wait is for tasks with a batch: say batch=... as well"),
        ({"batch_by": "a"}, "batch_by is for tasks with a batch: say batch=... as well"),
        ({"idle": 3}, "idle is for tasks with a worker: say worker=... as well"),
        ({"replicas": 2}, "replicas is for tasks with a worker: say worker=... as well"),
        ({"worker": "nothing"}, "worker is 'nothing': it must be a class, or the import path of one"),
        ({"worker": warming.Doubler, "replicas": (3, 2)}, "replicas is .*must be .least, most"),
        ({"worker": warming.Doubler, "fresh_process": True}, "fresh_process ends the process"),
        ({"batch": 2, "batch_by": "nobody"}, "batch_by names 'nobody', which is no parameter"),
        ({"batch": 2, "batch_by": "a", "limit": 1}, "batch_by is for tasks without a gate"),
    ],
)
def test_what_cannot_be_is_said_where_it_is_said(options, message):
    with pytest.raises(InvalidTask, match=message):
        task(**options)(_body)


def _body(a, b):
    return a


def test_a_body_must_take_its_worker_and_name_its_parameters():
    with pytest.raises(InvalidTask, match="must take the instance of its worker as its first parameter"):
        task(worker=warming.Doubler)(_nothing)
    with pytest.raises(InvalidTask, match="must name its parameters"):
        task(batch=3)(_anything)


def test_a_decorated_body_takes_its_worker():
    assert task(worker=warming.Doubler)(_decorated).call(3) == 6


@functools.wraps(warming.double.func)
def _decorated(*args):
    doubler, number = args
    return doubler.factor * number


def test_a_worker_may_be_built_while_another_one_is():
    """Its constructor calls a task with a worker of its own."""
    assert warming.nested.call(3) == 6


def _nothing(): ...


def _anything(*args): ...


def test_arguments_are_checked_without_what_we_give():
    with pytest.raises(TypeError, match=r"double_all\(numbers, pause=0.0\) cannot be called with"):
        warming.double_all.enqueue(1, 2, 3)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (warming.double, "It waits for a place at its worker tests.warming.Doubler: 0 running, none before it"),
        (warming.lengths, "It waits for its batch: 0 running, none before it"),
    ],
)
def test_why(task, sentence, alive):
    assert sentence in task.enqueue(1).why()


def test_why_counts_what_runs_in_the_lane(take, alive):
    enqueue(gpu, 2)
    take('{"!tests.tasks.add num_gpus=1": [2, 1]}')
    assert "2 running, none before it" in gpu.enqueue(1, 1).why()


def test_the_migration_back_makes_all_of_it_claimable(transactional_db):
    enqueue(gpu, 2)
    try:
        call_command("migrate", "django_ray", "0021", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT state, gate FROM django_ray_execution")
            assert cursor.fetchall() == [("READY", None)] * 2
    finally:
        call_command("migrate", "django_ray", verbosity=0)


async def test_without_ray_a_call_gives_its_claims_back():
    """It went away between the claim and the call: nobody is charged."""
    reported = []
    executor = Instant()
    executor.is_usable = False
    claims = [SimpleNamespace(task_id=number, unfit="") for number in range(3)]
    call = Together(claims, executor, None, lambda claim, outcome, output="": reported.append(outcome))
    await call.run()
    assert reported == [Unstarted()] * 3
    assert executor.ran == []


def test_what_asks_ray_for_something_else_has_another_lane(take):
    for options in (
        {"num_gpus": 1},
        {"num_gpus": 0.5},
        {"resources": {"unicorn": 1}},
        {"label_selector": {"a": "b" * 99}},
    ):
        enqueue(tasks.add.using(**options), 2)
    enqueue(warming.double, 1, 1)
    lanes = sorted({row["lane"] for row in take('{"!tests.tasks.add num_gpus=1": [0, 1]}')[0]})
    assert lanes[1:] == [
        "!tests.tasks.add num_gpus=0.5", "!tests.tasks.add resources={unicorn=1}", "!tests.warming.double"
    ]  # fmt: skip
    assert len(lanes[0]) < 60  # a hash of what is long


def test_options_say_what_has_a_lane():
    assert not TaskOptions(ray={"num_cpus": 2, "memory": 5}).has_lane
    assert TaskOptions(ray={"num_gpus": 0.5}).has_lane
    assert not TaskOptions(ray={"num_gpus": 0}).has_lane
    assert TaskOptions(batch=3).has_lane
