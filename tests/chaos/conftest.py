import os
import subprocess
import sys

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.chaos.postgres import HOST, Postgres
from tests.chaos.proxy import Proxy
from tests.supervisors import ROOT, Listen, until

PATH = f"{ROOT}{os.pathsep}{ROOT / 'example'}"


@pytest.fixture(scope="module")
def migrated():
    """A private server with our tables."""
    with Postgres() as server:
        environment = {"DATABASE_URL": server.url, "DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
            check=True, cwd=ROOT, env={**os.environ, **environment, "PYTHONPATH": PATH},
        )  # fmt: skip
        yield server


@pytest.fixture
def proxy(migrated):
    with Proxy(HOST, migrated.port) as proxy:
        yield proxy


@pytest.fixture
def sql(migrated):
    """Send a statement on a session of its own, straight to the server; returns the rows."""

    def _sql(statement, *parameters):
        with psycopg.connect(migrated.url, autocommit=True, row_factory=dict_row, connect_timeout=5) as session:
            cursor = session.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    yield _sql
    _sql("TRUNCATE django_ray_execution, django_ray_worker")


@pytest.fixture
def enqueue(sql):
    """Insert an execution; returns what reads its row."""

    def _enqueue(task, *args, queue="default", module="tests.tasks"):
        (row,) = sql(
            "INSERT INTO django_ray_execution (callable_path, args, queue_name) VALUES (%s, to_jsonb(%s::text[]), %s)"
            " RETURNING task_id",
            f"{module}.{task}", list(map(str, args)), queue,
        )  # fmt: skip
        return lambda: sql("SELECT * FROM django_ray_execution WHERE task_id = %s", row["task_id"])[0]

    return _enqueue


@pytest.fixture
def supervise(migrated, sql):
    """Start a supervisor, behind a proxy or not; ended when the test is over, before its rows are gone."""
    started = []

    def _supervise(*arguments, through=None, wait=True, **environment):
        url = migrated.url if through is None else migrated.url_at(through.port)
        supervisor = Listen(
            None, *arguments, DATABASE_URL=url, DJANGO_SETTINGS_MODULE="tests.chaos.settings", **environment
        )
        started.append(supervisor)
        if wait:
            supervisor.wait_for("is ready")
        return supervisor

    yield _supervise
    for supervisor in started:
        with supervisor:
            pass


@pytest.fixture
def finished():
    """Wait for the end of an execution; returns its row."""

    def _finished(read, timeout=30):
        return until(lambda: (row := read())["finished_at"] and row, timeout, "the end of the execution")

    return _finished
