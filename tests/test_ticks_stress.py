"""Five supervisors, one schedule a second, and SIGKILL at random: each tick is enqueued once, and none is missing.

The ledger is a file that the bodies write. `make ticks` does it for five minutes.
"""

import os
import random
import signal
import time
from collections import defaultdict
from datetime import datetime, timedelta

from django.db import connection

from tests.supervisors import Listen, until

SUPERVISORS = 5
SECONDS = 300 if os.environ.get("DJANGO_RAY_STRESS") == "long" else 12
PAUSE = (0.3, 2.0)  # Seconds between two of them.


def read(path):
    """The executions of each tick, as their bodies have noted them down."""
    ledger = defaultdict(set)
    for line in path.read_text().splitlines() if path.exists() else ():
        tick, execution = line.split()
        ledger[datetime.fromisoformat(tick)].add(execution)
    return ledger


def test_each_tick_is_enqueued_once_while_supervisors_are_killed(connect, tmp_path):
    session, chance, path = connect(), random.Random(), tmp_path / "ledger"
    seed = chance.randrange(1_000_000)
    chance.seed(seed)
    crew, killed = [Listen(connection, "--sync") for _ in range(SUPERVISORS)], 0
    try:
        for supervisor in crew:
            supervisor.wait_for("is ready", 180)
        session.execute(
            "INSERT INTO django_ray_schedule (name, callable_path, args, every, missed, overlap)"
            " VALUES ('each second', 'tests.tasks.note_tick', jsonb_build_array(%s::text), '1 second', 'all', 'allow')",
            [str(path)],
        )
        until(lambda: len(read(path)) >= 2)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(chance.uniform(*PAUSE))
            number = chance.randrange(SUPERVISORS)
            crew[number].signal(signal.SIGKILL)
            crew[number].wait()
            crew[number], killed = Listen(connection, "--sync"), killed + 1
            crew[number].wait_for("is ready", 180)  # else a slow machine would soon have none that is
        session.execute("UPDATE django_ray_schedule SET paused_at = now()")
        until(lambda: not session.execute("SELECT FROM django_ray_execution WHERE finished_at IS NULL").fetchall(), 120)
    finally:
        for supervisor in crew:
            with supervisor:
                pass
    ledger = read(path)
    ticks = sorted(ledger)
    row = session.execute("SELECT skipped, lost, problem FROM django_ray_schedule").fetchone()
    lag = session.execute("SELECT max(enqueued_at - tick) AS most FROM django_ray_execution").fetchone()["most"]
    print(f"seed {seed}: {killed} killed, {len(ticks)} ticks, the latest {lag.total_seconds():.2f} s after its time")
    assert killed >= 2
    assert ticks == [ticks[0] + timedelta(seconds=number) for number in range(len(ticks))]
    assert len(ticks) >= SECONDS
    assert {tick: ids for tick, ids in ledger.items() if len(ids) != 1} == {}
    states = session.execute("SELECT state, count(*) FROM django_ray_execution GROUP BY state").fetchall()
    assert states == [{"state": "SUCCESSFUL", "count": len(ticks)}]
    assert row == {"skipped": 0, "lost": 0, "problem": None}
