"""result.wait() and result.await_result(): woken by the end, not by a clock."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.tasks.exceptions import TaskResultDoesNotExist
from django.utils import timezone

from django_ray import ears, locking
from django_ray.models import RayTaskExecution, State
from django_ray.testing import run_tasks
from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


def is_awaited(result):
    return RayTaskExecution.objects.filter(task_id=result.id, awaited=True).exists()


@pytest.fixture
def elsewhere():
    """Run something in a thread of its own with connections of its own; joined at the end."""
    threads = []

    def start(action):
        def run():
            try:
                action()
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)

    yield start
    for thread in threads:
        thread.join()


def when_awaited(result, action):
    def wait():
        until(lambda: is_awaited(result), what="a waiter")
        action()

    return wait


def finish(execution, /, **changes):
    values = {"state": State.SUCCESSFUL, "finished_at": timezone.now(), "result": 7}
    RayTaskExecution.objects.filter(task_id=execution.id).update(**values | changes)


def test_a_waiter_is_woken_by_the_end(elsewhere):
    result = tasks.add.enqueue(3, 4)
    ended = []

    def end():
        ended.append(time.monotonic())
        finish(result)

    elsewhere(when_awaited(result, end))
    assert result.wait(timeout=60) is result
    assert time.monotonic() - ended[0] < 20
    assert result.return_value == 7


def test_a_coroutine_is_woken_by_the_end(elsewhere):
    result = tasks.add.enqueue(3, 4)
    elsewhere(when_awaited(result, lambda: finish(result)))
    assert async_to_sync(result.await_result)(timeout=20).return_value == 7


@pytest.mark.parametrize("how", ["wait", "await_result"])
def test_what_is_finished_already_is_returned_at_once(how):
    result = tasks.add.enqueue(3, 4)
    finish(result)
    waiter = getattr(result, how)
    assert (waiter if how == "wait" else async_to_sync(waiter))(timeout=0).return_value == 7


def test_a_failure_ends_the_wait(elsewhere):
    result = tasks.add.enqueue(3, 4)
    error = {"exception_class_path": "builtins.ValueError", "traceback": "ValueError: no", "message": "no"}
    elsewhere(when_awaited(result, lambda: finish(result, state=State.FAILED, result=None, errors=[error])))
    assert result.wait(timeout=60).errors[0].exception_class is ValueError


@pytest.mark.parametrize("how", ["wait", "await_result"])
def test_a_timeout_is_a_timeout_error_and_leaves_nothing_behind(how, connect):
    result = tasks.add.enqueue(3, 4)
    waiter = getattr(result, how)
    with pytest.raises(TimeoutError, match="READY"):
        (waiter if how == "wait" else async_to_sync(waiter))(timeout=0.05)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_listening_channels()")
        assert cursor.fetchall() == []
    finish(result)
    assert connect().execute("SELECT pg_listening_channels()").fetchall() == []


@pytest.mark.parametrize("how", ["wait", "await_result"])
def test_a_deleted_execution_ends_the_wait(how, elsewhere):
    result = tasks.add.enqueue(3, 4)
    elsewhere(when_awaited(result, lambda: RayTaskExecution.objects.filter(task_id=result.id).delete()))
    waiter = getattr(result, how)
    with pytest.raises(TaskResultDoesNotExist):
        (waiter if how == "wait" else async_to_sync(waiter))(timeout=20)


def test_waiting_inside_a_transaction_is_refused_with_the_remedy():
    with transaction.atomic():
        result = tasks.add.enqueue(3, 4)
        with pytest.raises(TransactionManagementError, match="run_tasks"):
            result.wait(timeout=60)
        run_tasks()
        assert result.wait().return_value == 7  # nothing left to wait for


def test_an_end_that_is_written_before_the_mark_is_not_missed(elsewhere, monkeypatch):
    """The other order: the outcome commits between the caller's look and its mark."""
    from django_ray import ears

    result = tasks.add.enqueue(3, 4)
    mark = ears.mark_awaited

    def end_first(*where):
        finish(result)
        return mark(*where)

    monkeypatch.setattr(ears, "mark_awaited", end_first)
    assert result.wait(timeout=60).return_value == 7
    again = tasks.add.enqueue(3, 4)
    monkeypatch.setattr(ears, "mark_awaited", lambda *where: (finish(again), mark(*where))[1])
    assert async_to_sync(again.await_result)(timeout=20).return_value == 7


