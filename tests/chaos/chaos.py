"""What happens to the system under test: one fault at a time, each named, timed and counted."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import psycopg

from tests.chaos import faults
from tests.chaos.crew import Crew
from tests.chaos.postgres import Postgres
from tests.chaos.proxy import Proxy

__all__ = ["Chaos", "Clock"]

HOLE_SECONDS = 8.0
FROZEN_SECONDS = 5.0
LOCK_SECONDS = 6.0  # Long enough for what it meets to end meanwhile.
# The begins of the statements of which the one that comes next has no answer.
SWALLOWED = ("-- Take up to limit rows", "-- Write the verdicts", "-- What runs in the name", "-- A sign of life")
UNREADY_SECONDS = 20.0


class Clock:
    """Says things with the seconds since the start."""

    def __init__(self) -> None:
        self.begin = time.time()
        self._lock = threading.Lock()

    def since(self, moment: float) -> float:
        return moment - self.begin

    def say(self, sentence: str, moment: float | None = None) -> None:
        with self._lock:
            print(f"{self.since(moment or time.time()):7.1f} s  {sentence}", flush=True)


class Chaos:
    """The faults, by kind. Each waits until it is over and returns what it did; None is nobody there."""

    def __init__(self, postgres: Postgres, proxy: Proxy, crew: Crew, clock: Clock, chance: random.Random) -> None:
        self._postgres = postgres
        self._proxy = proxy
        self._crew = crew
        self._chance = chance
        self.clock = clock
        self.done: Counter[str] = Counter()
        self.log: list[tuple[float, str]] = []
        self.kinds = {
            "terminate": self._terminate,
            "hole": self._hole,
            "freeze": self._freeze,
            "kill-supervisor": self._kill_supervisor,
            "kill-ray-worker": self._kill_ray_worker,
            "kill-raylet": self._kill_raylet,
            "stop-database": self._stop_database,
            "drop-commit": self._drop_commit,
            "lock-row": self._lock_row,
            "swallow": self._swallow,
            "unready-node": self._unready_node,
            "forget-supervisors": self._forget_supervisors,
        }

    def strike(self, kind: str) -> None:
        self._crew.look()
        begin = time.time()
        did = self.kinds[kind]()
        if did is not None:
            self.done[kind] += 1
            self.log.append((begin, kind))
        self.clock.say(f"{kind}: {did or 'nobody to hit'}", begin)

    def _terminate(self) -> str:
        return f"{self._postgres.terminate_sessions()} sessions"

    def _hole(self) -> str:
        connections = self._proxy.connections
        self._proxy.hole()
        time.sleep(HOLE_SECONDS)
        self._proxy.mend()
        return f"{connections} connections, {HOLE_SECONDS:g} s"

    def _freeze(self) -> str | None:
        if life := self._crew.choose(self._chance):
            self._crew.freeze(life, FROZEN_SECONDS)
            return f"{life}, {FROZEN_SECONDS:g} s"
        return None

    def _kill_supervisor(self) -> str | None:
        if life := self._crew.choose(self._chance):
            self._crew.kill(life)
            return str(life)
        return None

    def _kill_ray_worker(self) -> str | None:
        life = self._crew.choose(self._chance)
        killed = life and faults.kill_ray_worker(life.listen, self._chance)
        return killed and f"process {killed.pid} of {life}"

    def _kill_raylet(self) -> str | None:
        life = self._crew.choose(self._chance)
        killed = life and faults.kill_raylet(life.listen, self._chance)
        return killed and f"process {killed.pid} of {life}"

    def _unready_node(self) -> str | None:
        life = self._crew.choose(self._chance)
        if life is None or not faults.ray_workers(life.listen):
            return None
        file = self._crew.unready(life)
        file.touch()
        try:
            killed = faults.kill_ray_workers(life.listen)
            time.sleep(UNREADY_SECONDS)
        finally:
            file.unlink()
        return f"{len(killed)} processes of {life}, and none can be set up for {UNREADY_SECONDS:g} s"

    def _stop_database(self) -> str:
        seconds = self._chance.uniform(1, 10)
        self._postgres.stop()
        time.sleep(seconds)
        self._postgres.start()
        return f"{seconds:.1f} s"

    def _lock_row(self) -> str | None:
        """Be a stranger who has locked a row that runs or waits, or the row of a supervisor, and takes his time."""
        query = (
            "SELECT task_id FROM django_ray_execution WHERE state IN ('RUNNING', 'WAITING')"
            " ORDER BY random() LIMIT 1 FOR UPDATE"
            if self._chance.random() < 0.75
            else "SELECT id FROM django_ray_worker WHERE stopped_at IS NULL AND lost_at IS NULL"
            " ORDER BY random() LIMIT 1 FOR UPDATE"
        )
        with psycopg.connect(self._postgres.url) as stranger:
            row = stranger.execute(query).fetchone()
            if row is None:
                return None
            time.sleep(LOCK_SECONDS)
            stranger.rollback()
        return f"{row[0]}, {LOCK_SECONDS:g} s"

    def _swallow(self) -> str:
        statement = self._chance.choice(SWALLOWED)
        is_done = self._proxy.swallow_next(statement).wait(10)
        return f"{statement!r} on one connection" if is_done else f"{statement!r} armed, but nobody sends it"

    def _forget_supervisors(self) -> str:
        return f"{self._postgres.forget_supervisors()} rows"

    def _drop_commit(self) -> str:
        is_done = self._proxy.drop_next_commit_reply().wait(10)
        return "one reply" if is_done else "armed, but nobody commits"
