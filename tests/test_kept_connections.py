"""Connections to the database that are kept between bodies: whatever became of them, the next body has one that works.

On a PostgreSQL of its own, which is restarted, and notes what it is asked.
"""

import threading

import psycopg
import pytest

from tests import untidy
from tests.chaos.postgres import HOST, Postgres
from tests.chaos.proxy import Proxy


@pytest.fixture(scope="module")
def server():
    with Postgres() as server:
        yield server


KEPT = {"CONN_MAX_AGE": None}
POOLED = {"CONN_MAX_AGE": 0}
POOL = {"min_size": 3, "timeout": 30}
LOGGED = {**KEPT, "OPTIONS": {"options": "-c log_statement=all"}}


@pytest.fixture
def start(server):
    """Start processes for bodies, with settings of their database; ended with the test."""
    started = []

    def _start(port=None, **database):
        process = untidy.Process(server.url_at(port or server.port), **database)
        started.append(process)
        return process

    yield _start
    for process in started:
        with process:
            pass


@pytest.fixture
def asked(server):
    """What the server has been asked by a connection that is LOGGED, which it notes before it answers."""

    def _asked(pid):
        lines = (server._data / "log").read_text().splitlines()
        return [line.partition("LOG:  statement: ")[2] for line in lines if f"[{pid}] LOG:  statement: " in line]

    return _asked


@pytest.mark.parametrize(
    "database",
    [
        KEPT,
        {"CONN_MAX_AGE": 3600},
        {**KEPT, "CONN_HEALTH_CHECKS": True},
        pytest.param({**POOLED, "OPTIONS": {"pool": True}}, marks=pytest.mark.slow),
        {**POOLED, "OPTIONS": {"pool": POOL}},
    ],
    ids=["without end", "for an hour", "with health checks", "pool", "pool of three"],
)
def test_a_restart_of_the_database_costs_the_next_task_nothing(server, start, database):
    """H11."""
    process = start(**database)
    before = process.run(untidy.backend)
    assert process.run(untidy.backend) == before or "pool" in database.get("OPTIONS", {})
    server.restart()
    assert process.run(untidy.query) == 42
    assert [process.run(untidy.query) for _ in range(5)] == [42] * 5


def test_connections_whose_sessions_were_ended_are_replaced(server, start):
    """H11."""
    process = start(**KEPT)
    for _ in range(3):
        before = process.run(untidy.backend)
        with psycopg.connect(server.url, autocommit=True) as session:
            # Returns when it is gone.
            assert session.execute("SELECT pg_terminate_backend(%s, 60000)", [before]).fetchone() == (True,)
        assert process.run(untidy.backend) != before


def test_a_connection_that_is_fit_is_not_asked(start, asked):
    """H11. A look at its socket says so."""
    process = start(**LOGGED)
    pid = process.run(untidy.backend)
    process.run(untidy.query)  # now it has answered
    before = len(asked(pid))
    for _ in range(3):
        process.run(untidy.query)
    process.run(untidy.pid)
    assert asked(pid)[before:] == ["SELECT 41 + 1"] * 3


def test_a_connection_that_has_not_answered_for_long_is_asked_before_its_first_use(start, asked):
    """H11. Once, and only if the body uses it."""
    process = start(**LOGGED)
    pid = process.run(untidy.backend)
    process.run(untidy.forget_answers)
    before = len(asked(pid))
    process.run(untidy.pid)
    process.run(untidy.query)
    process.run(untidy.query)
    assert asked(pid)[before:] == ["SELECT 1", "SELECT 41 + 1", "SELECT 41 + 1"]


def test_a_connection_that_has_answered_only_at_the_beginning_of_a_long_body_is_asked(start, asked):
    """H11. What has been silent for as long as that body may be forgotten."""
    process = start(**LOGGED)
    pid = process.run(untidy.ask_and_go_on)
    before = len(asked(pid))
    process.run(untidy.query)
    assert asked(pid)[before:] == ["SELECT 1", "SELECT 41 + 1"]


def test_a_connection_that_a_firewall_has_forgotten_ends_with_the_question_and_not_with_the_task(
    server, start, tmp_path
):
    """H11. Its socket looks well, until something is sent."""
    with Proxy(HOST, server.port) as proxy:
        process = start(proxy.port, **KEPT)
        process.run(untidy.query)
        process.run(untidy.forget_answers)
        proxy.hole()
        proxy.mend()
        process.begin((untidy.query_after_touch, str(tmp_path / "asked")))
        asked = threading.Event()
        while not (tmp_path / "asked").exists():
            asked.wait(0.005)
        proxy.cut()
        (envelope,) = process.end().envelopes
    assert envelope["kind"] == "returned", envelope


def test_a_connection_that_a_body_closed_beneath_django_is_replaced(start):
    """H10."""
    process = start(**KEPT)
    assert process.run(untidy.leave, "raw_close") == "raw_close"
    assert process.run(untidy.query) == 42


def test_what_the_next_body_writes_is_committed_whatever_this_one_has_told_psycopg(server, start):
    """H10."""
    process = start(**KEPT)
    process.run(untidy.leave, "raw_transaction")
    process.run(untidy.write_table, "written")
    with psycopg.connect(server.url) as session:
        assert session.execute("SELECT count(*) FROM written").fetchone() == (0,)


@pytest.mark.parametrize("database", [KEPT, {"CONN_MAX_AGE": 0}], ids=["kept", "closed after each"])
def test_a_connection_whose_close_raises_changes_no_outcome(server, start, database):
    """H10."""
    process = start(**database)
    assert process.run(untidy.leave, "unclosable") == "unclosable"
    assert process.run(untidy.query) == 42
    assert process.run(untidy.backend) > 0


def test_a_connection_whose_check_raises_before_a_body_does_not_fail_it(start):
    """H10."""
    process = start(**KEPT)
    assert process.run(untidy.leave, "unusable") == "unusable"
    assert process.run(untidy.query) == 42
