"""One connection is forgotten by what lies between us and the server, while it carries a statement; the others work."""

import os
import signal
import subprocess
import sys

import pytest

from tests.chaos.conftest import PATH
from tests.supervisors import ROOT, until

CLAIM = "-- Take up to limit rows"
RECORD = "-- Write the verdicts"
RECONCILE = "-- What runs in the names of a supervisor"
REVIVE = "-- A new session is a sign of life"
ANNOUNCE = "SELECT django_ray_announce"
NO_ANSWER = "no answer within 10 s"


@pytest.fixture
def file(tmp_path):
    """A path that does not exist yet, and that the body of a task can write."""
    return tmp_path / "started"


def asleep(sql):
    until(lambda: sql("SELECT 1 FROM pg_locks WHERE classid = 1145721434"), what="the supervisor asleep")


@pytest.mark.slow
def test_a_reconciliation_without_an_answer_holds_up_no_claim(supervise, proxy, enqueue, finished, sql):
    """I6: it holds the lock that a claim needs. There is no pulse that might help."""
    supervisor = supervise("--sync", through=proxy, PULSE="0")
    asleep(sql)
    swallowed = proxy.swallow_next(RECONCILE)
    (row,) = sql("SELECT id FROM django_ray_worker")
    sql("SELECT pg_notify(django_ray_channel(%s), '')", f"worker:{row['id']}")
    assert swallowed.wait(20)
    reads = [enqueue("started_at") for _ in range(3)]
    assert {finished(read, 60)["state"] for read in reads} == {"SUCCESSFUL"}
    assert supervisor.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("statement", [REVIVE, RECONCILE])
def test_who_was_taken_for_dead_settles_that_whatever_fails_meanwhile(  # noqa: PLR0917
    supervise, proxy, enqueue, finished, sql, statement
):
    """I6: the statement that fails is asked again, and no error of the database ends the supervisor."""
    supervisor = supervise("--sync", through=proxy)
    asleep(sql)
    swallowed = proxy.swallow_next(statement)
    sql("UPDATE django_ray_worker SET lost_at = now()")
    assert swallowed.wait(20)
    asked_again = proxy.swallow_next(RECONCILE)
    assert asked_again.wait(60)
    assert sql("SELECT 1 FROM django_ray_worker WHERE lost_at IS NULL")
    assert finished(enqueue("started_at"), 60)["state"] == "SUCCESSFUL"
    assert supervisor.process.poll() is None
    assert "Traceback" not in supervisor.log


@pytest.mark.slow
@pytest.mark.parametrize("statement", [CLAIM, RECORD, ANNOUNCE])
def test_a_statement_without_an_answer_is_asked_again(  # noqa: PLR0917
    supervise, proxy, enqueue, finished, sql, statement
):
    """I6: a claim, a record, and what is said on the session that listens. There is no pulse that might help."""
    supervisor = supervise("--sync", through=proxy, PULSE="0")
    asleep(sql)
    swallowed = proxy.swallow_next(statement)
    # More than its slots: it wakes up, claims, records, and announces itself anew.
    reads = [enqueue("started_at") for _ in range(5)]
    rows = [finished(read, 60) for read in reads]
    assert swallowed.wait(60)
    supervisor.wait_for(NO_ANSWER)
    assert {(row["state"], row["attempt_number"], row["losses"]) for row in rows} == {("SUCCESSFUL", 1, 0)}
    assert finished(enqueue("started_at"), 60)["state"] == "SUCCESSFUL"
    assert "Traceback" not in supervisor.log


def test_at_the_end_a_record_without_an_answer_is_asked_again_in_time(supervise, proxy, enqueue, sql, file):
    """I6, E1: its deadline is longer than what is left; nothing runs again."""
    supervisor = supervise("--sync", through=proxy)
    read = enqueue("touch_and_wait", file)
    until(file.exists)
    swallowed = proxy.swallow_next(RECORD)
    file.with_suffix(".go").touch()
    assert swallowed.wait(20)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert "could not be recorded" not in supervisor.log
    assert (read()["state"], read()["attempt_number"]) == ("SUCCESSFUL", 1)
    assert sql("SELECT 1 FROM django_ray_worker WHERE stopped_at IS NULL") == []


WAITERS = {
    "wait": "tasks.add.enqueue(1, 2).wait()",
    "await_result": "async_to_sync(tasks.add.enqueue(1, 2).await_result)()",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", WAITERS)
def test_a_waiter_whose_connections_are_forgotten_finds_the_end(migrated, proxy, sql, how):
    """I22: without a timeout; it waits for the answer to its look no longer than to any other."""
    setup = "import django; django.setup(); from asgiref.sync import async_to_sync; from tests import tasks"
    settings = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings", "PYTHONPATH": PATH}
    environment = {"DATABASE_URL": migrated.url_at(proxy.port), **settings}
    with subprocess.Popen(
        [sys.executable, "-c", f"{setup}; print({WAITERS[how]}.return_value)"],
        cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            until(lambda: sql("SELECT 1 FROM django_ray_execution WHERE awaited"), what="a waiter")
            proxy.hole()
            proxy.mend()
            sql("UPDATE django_ray_execution SET state = 'SUCCESSFUL', finished_at = now(), result = '7'")
            assert process.communicate(timeout=60)[0] == "7\n"
        finally:
            process.kill()
