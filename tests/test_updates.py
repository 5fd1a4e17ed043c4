"""result.updates(): what a body says, told to whoever watches."""

import asyncio
import itertools
import json
from functools import partial

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.db.transaction import TransactionManagementError, atomic
from django.test import override_settings

from django_ray import ears, progress
from django_ray.models import RayProgress, RayTaskExecution
from django_ray.runtime.output import Output
from django_ray.runtime.reporting import _pieces
from django_ray.testing import run_tasks
from tests import steps, tasks
from tests.supervisors import until
from tests.viewers import collect, come, lines, watched


@pytest.mark.django_db
def test_what_is_sent_fits_into_a_notification():
    output = Output("a task")
    for line in range(200):
        output.add(f"{line} {chr(1) * 990}\n")
    pieces = _pieces(output, 0, 200)
    assert max(len(piece.encode()) for piece in pieces) < 7900
    told = [json.loads(piece) for piece in pieces]
    assert [line for piece in told for line in piece["lines"]] == output.text.split("\n")
    assert [piece["first"] for piece in told] == list(
        itertools.accumulate((len(piece["lines"]) for piece in told[:-1]), initial=100)
    )


def test_one_that_has_ended_gives_the_last_value_and_its_lines(transactional_db):
    result = steps.walk.enqueue(2)
    run_tasks()
    RayTaskExecution.objects.update(output="line 1\nline 2")  # as a Ray worker keeps it
    (update,) = async_to_sync(collect)(result)
    assert (update.fraction, update.message, update.output) == (1.0, "2 of 2", "line 1\nline 2")


def test_one_that_has_said_nothing_gives_nothing(transactional_db):
    result = tasks.add.enqueue(3, 4)
    run_tasks()
    assert async_to_sync(collect)(result) == []


def tell(result):
    """Notify of the value that is there."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT pg_notify(django_ray_channel('progress'), task_id || {progress.TOLD}::text)"
            " FROM django_ray_progress WHERE task_id = %s",
            [result.id],
        )


def write(result, number, message="", *, attempt=1, tells=True):
    """Write a value, as the process of a body does it; perhaps nobody tells of it."""
    with atomic():
        RayProgress.objects.update_or_create(
            pk=result.id,
            defaults={"number": number, "attempt": attempt, "fraction": None, "message": message or str(number)},
        )
        if tells:
            tell(result)


def end(result):
    RayTaskExecution.objects.filter(pk=result.id).cancel()


@pytest.fixture
def ready(transactional_db):
    """An execution that nobody runs."""
    return steps.walk.enqueue(1)


def watch(result, *steps):
    """Take each step when the update that the one before has brought is there, and end the execution."""

    async def watch_():
        seen = []
        viewer = asyncio.create_task(collect(result, seen))
        await watched(result)
        for number, step in enumerate(steps, start=1):
            await sync_to_async(step)()
            await come(partial(lambda number: len(seen) >= number, number))
        await sync_to_async(end)(result)
        return await viewer

    return [update.message for update in async_to_sync(watch_)()]


def test_what_is_read_and_heard_is_there_once(ready):
    def write_twice():
        write(ready, 1)
        tell(ready)

    assert watch(ready, write_twice, lambda: write(ready, 2)) == ["1", "2"]


def test_what_nobody_tells_of_is_seen_at_the_next_look(ready, pulse):
    pulse(0.2)
    assert watch(
        ready, lambda: write(ready, 1, tells=False), lambda: write(ready, 2), lambda: write(ready, 3, tells=False)
    ) == ["1", "2", "3"]


def test_a_viewer_outlives_its_connection(ready, connect):
    admin = connect()

    def cut_and_write():
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%%progress%%'"
        )
        write(ready, 2)

    assert watch(ready, lambda: write(ready, 1), cut_and_write, lambda: write(ready, 3)) == ["1", "2", "3"]


def test_the_lines_of_another_attempt_begin_anew(ready):
    def show(attempt, *said):
        RayProgress.objects.filter(pk=ready.id).update(output="\n".join(said), lines=len(said))
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_notify(django_ray_channel('progress'), %s || %s)",
                [ready.id, json.dumps({"first": len(said) - 1, "lines": said[-1:]})],
            )

    updates = []

    async def watch_():
        viewer = asyncio.create_task(collect(ready, updates))
        for attempt, said in ((1, ["a"]), (1, ["a", "b"]), (2, ["c"])):
            await sync_to_async(write)(ready, len(updates) + 1, f"{attempt}", attempt=attempt)
            await sync_to_async(show)(attempt, *said)
            await come(partial(lambda line: any(line in update.output for update in updates), said[-1]))
        await sync_to_async(end)(ready)
        await viewer

    async_to_sync(watch_)()
    assert lines(updates) == ["a", "b", "c"]
    assert {update.attempt for update in updates if update.output == "c"} == {2}


def test_it_ends_with_an_execution_that_is_deleted(ready):
    async def watch_():
        viewer = asyncio.create_task(collect(ready))
        await watched(ready)
        await RayTaskExecution.objects.all().adelete()
        return await viewer

    assert async_to_sync(watch_)() == []


LISTENING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"


@pytest.mark.parametrize("kept", [3600.0, 0.05])
def test_who_watches_next_has_the_same_session_unless_it_was_kept_for_long(ready, connect, monkeypatch, kept):
    """It ends with its event loop at the latest."""
    monkeypatch.setattr(ears, "KEPT_SECONDS", kept)

    async def first():
        updates = ready.updates()
        value = await anext(updates)
        await updates.aclose()
        return value.message

    asking = connect()

    def pids():
        return asking.execute(LISTENING).fetchall()

    async def look():
        await sync_to_async(write)(ready, 1)
        assert await first() == "1"
        one = pids()
        if kept < 1:
            while pids():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await first() == "1"
        return one, pids()

    one, other = async_to_sync(look)()
    assert (len(one), len(other)) == (1, 1)
    assert (one == other) is (kept > 1)
    until(lambda: not pids(), what="no session of an event loop that has ended")


@pytest.mark.django_db
def test_inside_a_transaction_it_is_refused():
    with pytest.raises(TransactionManagementError, match="inside a transaction"):
        async_to_sync(collect)(steps.walk.enqueue(1))


@override_settings(TASKS={"default": {"BACKEND": "django_ray.testing.ImmediateBackend"}})
def test_a_double_tells_nothing():
    assert async_to_sync(collect)(steps.walk.enqueue(3)) == []
