"""How a supervisor connects: as Django says at that moment, and with no more than it needs."""

import os
import socket
from contextlib import ExitStack

import psycopg
import pytest
from django.db import connection

from django_ray_worker.database.connections import Database
from tests import tasks
from tests.supervisors import Listen, until, url_as

pytestmark = pytest.mark.django_db(transaction=True)

WHO = "SELECT current_user AS who"
LATER = f"later_{os.getpid()}"
LIMITED = f"limited_{os.getpid()}"


@pytest.fixture
def later_user(connect):
    session = connect()
    session.execute(f"CREATE ROLE {LATER} SUPERUSER LOGIN")
    yield LATER
    session.execute(f"DROP ROLE {LATER}")


async def users(database):
    """Who the session is, and a connection of the pool."""
    async with database.session() as session, database.pool() as pool, pool.connection(timeout=60) as pooled:
        return [(await (await one.execute(WHO)).fetchone())["who"] for one in (session, pooled)]


async def test_django_is_asked_for_the_parameters_of_each_connection(later_user):
    """M5: a password, and who has it, may be good for minutes only."""
    django = connection.copy()
    database = Database(django)
    before = await users(database)
    assert later_user not in before
    django.settings_dict["USER"] = later_user
    assert await users(database) == [later_user] * 2


async def test_what_django_cannot_say_now_is_an_outage():
    """M5: the service that knows the password may be away for a while."""

    django = connection.copy()
    database = Database(django)

    def away():
        raise LookupError("no token")

    django.get_connection_params = away
    with pytest.raises(psycopg.OperationalError, match="Django has no connection parameters: LookupError: no token"):
        async with database.session():
            pass


def test_the_preflight_leaves_no_pool_of_the_projects_behind(listen, connect, finished):
    """M6."""
    supervisor = listen("--sync", DJANGO_SETTINGS_MODULE="tests.settings_pool", PGAPPNAME="the project's own")
    supervisor.wait_for("is ready")
    session = connect()
    left = "SELECT FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
    # The server takes its time to see that a client has gone.
    until(lambda: not session.execute(left, ["the project's own"]).fetchall(), what="the end of the preflight's")
    assert finished(tasks.add.enqueue(1, 2)).return_value == 3


@pytest.fixture
def silent_hosts(monkeypatch):
    """Hosts that take a connection and say nothing, before the one that answers, as HOST and PORT."""
    with ExitStack() as stack:
        ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
        django = connection.copy()
        options = django.settings_dict["OPTIONS"]
        host = django.settings_dict["HOST"] or options.get("host", "")
        port = django.settings_dict["PORT"] or options.get("port", 5432)
        options.update(
            host=",".join([*["127.0.0.1"] * 3, host]), port=",".join(map(str, [*ports, port])), connect_timeout=2
        )
        django.settings_dict.update(HOST="", PORT="")
        yield django


@pytest.mark.slow
async def test_the_host_behind_three_silent_ones_is_reached(silent_hosts, monkeypatch):
    """M3: whatever an answer may take otherwise."""
    monkeypatch.setattr("django_ray_worker.database.connections.OPEN_SECONDS", 5.0)
    assert len(set(await users(Database(silent_hosts)))) == 1


@pytest.mark.parametrize(("places", "code"), [(1, 78), (2, 78), (4, 78), (5, 0)])
def test_a_role_that_may_have_few_connections_is_told_once(places, code, connect):
    """M6."""
    owner = connect()
    owner.execute(f"CREATE ROLE {LIMITED} LOGIN PASSWORD 'x' CONNECTION LIMIT {places}")
    owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {LIMITED}")
    owner.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {LIMITED}")
    url = url_as(LIMITED, "x", connection)
    try:
        with Listen(connection, "--sync", "--burst", DATABASE_URL=url) as supervisor:
            assert supervisor.wait(60) == code, supervisor.log
        said = f"may have {places} connections to this database at a time (CONNECTION LIMIT); a supervisor has 2 to 16"
        assert supervisor.log.count(said) == 1
    finally:
        owner.execute(f"DROP OWNED BY {LIMITED}; DROP ROLE {LIMITED}")
