"""The harness does to the system what it says; else a soak that passes says nothing."""

import os
import subprocess
import sys
import threading
import time

import psutil
import psycopg
import pytest

from tests.chaos import faults
from tests.chaos.postgres import HOST, Postgres
from tests.chaos.proxy import Proxy
from tests.supervisors import until

SOON = 30  # Seconds within which everything here happens.


@pytest.fixture(scope="module")
def server():
    with Postgres() as server:
        yield server


@pytest.fixture
def proxy(server):
    with Proxy(HOST, server.port) as proxy:
        yield proxy


@pytest.fixture
def connect(server):
    """Open sessions, directly or through a proxy."""
    opened = []

    def _connect(through=None, **options):
        url = server.url if through is None else server.url_at(through.port)
        session = psycopg.connect(url, **{"autocommit": True, "connect_timeout": SOON, **options})
        opened.append(session)
        return session

    yield _connect
    for session in opened:
        session.close()


def pid_of(session):
    return session.execute("SELECT pg_backend_pid()").fetchone()[0]


def is_alive(session, pid):
    return session.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()[0] == 1


class Asked:
    """A statement sent from a thread, whose answer may never come."""

    def __init__(self, session, sql):
        self.answer = self.error = None
        self._session = session
        self._sql = sql
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self):
        try:
            self.answer = self._session.execute(self._sql).fetchone()
        except psycopg.Error as error:
            self.error = error

    @property
    def is_over(self):
        return not self._thread.is_alive()

    def wait(self):
        self._thread.join(SOON)
        assert self.is_over
        return self


def test_the_server_keeps_what_was_committed_through_a_crash(server, connect):
    session = connect()
    session.execute("CREATE TABLE kept AS SELECT 42 AS number")
    before = time.time()
    server.stop()
    assert not server.up.is_set()
    with pytest.raises(psycopg.OperationalError):
        connect()
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    server.start()
    assert server.up.is_set()
    assert connect().execute("DROP TABLE kept; SELECT 1")
    assert before <= server.outages[-1][0] < server.outages[-1][1] <= time.time()


def test_sessions_are_terminated(server, connect):
    session = connect()
    assert server.terminate_sessions() >= 1
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


def test_the_proxy_passes_everything_on(proxy, connect):
    session = connect(proxy)
    long = "x" * 1_000_000
    assert session.execute("SELECT %s", [long]).fetchone() == (long,)
    session.execute("LISTEN bell")
    connect().execute("NOTIFY bell")
    assert next(session.notifies(timeout=SOON)).channel == "bell"
    session.close()
    until(lambda: proxy.connections == 0, SOON)


def test_a_hole_swallows_without_closing_and_keeps_what_was_in_it(proxy, connect):
    direct, session = connect(), connect(proxy)
    pid = pid_of(session)
    proxy.hole()
    asked = Asked(session, "SELECT 1")
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        connect(proxy, connect_timeout=2)
    assert not asked.is_over
    proxy.mend()
    assert pid_of(connect(proxy)) != pid
    assert not asked.is_over
    assert is_alive(direct, pid), "the server does not learn that nobody is there any more"
    proxy.cut()
    assert isinstance(asked.wait().error, psycopg.OperationalError)
    until(lambda: not is_alive(direct, pid), SOON)


def test_in_a_hole_the_server_does_not_hear_that_the_client_is_gone(proxy, connect):
    direct, session = connect(), connect(proxy)
    pid = pid_of(session)
    proxy.hole()
    session.close()
    proxy.mend()
    pid_of(connect(proxy))  # whatever the proxy had to do about the end of the other one is done
    assert is_alive(direct, pid)


def test_a_cut_closes_both_sides(proxy, connect):
    direct, session = connect(), connect(proxy)
    pid = pid_of(session)
    proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    until(lambda: not is_alive(direct, pid), SOON)
    assert pid_of(connect(proxy))


