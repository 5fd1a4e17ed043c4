"""The supervisors of the soak: so many at a time, each in its place, started again when it ends for whatever reason.

It remembers every life: when it was ready, frozen and ended. Its supervisors write their logs to a folder.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from tests.chaos import faults
from tests.supervisors import Listen

__all__ = ["ARGUMENTS", "SLOTS", "Crew", "Life"]

SLOTS = 2  # Of each supervisor.
ARGUMENTS = ("--local", "--concurrency", str(SLOTS))
PAUSE = 1.0  # Before a place is filled again.
STOP_SECONDS = 60  # For one that was told to stop: its grace, and what comes before and after.


@dataclass(eq=False)
class Life:
    """One process, from its start to its end. Times are seconds since the epoch, as the database's."""

    place: int
    listen: Listen
    ready_at: float | None = None
    ended_at: float | None = None
    code: int | None = None
    ended_by: Literal["itself", "killed", "stopped"] = "itself"
    frozen: list[tuple[float, float]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.listen.process.pid

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None and self.listen.process.poll() is None

    def __str__(self) -> str:
        return f"supervisor {'AB'[self.place]} (process {self.pid})"


class Crew:
    """Two places, each with a thread that keeps it filled until all are stopped."""

    def __init__(self, environment: Mapping[str, str], logs: Path, say: Callable[[str], None]) -> None:
        self._environment = environment
        self._logs = logs
        self._say = say
        self._stopping = threading.Event()
        self._someone_is_ready = threading.Condition()
        self._seen: set[psutil.Process] = set()
        self.lives: list[Life] = []
        self._keepers = [threading.Thread(target=self._keep, args=(place,), daemon=True) for place in range(2)]

    def start(self) -> None:
        for keeper in self._keepers:
            keeper.start()

    @property
    def ready(self) -> list[Life]:
        """Those that work."""
        return [life for life in self.lives if life.is_ready]

    def wait_for_all(self, timeout: float) -> bool:
        """Return when every place has a supervisor that is ready; False when the time is over before."""
        with self._someone_is_ready:
            return self._someone_is_ready.wait_for(lambda: len(self.ready) == len(self._keepers), timeout)

    def look(self) -> None:
        """Remember which processes there are, to be able to tell later whether they have ended."""
        for life in list(self.lives):
            self._seen.update(faults.processes(life.listen))

    def choose(self, chance: random.Random) -> Life | None:
        """Return one that works, None when none does."""
        ready = self.ready
        return chance.choice(ready) if ready else None

    def unready(self, life: Life) -> Path:
        """Return the file that keeps its Ray workers from setting Django up."""
        return self._logs / f"unready-{'AB'[life.place]}"

    def kill(self, life: Life) -> None:
        life.ended_by = "killed"
        faults.kill_supervisor(life.listen)

    def freeze(self, life: Life, seconds: float) -> None:
        begin = time.time()
        faults.freeze(life.listen)
        try:
            time.sleep(seconds)
        finally:
            faults.thaw(life.listen)
            life.frozen.append((begin, time.time()))

    def stop(self) -> list[psutil.Process]:
        """Tell all to stop, wait for their ends, and return what of them had to be killed."""
        self._stopping.set()
        self.look()
        for life in self.lives:
            self._tell_to_stop(life)
        for keeper in self._keepers:
            keeper.join(STOP_SECONDS)
        for life in self.lives:
            if life.ended_at is None:
                self._say(f"{life} did not stop within {STOP_SECONDS} s and is killed")
                faults.kill_supervisor(life.listen)
        for keeper in self._keepers:
            keeper.join(STOP_SECONDS)
        return faults.end_leftovers(self._seen, faults.ORPHAN_SECONDS)

    def _keep(self, place: int) -> None:
        while not self._stopping.is_set():
            unready = self._logs / f"unready-{'AB'[place]}"
            life = Life(place, Listen(None, *ARGUMENTS, **self._environment, CHAOS_UNREADY=str(unready)))
            self.lives.append(life)
            if self._stopping.is_set():
                self._tell_to_stop(life)  # whoever told the others did not know of this one
            self._wait_until_ready(life)
            life.listen.process.wait()
            life.ended_at = time.time()
            life.code = life.listen.wait()
            log = self._logs / f"{len(self.lives):03}-{'AB'[place]}-{life.pid}.log"
            log.write_text(life.listen.log)
            if not self._stopping.is_set():
                if life.ended_by == "itself":
                    self._say(f"{life} ended by itself with {life.code}: {_last_line(life.listen.log)}")
                self._stopping.wait(PAUSE)

    def _tell_to_stop(self, life: Life) -> None:
        if life.ended_at is None:
            life.ended_by = "stopped"
            life.listen.signal()

    def _wait_until_ready(self, life: Life) -> None:
        while life.listen.process.poll() is None:
            with suppress(AssertionError):  # not yet, or it has ended before
                life.listen.wait_for("is ready", timeout=5)
                with self._someone_is_ready:
                    life.ready_at = time.time()
                    self._someone_is_ready.notify_all()
                return


def _last_line(log: str) -> str:
    """Return what it said last, without the details below."""
    lines = [line for line in log.splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else "(it said nothing)"
