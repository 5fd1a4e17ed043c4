"""The verbs of operators where somebody else has locked a row: others at once, that one when it is free, or a word."""

import json
import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections, transaction

from django_ray import Flow, locking
from django_ray.models import RayQueue, RayTaskExecution, State
from django_ray.runtime import call
from django_ray.runtime.call import _write
from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits for long."""
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.3)


@pytest.fixture
def locked(connect):
    """Three executions, of which somebody else has locked the one in the middle."""
    results = [tasks.add.enqueue(number, 4) for number in range(3)]
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [results[1].id])
    yield stranger
    stranger.rollback()


def states():
    return list(RayTaskExecution.objects.order_by("task_id").values_list("state", flat=True))


def settings_of_lock_timeout():
    with connections["default"].cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        return cursor.fetchone()[0]


def test_the_others_are_cancelled_at_once_and_the_locked_one_when_it_is_free(locked, connect, caplog):
    """I5: others see that before the verb is over, so that nothing is held up by it."""
    session = connect()

    def free():
        until(
            lambda: len(session.execute("SELECT FROM django_ray_execution WHERE state = 'CANCELLED'").fetchall()) == 2
        )
        until(lambda: "1 executions are locked by another transaction" in caplog.text)
        locked.rollback()

    thread = threading.Thread(target=free)
    thread.start()
    assert RayTaskExecution.objects.all().cancel() == 3
    thread.join()
    assert states() == [State.CANCELLED] * 3


def test_what_stays_locked_is_named_and_the_others_are_done(impatient, locked):
    """I5."""
    name = str(RayTaskExecution.objects.order_by("task_id")[1].pk)
    with pytest.raises(locking.Locked, match=f"2 executions are done; 1 are not, .*{name}"):
        RayTaskExecution.objects.all().cancel()
    assert states() == [State.CANCELLED, State.READY, State.CANCELLED]
    locked.rollback()
    assert RayTaskExecution.objects.all().cancel() == 1


def test_a_retry_leaves_out_what_stays_locked(impatient, connect):
    """I5."""
    for number in range(3):
        tasks.add.enqueue(number, 4)
    RayTaskExecution.objects.all().cancel()
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution ORDER BY task_id LIMIT 1 FOR UPDATE")
    with pytest.raises(locking.Locked):
        RayTaskExecution.objects.all().retry()
    assert states() == [State.CANCELLED, State.READY, State.READY]


def test_a_retry_of_a_flow_leaves_out_what_stays_locked(impatient, connect):
    """I5: what it says that is done is done, and whoever enqueues into the flow meanwhile waits for nothing."""
    with Flow("three") as flow:
        for number in range(3):
            tasks.add.enqueue(number, 4)
    flow.cancel()
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution ORDER BY task_id LIMIT 1 FOR UPDATE")
    seen = []

    def look_at_the_flow():
        seen.extend(connect().execute("SELECT cancelled_at FROM django_ray_flow FOR UPDATE NOWAIT").fetchall())

    looking = threading.Timer(0.1, look_at_the_flow)
    looking.start()
    with pytest.raises(locking.Locked, match="2 executions are done; 1 are not"):
        flow.retry()
    looking.join()
    assert seen == [{"cancelled_at": None}]
    assert states() == [State.CANCELLED, State.READY, State.READY]


def test_within_a_transaction_of_the_caller_it_goes_on_after_a_lock(impatient, locked):
    """I5: what was done before stands, and so does its own patience."""
    with transaction.atomic():
        with connections["default"].cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '7s'")
        with pytest.raises(locking.Locked):
            RayTaskExecution.objects.all().cancel()
        assert settings_of_lock_timeout() == "7s"
    assert states() == [State.CANCELLED, State.READY, State.CANCELLED]


def test_a_running_execution_is_asked_once_to_be_cancelled(connect, locked):
    """I5: what waits for the locked one does not ask the others again."""
    RayTaskExecution.objects.filter(args__0=0).update(
        state=State.RUNNING, claimed_by=1, attempt_number=1, worker_ids=["1"]
    )
    listener = connect()
    channel = listener.execute("SELECT django_ray_channel('worker:1')").fetchone()["django_ray_channel"]
    listener.execute(f'LISTEN "{channel}"')
    thread = threading.Timer(0.1, locked.rollback)
    thread.start()
    assert RayTaskExecution.objects.all().cancel() == 3
    thread.join()
    assert len(list(listener.notifies(timeout=1, stop_after=2))) == 1


@pytest.mark.slow
def test_cancelling_one_result_says_that_it_is_locked(impatient, locked):
    """I5: result.cancel() calls a function of the database."""
    result = tasks.add.get_backend().get_result(RayTaskExecution.objects.order_by("task_id")[1].pk)
    with pytest.raises(locking.Locked, match="nothing was changed"):
        result.cancel()
    assert settings_of_lock_timeout() == "0"
    locked.rollback()
    assert result.cancel()


@pytest.mark.parametrize("command", ["django_ray_cancel", "django_ray_retry"])
def test_a_command_ends_with_a_sentence(impatient, locked, command):
    """I5."""
    if command == "django_ray_retry":
        locked.rollback()
        RayTaskExecution.objects.all().cancel()
        locked.execute("SELECT 1 FROM django_ray_execution ORDER BY task_id LIMIT 1 FOR UPDATE")
    with pytest.raises(CommandError, match="2 executions are done; 1 are not"):
        call_command(command, "--all", stdout=StringIO())


@pytest.mark.parametrize("command", ["django_ray_pause", pytest.param("django_ray_resume", marks=pytest.mark.slow)])
def test_a_queue_that_an_open_transaction_pauses_or_resumes_is_said_so(impatient, connect, command):
    """I5: the product's own verbs; the first pause inserts the row of the queue, and the second meets it."""
    stranger = connect(autocommit=False)
    if command == "django_ray_resume":
        RayQueue.objects.pause("default")
        stranger.execute("UPDATE django_ray_queue SET paused_at = now()")
    else:
        stranger.execute("INSERT INTO django_ray_queue (name, backend, paused_at) VALUES ('default', 'default', now())")
    with pytest.raises(CommandError, match="has locked the row"):
        call_command(command, "default", stdout=StringIO())
    stranger.rollback()