@pytest.mark.parametrize("sql", ["COMMIT", "commit;", "SELECT 2; COMMIT"])
def test_the_reply_to_a_commit_is_dropped_and_the_commit_stands(proxy, connect, sql):
    direct, session, other = connect(), connect(proxy), connect(proxy)
    direct.execute("CREATE TABLE written (number int)")
    dropped = proxy.drop_next_commit_reply()
    other.execute("SELECT 'not a COMMIT' AS committed -- nor is COMMIT")
    session.execute("BEGIN")
    session.execute("INSERT INTO written VALUES (1)")
    assert not dropped.is_set()
    with pytest.raises(psycopg.OperationalError):
        session.execute(sql)
    assert dropped.wait(SOON)
    assert direct.execute("SELECT count(*) FROM written").fetchone() == (1,)
    direct.execute("DROP TABLE written")
    with other.transaction():
        assert pid_of(other), "only one reply is dropped"


def test_a_prepared_commit_is_found_too(proxy, connect):
    session = connect(proxy)
    dropped = proxy.drop_next_commit_reply()
    session.execute("BEGIN")
    with pytest.raises(psycopg.OperationalError):
        session.execute("COMMIT", prepare=True)
    assert dropped.wait(SOON)


def test_a_proxy_before_a_server_that_is_down_closes_at_once(server, proxy, connect):
    session = connect(proxy)
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connect(proxy)
    server.start()
    assert pid_of(connect(proxy))


class Family:
    """Processes that look like those of a supervisor with a Ray of its own."""

    PARENT = """
import os, subprocess, sys, time
folder, home = sys.argv[1:]
for name in ("raylet", "gcs_server"):
    os.symlink("/bin/sh", f"{home}/{name}")
    subprocess.Popen([f"{home}/{name}", "-c", "read line; :", f"--temp_dir={folder}"], stdin=subprocess.PIPE)
for title in ("ray::IDLE", "ray::invoke", "ray::DashboardAgent"):
    subprocess.Popen([title, "600"], executable="/bin/sleep")
print("ready", flush=True)
time.sleep(600)
"""

    def __init__(self, folder, home):
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PARENT, str(folder), str(home)], stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()
        until(lambda: len(faults.ray_workers(self)) == 2, SOON)  # each has become what it is called

    def signal(self, number):
        self.process.send_signal(number)


@pytest.fixture
def family(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    family = Family(folder, tmp_path)
    yield family
    children = faults.processes(family)
    family.process.kill()
    family.process.wait()
    family.process.stdout.close()
    faults.end_leftovers(children)


def test_the_processes_of_a_supervisor_are_told_apart(family):
    assert [worker.cmdline()[0] for worker in faults.ray_workers(family)] == ["ray::invoke", "ray::IDLE"]
    assert [process.name() for process in faults.raylets(family)] == ["raylet"]
    assert [process.name() for process in faults.gcs_servers(family)] == ["gcs_server"]


def test_a_ray_worker_that_runs_a_task_is_killed_first(family):
    busy, idle = faults.ray_workers(family)
    assert faults.kill_ray_worker(family) == busy
    until(lambda: faults.ray_workers(family) == [idle], SOON)
    assert faults.kill_ray_worker(family) == idle
    until(lambda: faults.ray_workers(family) == [], SOON)
    assert faults.kill_ray_worker(family) is None


def test_a_raylet_is_killed(family):
    raylet = faults.kill_raylet(family)
    until(lambda: raylet.status() == psutil.STATUS_ZOMBIE, SOON)
    assert faults.kill_raylet(family) is None


def test_a_supervisor_is_frozen_and_thawed(family):
    process = psutil.Process(family.process.pid)
    faults.freeze(family)
    until(lambda: process.status() == psutil.STATUS_STOPPED, SOON)
    faults.thaw(family)
    until(lambda: process.status() == psutil.STATUS_SLEEPING, SOON)


def test_a_killed_supervisor_leaves_nothing_behind(family, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "ORPHAN_SECONDS", 0.2)
    children = faults.processes(family)
    left = faults.kill_supervisor(family)
    assert {process.pid for process in left} <= {process.pid for process in children}
    until(lambda: not any(map(faults.runs, children)), SOON)  # which gave them as long as it gave the orphans
    assert not (tmp_path / "temporary").exists()
    assert faults.processes(family) == []


def test_the_ledger_has_one_line_per_event(tmp_path, monkeypatch):
    from tests.chaos import tasks

    monkeypatch.setenv("CHAOS_LEDGER", str(tmp_path))
    tasks.note("key", 1, "started")
    tasks.note("key", 1, "ended")
    lines = (tmp_path / f"{os.getpid()}.ledger").read_text().splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["key", "1", event, str(os.getpid())] for event in ("started", "ended")
    ]