@pytest.mark.parametrize("how", ["wait", "await_result"])
def test_a_waiter_outlives_its_connection(how, elsewhere, connect):
    result = tasks.add.enqueue(3, 4)
    admin = connect()
    own = admin.execute("SELECT pg_backend_pid() AS pid").fetchone()["pid"]

    def cut_and_finish():
        before = {row["pid"] for row in admin.execute("SELECT pid FROM pg_stat_activity").fetchall()}
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> %s AND query LIKE ANY (%s)",
            [own, ["%LISTEN%", "%awaited%"]],
        )
        connection.close()  # of this thread
        until(
            lambda: admin.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> ALL (%s)"
                " AND query LIKE ANY (%s)",
                [list(before), ["%LISTEN%", "%awaited%"]],
            ).fetchone(),
            what="a new session",
        )
        finish(result)

    elsewhere(when_awaited(result, cut_and_finish))
    waiter = getattr(result, how)
    assert (waiter if how == "wait" else async_to_sync(waiter))(timeout=20).return_value == 7


def test_all_coroutines_of_a_loop_share_one_session(connect, elsewhere):
    results = [tasks.add.enqueue(number, 4) for number in range(10)]
    admin = connect()
    sessions = []

    def count_and_finish():
        until(lambda: RayTaskExecution.objects.filter(awaited=True).count() == len(results), what="ten waiters")
        sessions.append(
            admin.execute(
                "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            ).fetchone()["n"]
        )
        for result in results:
            finish(result)

    async def wait_for_all():
        return await asyncio.gather(*(result.await_result(timeout=20) for result in results))

    elsewhere(count_and_finish)
    assert [result.return_value for result in async_to_sync(wait_for_all)()] == [7] * 10
    assert sessions == [1]


@pytest.fixture
def frozen(monkeypatch):
    """Python's clocks stand still, as freezegun has it."""
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 7.0)


def test_a_wait_ends_while_pythons_clocks_stand_still(frozen):
    result = tasks.add.enqueue(1, 2)
    with pytest.raises(TimeoutError):
        result.wait(timeout=0.05)


def test_a_verb_gives_up_a_locked_row_while_pythons_clocks_stand_still(frozen, connect, monkeypatch):
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.05)
    tasks.add.enqueue(1, 2)
    with connect(autocommit=False) as holder:
        holder.execute("SELECT FROM django_ray_execution FOR UPDATE")
        with pytest.raises(locking.Locked):
            RayTaskExecution.objects.cancel()


def test_the_first_looks_at_a_locked_row_are_as_short_as_a_claim_and_the_later_ones_are_few():
    from django_ray import ears

    assert ears.pause_at_lock(0) <= 0.002
    assert sum(ears.pause_at_lock(look) for look in range(4)) <= 0.03
    assert all(0.25 <= ears.pause_at_lock(look) <= 0.5 for look in (8, 100, 10**6))


@pytest.mark.parametrize("longest", [ears.KEPT_SECONDS, 0.01], ids=["kept until its end", "closed before its end"])
def test_an_event_loop_that_has_ended_is_kept_by_nothing(monkeypatch, longest):
    """async_to_sync makes one for each call."""
    monkeypatch.setattr(ears, "KEPT_SECONDS", longest)
    result, loops = tasks.add.enqueue(3, 4), []

    async def wait():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with pytest.raises(TimeoutError):
            await result.await_result(timeout=0.05)
        await asyncio.sleep(0.05)

    for _ in range(3):
        async_to_sync(wait)()
    gc.collect()
    assert [loop() for loop in loops[:-1]] == [None, None]  # asgiref may hold the last
