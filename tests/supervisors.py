"""Supervisors for tests: the real command in a process of its own, or its inside with a fake executor."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from anyio import create_task_group, sleep_forever
from psycopg import sql
from psycopg.rows import scalar_row

from django_ray.options import Options
from django_ray_worker.core.config import Config
from django_ray_worker.core.outcome import Returned
from django_ray_worker.database.store import Store
from django_ray_worker.running.answer import Answer
from django_ray_worker.showing.monitor import Monitor
from django_ray_worker.stop import Stop
from django_ray_worker.supervisor import Supervisor, stock_of
from django_ray_worker.waking.registration import register

ROOT = Path(__file__).resolve().parent.parent
# The class of the locks that sessions of supervisors hold, as pg_locks has it.
IDENTITY = "(1145721435 # django_ray_world())::oid"

# Before a command: as a script starts it with `nohup command &`.
NOHUP = ("sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh")


def until(condition, timeout=60, what="the condition"):
    """Return the first true answer of condition(), asked again and again for at most timeout seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(0.005)
    return answer


def database_url(connection) -> str:
    """The URL of the test database, for other processes."""
    return url_of(connection.settings_dict["NAME"])


def url_of(name: str) -> str:
    """The URL of a database of the tests' server."""
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path="/" + name))


def url_as(user: str, password: str, connection) -> str:
    """The URL of the test database, for who logs in with this role alone."""
    parts = urlsplit(database_url(connection))
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


def notifications(session, other) -> list[str]:
    """Return the channels of all notifications sent so far: those that come before one that is sent now by other."""
    session.execute("LISTEN sentinel")
    other.execute("NOTIFY sentinel")
    channels = []
    for notification in session.notifies(timeout=30):
        if notification.channel == "sentinel":
            return channels
        channels.append(notification.channel)
    raise AssertionError("the sentinel did not come back")


def hear(session, bell: str) -> str:
    """LISTEN to a bell; return the channel."""
    cursor = session.cursor(row_factory=scalar_row)
    channel = cursor.execute("SELECT django_ray_channel(%s)", [bell]).fetchone()
    session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    return channel


class Process:
    """A process whose output is read while it runs; what is left of it is ended with SIGTERM."""

    def __init__(self, *command: str, above: Sequence[str] = (), **environment: str) -> None:
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*(above or [sys.executable]), *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, text: str, timeout: float = 120) -> str:
        """Return the next line of the output that contains text."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._queue.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} within {timeout} s after:\n{''.join(self.lines)}") from None
            assert line is not None, f"ended before {text!r}:\n{''.join(self.lines)}"
            self.lines.append(line)
            if text in line:
                return line

    def wait_for_all(self, *texts: str, timeout: float = 120) -> None:
        """Return when the output has contained each of these, in any order."""
        left = set(texts)
        while left:
            line = self.wait_for("", timeout)
            left = {text for text in left if text not in line}

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Return the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        while not self._queue.empty():
            if line := self._queue.get():
                self.lines.append(line)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()
                raise
        elif not self.process.stdout.closed:
            self.wait()


class Listen(Process):
    """A django-ray-listen in a process of its own."""

    def __init__(self, connection, *arguments: str, above: Sequence[str] = (), **environment: str) -> None:
        defaults = {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
        }
        if connection is not None:
            defaults["DATABASE_URL"] = database_url(connection)
        super().__init__(
            "-c",
            "from django_ray_worker.main import main; main()",
            *arguments,
            above=above,
            **{**defaults, **environment},
        )


class Instant:
    """A fake executor: every claim returns at once. Remembers what it ran, and says when enough has run."""

    address = "nowhere"
    cpus = 50
    resources = None

    is_usable = True
    is_stuck = False
    most_per_call = 1
    wanted = 0
    replicas: dict = {}  # noqa: RUF012 - a fake

    def __init__(self) -> None:
        self.ran: list = []
        self._progress = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def abandon(self) -> None: ...

    async def until_gone(self) -> str:
        await sleep_forever()

    def places(self, claim) -> int:
        return 1

    def grow(self, claim) -> None: ...

    def lacks(self, claim) -> dict[str, float]:
        return {}

    async def look(self) -> None: ...

    def glance(self) -> None: ...

    def want(self, places) -> None: ...

    async def until_resized(self) -> None:
        await sleep_forever()

    async def until_changed(self) -> None:
        await sleep_forever()

    async def run(self, claims):
        self.ran.extend(claim.task_id for claim in claims)
        self._progress.set()
        return Answer(
            outcomes=[Returned('"done"') for _ in claims], seconds=[0.001] * len(claims), outputs=[""] * len(claims)
        )

    async def has_run(self, number: int) -> None:
        """Return when so many have run; TimeoutError when nothing has run for 20 s."""
        while len(self.ran) < number:
            self._progress.clear()
            async with asyncio.timeout(20):
                await self._progress.wait()


def config(**changes) -> Config:
    values = {
        "backend": "default",
        "queues": ("default", "other"),
        "concurrency": None,
        "cluster": None,
        "sync": False,
        "burst": False,
        "grace": 5.0,
        "pulse": 0.0,
        "settings_module": "tests.settings",
        "project": ROOT,
        "options": Options(),
    }
    return Config(**values | changes)


@asynccontextmanager
async def living(database, executor, *, endpoint=None, **changes):
    """A supervisor inside this process, without its signals and its Ray."""
    settings = config(**changes)
    stop = Stop()
    monitor = Monitor(stop, executor, None if endpoint is None else endpoint.observer)
    with nullcontext() if endpoint is None else endpoint.serving(monitor):
        async with _living(settings, database, executor, stop, monitor) as life:
            yield life


@asynccontextmanager
async def _living(settings, database, executor, stop, monitor):
    async with database.pool() as pool:
        store = Store(pool, backend=settings.backend, queues=settings.queues, options=settings.options)
        registration = await register(
            store, stock=partial(stock_of, settings, executor), ray_address=executor.address, pulse=settings.pulse
        )  # fmt: skip
        life = Supervisor(registration, settings, executor, database=database, store=store, stop=stop, monitor=monitor)
        async with create_task_group() as tasks:
            tasks.start_soon(life.live)
            try:
                yield life
            finally:
                stop.intake.cancel()
