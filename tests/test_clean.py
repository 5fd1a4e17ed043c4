"""Each attempt starts clean: what a body sets for itself in its process or its session does not reach the next one."""

import json
from contextvars import ContextVar
from decimal import getcontext

import pytest
from django.db import connection, connections
from django.tasks import task
from django.utils import timezone, translation

from django_ray.runtime import sessions
from django_ray.runtime.entrypoint import invoke
from tests.test_runtime import payload

pytestmark = pytest.mark.django_db(transaction=True)

bound = ContextVar("bound", default="nothing")  # as structlog binds
ENGINE = "tests.tenants"
SHOWN = (
    "SELECT current_setting('search_path'), current_setting('statement_timeout'), current_user,"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
    " to_regclass('pg_temp.left_behind') IS NULL, (SELECT count(*) FROM pg_listening_channels()),"
    " current_setting('transaction_isolation')"
)


@task
def disturb(statements):
    bound.set("something")
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    getcontext().prec = 5
    connection.execute_wrappers.append(lambda execute, *asked: execute(*asked))
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@task
async def disturb_later():
    disturb.func.__globals__["bound"].set("something")
    translation.activate("de")


@task
def disturb_isolation():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.connection.isolation_level = 4


@task
def disturb_wrapper():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.set_schema("tenant")


@task
def surroundings():
    with connection.cursor() as cursor:
        cursor.execute(SHOWN)
        session = list(cursor.fetchone())
    wrappers = [type(wrapper).__name__ for wrapper in connection.execute_wrappers if type(wrapper).__name__ != "_Watch"]
    mine = [bound.get(), translation.get_language(), timezone.get_current_timezone_name(), getcontext().prec]
    return [*mine, *session, wrappers, getattr(connection, "schema_name", None)]


@task
def backend_pid():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), set_config('application_name', 'x', true) IS NULL AND false")
        return cursor.fetchone()[0]


@task
def plain_pid():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def run(name, *args):
    envelope = invoke(payload(f"tests.test_clean.{name}", *args))
    assert envelope["kind"] == "returned", envelope
    return json.loads(envelope["result"])


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    """Sessions are kept and watched, as in a process for bodies; and those of this test are of its own."""
    connections.close_all()
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    sessions.watch_sessions()
    yield
    sessions.connection_created.disconnect(dispatch_uid="django_ray.sessions")
    connections.close_all()
    connection.execute_wrappers.clear()


LOCALLY = "SELECT set_config('statement_timeout', '5000', true)"
SETS = [
    "SET search_path = pg_catalog",
    " set statement_timeout to 5000",
    "SELECT set_config('statement_timeout', '5000', false)",
    "SET ROLE pg_read_all_data",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1)",
    "CREATE TEMP TABLE left_behind (n int)",
    "CREATE TEMPORARY TABLE left_behind (n int)",
    "LISTEN somebody",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
]


@pytest.mark.parametrize("statement", SETS)
def test_what_a_body_sets_on_its_session_ends_with_it(statement):
    before = run("surroundings")
    run("disturb", [statement])
    assert run("surroundings") == before


def test_what_a_coroutine_sets_ends_with_it():
    before = run("surroundings")
    run("disturb_later")
    assert run("surroundings") == before


def test_an_isolation_level_that_psycopg_alone_was_told_ends_with_the_body():
    before = run("surroundings")
    run("disturb_isolation")
    assert run("surroundings") == before


def test_wrappers_of_the_project_stay():
    """Of an instrumentation: it adds them when a connection is made."""

    def mine(execute, *asked):
        return execute(*asked)

    run("plain_pid")
    connections["default"].execute_wrappers.append(mine)
    run("disturb", [])
    assert connections["default"].execute_wrappers[1:] == [mine]


def test_whoever_leaves_nothing_keeps_the_connection():
    pids = {run("plain_pid") for _ in range(3)}
    run("disturb", ["SET LOCAL statement_timeout = 5", "SET TRANSACTION READ WRITE", "SELECT 'SET x = 1'", LOCALLY])
    assert {run("plain_pid")} == pids == {run("plain_pid")}


def test_a_wrapper_of_tenants_is_a_new_one_for_the_next_body(settings):
    """django-tenants and its kin: the schema is an attribute of the wrapper, which outlives its connection."""
    mine = connections["default"]
    connections["default"] = connections.create_connection("default")
    engine = mine.settings_dict["ENGINE"]
    connections.settings["default"]["ENGINE"] = ENGINE
    sessions._own.cache_clear()
    connections["default"] = connections.create_connection("default")
    try:
        assert run("surroundings")[-1] == "public"
        run("disturb_wrapper")
        assert run("surroundings")[-1] == "public"
    finally:
        connections["default"].close()
        connections.settings["default"]["ENGINE"] = engine
        connections["default"] = mine
        sessions._own.cache_clear()
