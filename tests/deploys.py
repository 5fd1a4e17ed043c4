"""A deploy: versions of a project, each with a django-ray of its own, over one database.

The django-ray of a version is that of this checkout, or a released one: its wheel in tests/released/, unpacked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Self
from uuid import UUID, uuid4

import psycopg

from tests.supervisors import ROOT, Listen, Process, url_of

RELEASED = ROOT / "tests" / "released"
RELEASE = "0.1.0"
LAST_MIGRATION = "0004_cancel"  # of that release
WHEEL = RELEASED / f"django_ray-{RELEASE}-py3-none-any.whl"
SCHEMA, ROWS = RELEASED / "schema.sql", RELEASED / "rows.sql"

# A project needs nothing of this checkout, so that a released django-ray is not mixed with it.
SETTINGS = """
import os

import dj_database_url

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django_ray"]
USE_TZ = True
DATABASES = {{"default": dj_database_url.parse(os.environ["DATABASE_URL"])}}
TASKS = {{
    alias: {{
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "reports"],
        # Far longer than any test: what happens is done by an event, not by the pulse.
        "OPTIONS": {{"PULSE": 600, "IMPORT_GRACE": {grace}}},
    }}
    for alias in ("default", "busy")
}}
"""
# Writes a line of each enqueue.
WEB = """
import signal, threading, time
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
import django
django.setup()
import deployed_tasks
while not stop.wait(0.02):
    began = time.monotonic()
    result = deployed_tasks.{task}.enqueue({args})
    print("enqueued", result.id, began, time.monotonic(), flush=True)
    deployed_tasks.{task}.get_result(result.id)
"""


class Enqueue(NamedTuple):
    """When it began and ended, by the clock that all processes share."""

    id: UUID
    began: float
    ended: float

    @classmethod
    def read(cls, line: str) -> Self:
        _, name, began, ended = line.split()
        return cls(UUID(name), float(began), float(ended))


class Web(Process):
    """A web process that enqueues again and again."""

    def goes_on(self) -> None:
        """Return when it has begun and ended another enqueue."""
        now = monotonic()
        while Enqueue.read(self.wait_for("enqueued ")).began < now:
            pass

    @cached_property
    def enqueues(self) -> list[Enqueue]:
        """All that it has done. Ends it."""
        self.signal()
        assert self.wait() == 0, self.log
        return [Enqueue.read(line) for line in self.lines]


class Version:
    """One version of the project: its web processes, its supervisors, its manage.py."""

    def __init__(self, folder: Path, code: str, *, url: str, started: ExitStack, packages: Path | None, grace: int):
        folder.mkdir()
        (folder / "deployed_settings.py").write_text(SETTINGS.format(grace=grace))
        (folder / "deployed_tasks.py").write_text(code)
        self._folder = folder
        self._started = started
        self._environment = {
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "deployed_settings",
            "PYTHONPATH": os.pathsep.join(str(path) for path in (packages, folder) if path),
            # Not what lies in the folder that a process is started in: that is this checkout.
            "PYTHONSAFEPATH": "1",
        }

    def run(self, *command: str) -> str:
        """Return what a Python of this version writes."""
        environment = {**os.environ, **self._environment}
        done = subprocess.run([sys.executable, *command], env=environment, check=False, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def enqueue(self, name: str, *args: object) -> str:
        """Enqueue in a web process of this version; return the id."""
        code = (
            f"import django; django.setup(); import deployed_tasks; print(deployed_tasks.{name}.enqueue(*{args!r}).id)"
        )
        return self.run("-c", code)

    def enqueue_on_and_on(self, name: str, *args: object, **environment: str) -> Web:
        """Start a web process that does it until it is told to end."""
        code = WEB.format(task=name, args=", ".join(map(repr, args)))
        return self._started.enter_context(Web("-c", code, **self._environment, **environment))

    def migrate(self, *arguments: str, **environment: str) -> Process:
        """Start manage.py migrate."""
        command = ("-m", "django", "migrate", "--verbosity", "0", *arguments)
        return self._started.enter_context(Process(*command, **self._environment, **environment))

    def listen(self, *arguments: str) -> Listen:
        """Start a supervisor without Ray."""
        return self._started.enter_context(
            Listen(None, "--sync", "--pythonpath", str(self._folder), *arguments, **self._environment)
        )

    def supervise(self, *arguments: str) -> Listen:
        """Start one, and wait until it is ready."""
        supervisor = self.listen(*arguments)
        supervisor.wait_for("is ready")
        return supervisor


class Deploy:
    """Makes versions of a project over one database, and ends what they have started."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._started = ExitStack()

    def version(self, name: str, code: str, *, packages: Path | None = None, grace: int = 600) -> Version:
        """Return a version of the project: its tasks, and the django-ray in packages, else that of this checkout."""
        folder = self._folder / name
        return Version(folder, code, url=self._url, started=self._started, packages=packages, grace=grace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()


@contextmanager
def database_of_its_own(*files: Path) -> Generator[str]:
    """Make a database, run files of SQL in it and give its URL; it is dropped in the end."""
    name = f"deploy_{uuid4().hex}"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            with psycopg.connect(url_of(name), autocommit=True) as session:
                for file in files:
                    session.execute(file.read_bytes())
            yield url_of(name)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def unpack_release(folder: Path) -> Path:
    """Return the folder with the packages of the released wheel, to be put in front of what is imported."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return folder
