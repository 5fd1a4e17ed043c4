"""Eight supervisors, fifty gates, SIGKILL and SIGSTOP at random: never more behind a gate than may run.

The ledger is a table that the bodies write in transactions of their own, by the server's clock. A body that was killed
with its process ended then; one whose process was stopped for so long that it was taken for dead goes on afterwards,
beside the one that took its place: these are told apart, as docs/limits.md does. `make gates` does it for five minutes.
"""

import os
import random
import signal
import time
from collections import defaultdict

from django.db import connection

from tests.supervisors import Listen, until
from tests.tasks import note_place

SUPERVISORS, GATES = 8, 50
SECONDS = 300 if os.environ.get("DJANGO_RAY_STRESS") == "long" else 8
PAUSE = (0.2, 1.5)  # Seconds between two of them.
LEDGER = """
CREATE TABLE gate_ledger (
    id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, gate int, pid int,
    began timestamptz NOT NULL DEFAULT clock_timestamp(), ended timestamptz
)
"""


def limit_of(gate):
    return 1 + gate % 3


def most_at_once(spans):
    """The most spans that cover one moment. What ends at a moment has ended before what begins then."""
    events = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return most


class Crew:
    """The supervisors, and what has happened to them, by the server's clock."""

    def __init__(self, session):
        self.session = session
        self.members = [self.start() for _ in range(SUPERVISORS)]
        self.killed = {}
        self.stopped = defaultdict(list)
        for member in self.members:
            member.wait_for("is ready", 180)

    @staticmethod
    def start():
        return Listen(connection, "--sync", DJANGO_SETTINGS_MODULE="tests.settings_lively")

    def now(self):
        return self.session.execute("SELECT clock_timestamp() AS now").fetchone()["now"]

    def kill(self, number):
        member = self.members[number]
        member.signal(signal.SIGKILL)
        member.wait()
        self.killed[member.process.pid] = self.now()
        self.members[number] = self.start()
        self.members[number].wait_for("is ready", 180)

    def stop(self, number, seconds):
        member = self.members[number]
        member.signal(signal.SIGSTOP)
        began = self.now()
        time.sleep(seconds)
        member.signal(signal.SIGCONT)
        self.stopped[member.process.pid].append((began, self.now()))


def test_no_more_than_the_limit_run_behind_any_gate(connect):
    session, chance = connect(), random.Random()
    seed = chance.randrange(1_000_000)
    chance.seed(seed)
    session.execute(LEDGER)
    try:
        crew = Crew(session)
        try:
            end, enqueued = time.monotonic() + SECONDS, 0
            while time.monotonic() < end:
                for _ in range(60):
                    gate = min(int(chance.expovariate(0.2)), GATES - 1)  # a few of them are much in demand
                    note_place.using(limit=limit_of(gate)).enqueue(gate, chance.choice([0.0, 0.01, 0.05, 0.2]))
                    enqueued += 1
                if chance.random() < 0.6:
                    crew.kill(chance.randrange(SUPERVISORS))
                else:
                    crew.stop(chance.randrange(SUPERVISORS), chance.choice([0.2, 5.0]))
                time.sleep(chance.uniform(*PAUSE))
            left = "SELECT FROM django_ray_execution WHERE finished_at IS NULL"
            until(lambda: not session.execute(left).fetchall(), 180, "the end of all")
        finally:
            for member in crew.members:
                with member:
                    pass
        spans, zombies, cut = defaultdict(list), 0, 0
        for row in session.execute("SELECT * FROM gate_ledger ORDER BY id").fetchall():
            ended = row["ended"] or crew.killed.get(row["pid"])
            assert ended is not None, row
            cut += row["ended"] is None
            if any(began < ended and row["began"] < until_ for began, until_ in crew.stopped[row["pid"]]):
                zombies += 1
                continue
            spans[row["gate"]].append((row["began"], ended))
        states = session.execute("SELECT state, count(*) FROM django_ray_execution GROUP BY state").fetchall()
    finally:
        session.execute("DROP TABLE gate_ledger")
    most = {gate: most_at_once(found) for gate, found in spans.items()}
    stops = sum(map(len, crew.stopped.values()))
    print(
        f"seed {seed}: {enqueued} enqueued, {len(crew.killed)} killed, {stops} stopped, {cut} bodies cut off, "
        f"{zombies} in a stopped process; at most {max(most.values())} of 3 at once, "
        f"{sum(most[gate] == limit_of(gate) for gate in most)} of {len(most)} gates full at some time"
    )
    assert {gate: number for gate, number in most.items() if number > limit_of(gate)} == {}
    assert any(number == limit_of(gate) for gate, number in most.items())
    assert (
        sum(row["count"] for row in states if row["state"] == "SUCCESSFUL") > 0.9 * enqueued
    )  # the others were lost too often
