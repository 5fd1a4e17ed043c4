"""What time it is says the database alone; and what idle schedules cost."""

import asyncio
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from django.db import connection

from django_ray_worker.database.deadline import Connection
from tests.supervisors import Instant, living, until

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture
def odd_session():
    """Sessions have another time zone, and write periods in another way."""
    name = connection.settings_dict["NAME"]
    said = {"timezone": "Asia/Tokyo", "intervalstyle": "sql_standard"}
    with connection.cursor() as cursor:
        for setting, value in said.items():
            cursor.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    yield
    with connection.cursor() as cursor:
        for setting in said:
            cursor.execute(f"ALTER DATABASE {name} RESET {setting}")


@pytest.mark.skipif(FAKETIME is None, reason="Debian's package libfaketime is not installed")
@pytest.mark.parametrize("offset", ["+5m", "-5m"])
def test_the_clock_of_a_host_does_not_matter(listen, connect, offset):
    """F1: five minutes off, both ways."""
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    said = subprocess.check_output(
        [sys.executable, "-c", "import datetime, time; print(datetime.datetime.now().timestamp())"],
        env={**os.environ, **faked},
    )
    assert abs(float(said) - time.time()) == pytest.approx(300, abs=20)
    look_for_ticks(listen, connect, **faked)


def test_the_settings_of_sessions_do_not_matter(transactional_db, odd_session, listen, connect):
    """F2."""
    look_for_ticks(listen, connect)


def look_for_ticks(listen, connect, **environment):
    session = connect()
    session.execute("SET intervalstyle = 'postgres'")
    supervisor = listen("--sync", **environment)
    supervisor.wait_for("is ready")
    session.execute(
        "INSERT INTO django_ray_schedule (name, callable_path, args, every, cron, time_zone, missed, overlap) VALUES"
        " ('second', 'tests.tasks.add', '[1, 2]', '1 second', NULL, 'UTC', 'all', 'allow'),"
        " ('daily', 'tests.tasks.add', '[1, 2]', NULL, '0 3 * * *', 'Europe/Berlin', 'all', 'allow')"
    )
    until(lambda: session.execute("SELECT count(*) FROM django_ray_execution").fetchone()["count"] >= 4)
    ticks = session.execute("SELECT tick, enqueued_at - tick AS lag FROM django_ray_execution ORDER BY tick").fetchall()
    assert all((later["tick"] - earlier["tick"]).total_seconds() == 1 for earlier, later in pairwise(ticks))
    # By the clock of the server. A machine that is busy may be late, but not by minutes, and never early.
    assert all(0 < tick["lag"].total_seconds() < 5 for tick in ticks)
    row = session.execute(
        "SELECT next_at AT TIME ZONE 'Europe/Berlin' AS wall, next_at - now() AS left, problem"
        " FROM django_ray_schedule WHERE name = 'daily'"
    ).fetchone()
    assert (row["wall"].hour, row["wall"].minute, row["problem"]) == (3, 0, None)
    assert 0 < row["left"].total_seconds() <= 25 * 3600


@pytest.fixture
def statements(monkeypatch):
    """What a supervisor of this process sends."""
    sent = []
    execute = Connection.execute

    async def counted(self, query, *arguments, **options):
        sent.append(query if isinstance(query, bytes) else str(query).encode())
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(Connection, "execute", counted)
    return sent


async def sent_in_ten_pulses(database, statements, sleepers):
    async with living(database, Instant(), pulse=0.3) as life:
        await anyio.to_thread.run_sync(until, sleepers, 60, "asleep")
        pulses = 0
        heed = life._heed
        done = asyncio.Event()

        def counted(pulse):
            nonlocal pulses
            pulses += 1
            if pulses == 1:
                statements.clear()
            if pulses == 11:
                done.set()
            heed(pulse)

        life._liveness._heed = counted
        await asyncio.wait_for(done.wait(), 60)
        return list(statements)


async def test_schedules_that_are_not_due_cost_no_statement(database, connect, statements, sleepers):
    """Ten of them, an hour away: a pulse, a look for the neighbour, and nothing else."""
    without = await sent_in_ten_pulses(database, statements, sleepers)
    connect().execute(
        "INSERT INTO django_ray_schedule (name, callable_path, cron)"
        " SELECT n, 'tests.tasks.add', to_char(now() - interval '1 minute', 'MI') || ' * * * *'"
        " FROM generate_series(1, 10) AS n"
    )
    with_ten = await sent_in_ten_pulses(database, statements, sleepers)
    assert connect().execute("SELECT count(next_at) FROM django_ray_schedule").fetchone()["count"] == 10
    # Sixty seconds have one pulse.
    assert len(with_ten) <= 3 * 10
    assert abs(len(with_ten) - len(without)) <= 2
    assert not any(b"django_ray_schedule AS schedule" in statement for statement in with_ten)