def test_pruning_leaves_what_is_locked(connect):
    """I5."""
    for number in range(3):
        tasks.add.enqueue(number, 4)
    RayTaskExecution.objects.all().cancel()
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution ORDER BY task_id LIMIT 1 FOR UPDATE")
    assert RayTaskExecution.objects.all().prune() == 2
    stranger.rollback()
    assert RayTaskExecution.objects.all().prune() == 1


def test_a_call_settles_what_is_free_and_tells_what_is_not(connect):
    """I5: in the Ray worker, of a call with a long body."""
    for number in range(4):
        tasks.add.enqueue(number, 4)
    RayTaskExecution.objects.update(state=State.RUNNING, claimed_by=1, attempt_number=1, worker_ids=["1"])
    payloads = [payload(row) for row in RayTaskExecution.objects.order_by("task_id")]
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution WHERE args->0 IN ('1', '3') FOR UPDATE")
    envelope = {"kind": "returned", "result": "7", "output": ""}
    written = _write([(row, envelope) for row in payloads[:2]], payloads[2:])
    assert written == {payloads[0], payloads[2]}
    assert states() == [State.SUCCESSFUL, State.RUNNING, State.READY, State.RUNNING]


@pytest.mark.parametrize("statement", ["SELECT before, set_config", "COMMIT"])
def test_a_call_that_settles_gives_up_a_connection_that_is_forgotten(proxied, monkeypatch, statement):
    """I6: one thread settles all calls of a Ray worker, and would wait for ever."""
    tasks.add.enqueue(1, 4)
    RayTaskExecution.objects.update(state=State.RUNNING, claimed_by=1, attempt_number=1, worker_ids=["1"])
    (row,) = RayTaskExecution.objects.all()
    said = payload(row)
    swallowed = proxied.swallow_next(statement)
    with monkeypatch.context() as patch:
        patch.setattr(call, "ANSWER_SECONDS", 2)
        with pytest.raises(OperationalError, match="has not answered for 2 s"):
            _write([], [said])
    assert swallowed.is_set()
    proxied.cut()
    connection.close()
    assert _write([], [said]) == {said}
    assert states() == [State.READY]


def payload(row):
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT to_jsonb(row) FROM django_ray_execution AS row WHERE task_id = %s", [row.pk])
        found = json.loads(cursor.fetchone()[0])
    names = ("task_id", "attempt_number", "worker_ids", "callable_path", "args", "kwargs", "options", "run_after")
    names += (
        "state",
        "backend",
        "queue_name",
        "priority",
        "enqueued_at",
        "started_at",
        "last_attempted_at",
        "failures",
    )
    return json.dumps({name: found[name] for name in (*names, "errors", "carrier")})
