"""Schedules are fired by supervisors, with real rows and a fake executor."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from asgiref.sync import sync_to_async

from django_ray.models import RaySchedule, RayTaskExecution
from tests.supervisors import Instant, living, until

PATH = "tests.tasks.add"


@pytest.fixture
def executions(connect):
    """What schedules have enqueued, by their names."""
    session = connect()

    def of(name):
        return session.execute(
            "SELECT tick, enqueued_at, carrier, state FROM django_ray_execution AS e JOIN django_ray_schedule AS s"
            " ON s.id = schedule_id WHERE name = %s ORDER BY tick",
            [name],
        ).fetchall()

    return of


@pytest.fixture
def plan(connect):
    """INSERT a schedule by SQL; return how to read its row."""
    session = connect()

    def _plan(name, **columns):
        said = {"name": name, "callable_path": PATH, "args": "[1, 2]", **columns}
        session.execute(
            f"INSERT INTO django_ray_schedule ({', '.join(said)}) VALUES ({', '.join(['%s'] * len(said))})",
            list(said.values()),
        )
        return lambda what="*": session.execute(
            f"SELECT {what} FROM django_ray_schedule WHERE name = %s", [name]
        ).fetchone()

    return _plan


async def eventually(condition):
    """Return the first true answer, in a thread: the supervisor shares this event loop."""
    return await anyio.to_thread.run_sync(until, condition)


async def test_a_schedule_is_fired_at_each_tick_and_its_body_is_told(database, plan, executions):
    row = plan("each second", every="1 second")
    async with living(database, Instant()) as life:
        found = await eventually(lambda: (rows := executions("each second"))[2:] and rows)
    first = found[0]["tick"]
    assert [found[n]["tick"] - first for n in range(3)] == [timedelta(seconds=n) for n in range(3)]
    assert first.microsecond == 0
    assert all(timedelta(0) < one["enqueued_at"] - one["tick"] < timedelta(seconds=0.2) for one in found)
    assert found[0]["carrier"]["schedule"]["name"] == "each second"
    assert datetime.fromisoformat(found[0]["carrier"]["schedule"]["tick"]) == first
    assert life.metrics.ticks >= 3
    assert 0 < life.metrics.tick_lag < 0.2
    assert row()["last_at"] >= first
    assert row()["problem"] is None
