"""result.wait() and result.await_result() when the notification of the end never comes, or the row is locked."""

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync
from django.db import connections
from django.utils import timezone

from django_ray import ears
from django_ray.models import RayTaskExecution, State
from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)

HOWS = ["wait", "await_result"]


def wait(result, how, timeout=None):
    waiter = getattr(result, how)
    return (waiter if how == "wait" else async_to_sync(waiter))(timeout=timeout)


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


@pytest.fixture
def deaf(connect):
    """The triggers are disabled, so that nobody is notified."""
    session = connect()
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    yield
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")


def is_awaited(result):
    return RayTaskExecution.objects.filter(task_id=result.id, awaited=True).exists()


def finish(session, result):
    session.execute(
        "UPDATE django_ray_execution SET state = 'SUCCESSFUL', finished_at = now(), result = '7' WHERE task_id = %s",
        [result.id],
    )


def finish_when_awaited(connect, result):
    def run():
        until(lambda: is_awaited(result), what="a waiter")
        finish(connect(), result)

    return run


@pytest.mark.parametrize("how", HOWS)
def test_an_end_that_nobody_notifies_of_is_found_by_the_pulse(how, pulse, deaf, connect, elsewhere):
    """I22: without a timeout."""
    pulse(0.3)
    result = tasks.add.enqueue(3, 4)
    elsewhere(finish_when_awaited(connect, result))
    assert wait(result, how).return_value == 7


@pytest.mark.parametrize("how", HOWS)
def test_without_a_pulse_nobody_looks(  # noqa: PLR0917
    how, pulse, deaf, connect, elsewhere, monkeypatch
):
    """I22."""
    pulse(0)
    looks = []
    is_over = ears.is_over
    monkeypatch.setattr(ears, "is_over", lambda *where: looks.append(where) or is_over(*where))
    result = tasks.add.enqueue(3, 4)
    elsewhere(finish_when_awaited(connect, result))
    assert wait(result, how, timeout=5).return_value == 7
    assert looks == []


@pytest.mark.parametrize("how", HOWS)
def test_who_waits_looks_once_per_pulse_and_leaves_the_row_as_it_is(how, pulse, connect, elsewhere, monkeypatch):
    """I22: a look writes nothing, or each would ring."""
    pulse(0.1)
    looked = threading.Semaphore(0)
    is_over = ears.is_over
    monkeypatch.setattr(ears, "is_over", lambda *where: (looked.release(), is_over(*where))[1])
    result = tasks.add.enqueue(3, 4)
    session, seen = connect(), []

    def watch():
        version = "SELECT xmin::text FROM django_ray_execution"
        for _ in range(3):
            assert looked.acquire(timeout=60)
            seen.append(session.execute(version).fetchone()["xmin"])
        finish(session, result)

    elsewhere(watch)
    assert wait(result, how).return_value == 7
    assert len(set(seen)) == 1


@pytest.mark.parametrize("how", HOWS)
def test_a_waiter_whose_row_is_locked_keeps_its_timeout(how, connect):
    """I5: nor does it hold up the others of its event loop."""
    result = tasks.add.enqueue(3, 4)
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution FOR UPDATE")
    with pytest.raises(TimeoutError):
        wait(result, how, timeout=0.3)
    stranger.rollback()


@pytest.mark.parametrize("how", HOWS)
def test_a_waiter_whose_row_is_locked_hears_of_its_end_all_the_same(how, connect, elsewhere, monkeypatch):
    """I5: the mark is made when the lock is gone."""
    result = tasks.add.enqueue(3, 4)
    stranger = connect(autocommit=False)
    stranger.execute("SELECT 1 FROM django_ray_execution FOR UPDATE")
    met = threading.Event()
    mark = ears.mark_awaited

    def note(*where):
        found = mark(*where)
        if found is ears.Mark.LOCKED:
            met.set()
        return found

    monkeypatch.setattr(ears, "mark_awaited", note)

    def free():
        assert met.wait(60)
        stranger.rollback()
        until(lambda: is_awaited(result), what="a waiter")
        RayTaskExecution.objects.filter(task_id=result.id).update(
            state=State.SUCCESSFUL, finished_at=timezone.now(), result=7
        )

    elsewhere(free)
    assert wait(result, how).return_value == 7


def test_one_locked_row_holds_up_no_other_waiter_of_its_event_loop(connect):
    """I5: their statements share a thread."""
    locked, free = [tasks.add.enqueue(number, 4) for number in range(2)]
    stranger, session = connect(autocommit=False), connect()
    stranger.execute("SELECT 1 FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [locked.id])

    async def wait_for_both():
        waiters = [asyncio.create_task(result.await_result(timeout=60)) for result in (locked, free)]
        async with asyncio.timeout(60):
            awaited = "SELECT 1 FROM django_ray_execution WHERE awaited AND task_id = %s"
            while not session.execute(awaited, [free.id]).fetchone():  # noqa: ASYNC110 - it is the server's
                await asyncio.sleep(0.005)
        finish(session, free)
        await waiters[1]
        assert not waiters[0].done()
        stranger.rollback()
        finish(session, locked)
        await waiters[0]

    async_to_sync(wait_for_both)()
    assert (locked.return_value, free.return_value) == (7, 7)
