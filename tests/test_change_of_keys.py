"""Keys and channels change while supervisors live: they take the new ones, and lose no work.

The supervisors are those of 0.1.0, as it was released; and those of today, for a change that comes later.
"""

import os
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from django_ray_sql import load
from tests.deploys import WHEEL
from tests.supervisors import ROOT, Listen, until

SETTINGS = """
import os
import dj_database_url

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django_ray"]
USE_TZ = True
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"])}
TASKS = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "other"],
        # Far longer than any test: what happens is done by an event, not by the pulse.
        "OPTIONS": {"PULSE": 600},
    },
}
"""
TASKS = """
import time
from pathlib import Path
from django.tasks import task


@task
def add(a, b):
    return a + b


@task
def wait_for(path):
    Path(path + ".started").touch()
    while not Path(path).exists():
        time.sleep(0.01)
    return "found"
"""
INSERT = "INSERT INTO django_ray_execution (callable_path, args) VALUES ('keys_tasks.add', '[1, 2]')"
INSERT_OTHER = (
    "INSERT INTO django_ray_execution (queue_name, callable_path, args) VALUES ('other', 'keys_tasks.add', '[1, 2]')"
)
OLD_KEYS = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 1145721435"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
ASLEEP = (
    "SELECT count(DISTINCT pid) AS n FROM pg_locks WHERE locktype = 'advisory' AND classid = 1145721434"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
OBJECTS = (
    "SELECT 'TABLE' AS kind, oid::regclass::text AS name FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    " UNION ALL"
    " SELECT 'FUNCTION', oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """The packages of 0.1.0, as a path for Python."""
    folder = tmp_path_factory.mktemp("released")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return str(folder)


SOON = 30  # Seconds. Less than the 60 after which everybody looks for its neighbour anyway.
TODAY = os.pathsep.join(str(ROOT / part) for part in (".", "worker", "migrations_sql"))


class Project:
    """A project in a database of its own, whose processes are of one version of django-ray or another."""

    def __init__(self, folder, url, started):
        self.folder, self.url, self._started = folder, url, started
        (folder / "keys_settings.py").write_text(SETTINGS)
        (folder / "keys_tasks.py").write_text(TASKS)

    def login(self, role):
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}"))

    def environment(self, packages, role):
        return {
            "DATABASE_URL": self.login(role) if role else self.url,
            "DJANGO_SETTINGS_MODULE": "keys_settings",
            "PYTHONPATH": os.pathsep.join([packages, str(self.folder)]),
            "PYTHONSAFEPATH": "1",
        }

    def migrate(self, packages, *target, role=None):
        command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0", "django_ray", *target]
        environment = {**os.environ, **self.environment(packages, role)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def has_migrated(self, process):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output

    def supervise(self, packages, *arguments, role=None):
        supervisor = Listen(
            None, "--sync", "--pythonpath", str(self.folder), *arguments, **self.environment(packages, role)
        )
        self._started.enter_context(supervisor)
        supervisor.wait_for("is ready")
        return supervisor

    def connect(self):
        return self._started.enter_context(psycopg.connect(self.url, autocommit=True, row_factory=dict_row))


@contextmanager
def _database(server, **options):
    name = f"keys_{uuid4().hex}"
    server.execute(f"CREATE DATABASE {name}{''.join(f' {key} {value}' for key, value in options.items())}")
    try:
        yield name
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def project(tmp_path):
    parts = urlsplit(os.environ["DATABASE_URL"])
    with (
        psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server,
        _database(server) as name,
        ExitStack() as started,
    ):
        yield Project(tmp_path, urlunsplit(parts._replace(path=f"/{name}")), started)


@pytest.fixture
def session(project, released):
    """A session in the project's database, with the tables of 0.1.0."""
    project.has_migrated(project.migrate(released))
    return project.connect()


def rows(session):
    return session.execute(
        "SELECT state, attempt_number AS attempt, failures, losses FROM django_ray_execution ORDER BY task_id"
    ).fetchall()


def succeeded(number):
    return [{"state": "SUCCESSFUL", "attempt": 1, "failures": 0, "losses": 0}] * number


def asleep(session, number):
    return lambda: session.execute(ASLEEP).fetchone()["n"] == number


def lost(session):
    return session.execute("SELECT id FROM django_ray_worker WHERE lost_at IS NOT NULL").fetchall()


def test_released_supervisors_that_sleep_through_the_migration_are_rung_afterwards(project, session, released):
    """I7: by their sessions, which end; nobody loses its work, and nobody is taken for dead."""
    supervisors = [project.supervise(released), project.supervise(released, "--queue", "other")]
    until(asleep(session, 2))
    project.has_migrated(project.migrate(TODAY))
    until(lambda: not session.execute(OLD_KEYS).fetchall(), SOON, "no session has an old key")
    session.execute(INSERT)
    session.execute(INSERT_OTHER)
    until(lambda: rows(session) == succeeded(2))
    assert lost(session) == []
    assert [supervisor.process.poll() for supervisor in supervisors] == [None, None]


def test_what_is_enqueued_in_the_moment_of_the_migration_runs(project, session, released):
    """I7: a supervisor of 0.1.0 may still listen by the old names when somebody rings by the new ones."""
    project.supervise(released)
    until(asleep(session, 1))
    migration = project.migrate(TODAY)
    number = 0
    while migration.poll() is None:
        session.execute(INSERT)
        number += 1
        time.sleep(0.01)
    project.has_migrated(migration)
    assert number
    until(lambda: rows(session) == succeeded(number))
    assert lost(session) == []


def test_a_task_that_runs_through_the_migration_is_recorded_and_costs_nothing(project, session, released, tmp_path):
    """I7: the peer of its supervisor does not take it back."""
    project.supervise(released, "--queue", "default")
    project.supervise(released, "--queue", "other")
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, args)"
        " VALUES ('keys_tasks.wait_for', jsonb_build_array(%s::text))",
        [str(tmp_path / "go")],
    )
    until((tmp_path / "go.started").exists)
    project.has_migrated(project.migrate(TODAY))
    project.supervise(TODAY, "--queue", "other")  # which looks for dead predecessors
    (tmp_path / "go").touch()
    until(lambda: rows(session) == succeeded(1))
    assert lost(session) == []


def test_the_migration_needs_no_right_over_the_sessions_of_supervisors(project, session, released):
    """I7: another role's; each ends its own."""
    owner, supervisor = (f"{kind}_{uuid4().hex[:12]}" for kind in ("owner", "supervisor"))
    session.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'secret'; CREATE ROLE {supervisor} LOGIN PASSWORD 'secret'")
    try:
        session.execute(f"GRANT ALL ON SCHEMA public TO {owner}; ALTER DATABASE {session.info.dbname} OWNER TO {owner}")
        for row in session.execute(OBJECTS).fetchall():
            session.execute(f"ALTER {row['kind']} {row['name']} OWNER TO {owner}")
        session.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {supervisor}")
        life = project.supervise(released, role=supervisor)
        until(asleep(session, 1))
        project.has_migrated(project.migrate(TODAY, role=owner))
        until(lambda: not session.execute(OLD_KEYS).fetchall(), SOON, "no session has an old key")
        session.execute(INSERT)
        until(lambda: rows(session) == succeeded(1))
        life.signal()
        assert life.wait() == 0
    finally:
        session.execute(f"DROP OWNED BY {supervisor}; REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}")
        session.execute(f"DROP ROLE {owner}; DROP ROLE {supervisor}")


def test_a_transaction_that_has_rung_by_the_old_keys_ends_before_they_change(project, session, released):
    """I7: who falls asleep by the new ones would not wait for it. Who enqueues meanwhile waits for nothing of this."""
    project.supervise(released)
    until(asleep(session, 1))
    long = project.connect()
    long.execute("BEGIN")
    long.execute(INSERT)
    migration = project.migrate(TODAY)
    waits = "SELECT 1 FROM pg_locks WHERE relation = 'django_ray_execution'::regclass AND NOT granted"
    until(lambda: session.execute(waits).fetchall(), what="the migration waits for the transaction")
    took = []
    for _ in range(50):
        began = time.monotonic()
        session.execute(INSERT)
        took.append(time.monotonic() - began)
        time.sleep(0.05)
    assert migration.poll() is None
    assert sorted(took)[len(took) // 2] < 1  # most do not meet it at all
    long.execute("COMMIT")
    project.has_migrated(migration)
    until(lambda: rows(session) == succeeded(51))


def test_supervisors_of_today_take_the_keys_of_a_later_migration(project):
    """I7: each looks whether its session still is itself whenever it looks for its neighbour."""
    project.has_migrated(project.migrate(TODAY))
    session = project.connect()
    lives = [project.supervise(TODAY), project.supervise(TODAY, "--queue", "other")]
    until(asleep(session, 2))
    later = load("0005_worlds").up.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    session.execute(later.replace("1145721435", "1145721436").replace("'django_ray:'", "'django_ray_2:'"))
    for life in lives:
        life.wait_for("opening another one", SOON)
    until(asleep(session, 2))
    until(lambda: not session.execute(OLD_KEYS).fetchall(), SOON, "no session has an old key")
    session.execute(INSERT)
    until(lambda: rows(session) == succeeded(1))
    assert lost(session) == []


def test_counts_go_on_where_an_int4_ends(project, session, released):
    """I20: the key of django_ray_minute grew by one for each queue, supervisor and second."""
    session.execute("SELECT setval(pg_get_serial_sequence('django_ray_minute', 'id'), 2147483647)")
    life = project.supervise(released)
    session.execute(INSERT)
    life.wait_for("Counts cannot be written")
    assert session.execute("SELECT 1 FROM django_ray_minute").fetchall() == []
    project.has_migrated(project.migrate(TODAY))
    counted = "SELECT coalesce(sum(succeeded), 0)::int AS n, max(id) AS id FROM django_ray_minute"
    session.execute(INSERT)
    until(lambda: session.execute(counted).fetchone()["n"] == 1)
    assert session.execute(counted).fetchone()["id"] == 2147483648
