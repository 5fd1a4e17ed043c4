"""Two projects in two schemas of one database: each has tables of its own, and nothing of one reaches the other."""

import os
import re
import subprocess
import sys
from urllib.parse import quote

import psycopg
import pytest
from anyio import fail_after, sleep
from django.db import connection
from psycopg.rows import dict_row

from django_ray.waiting import wait_for_end
from tests.deploys import ROWS, database_of_its_own
from tests.deploys import SCHEMA as SCHEMA_OF_THE_RELEASE
from tests.supervisors import ROOT, Instant, database_url, hear, living, notifications

pytestmark = pytest.mark.django_db(transaction=True)

INSERT = "INSERT INTO {}.django_ray_execution (callable_path) VALUES ('tests.tasks.add')"
SCHEMA = "Next door"
NEIGHBOUR = f'"{SCHEMA}"'


async def soon(condition):
    """until() for coroutines."""
    with fail_after(30):
        while not condition():  # noqa: ASYNC110 - it is in another process or another task's hands
            await sleep(0.005)


def migrate(search_path, *target, url=None):
    """Run manage.py migrate of a project whose role has this search_path."""
    options = quote(f"-c search_path={search_path.replace(' ', chr(92) + ' ')}")
    url = url or database_url(connection)
    url = f"{url}{'&' if '?' in url else '?'}options={options}"
    done = subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity", "0", "django_ray", *target],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def next_door(django_db_setup, django_db_blocker):
    """The tables of another project, in a schema of its own."""
    with django_db_blocker.unblock(), psycopg.connect(database_url(connection), autocommit=True) as session:
        session.execute(f"CREATE SCHEMA {NEIGHBOUR}")
        try:
            migrate(NEIGHBOUR)
            yield
        finally:
            session.execute(f"DROP SCHEMA {NEIGHBOUR} CASCADE")


@pytest.fixture
def session(next_door, connect):
    """A session that sees ours; both have no rows, and ids begin anew."""
    session = connect()
    for schema in ("public", NEIGHBOUR):
        session.execute(
            f"TRUNCATE {schema}.django_ray_execution, {schema}.django_ray_worker, {schema}.django_ray_queue,"
            f" {schema}.django_ray_minute RESTART IDENTITY"
        )
    return session


@pytest.fixture
def theirs(database):
    """How a supervisor of the other project connects."""
    there = connection.copy()
    there.settings_dict["OPTIONS"] |= {"options": f'-c search_path="{SCHEMA}"'.replace("Next door", "Next\\ door")}
    return type(database)(there)


def executions(session, schema):
    return session.execute(f"SELECT state, losses FROM {schema}.django_ray_execution ORDER BY task_id").fetchall()


BELLS = ["queue:default:default", "queue:default:other", "supervisors:default", "worker:1", "activity:default"]


async def test_two_projects_in_one_database_have_each_a_supervisor_1(database, theirs, session, connect):
    """I7: with the same identity, and what one is told the other does not hear."""
    ears, executor = connect(), Instant()
    async with living(database, Instant()) as ours, living(theirs, executor) as other:
        await soon(lambda: ours._session.is_open and other._session.is_open)
        assert (ours._identity.worker, other._identity.worker) == (1, 1)
        for bell in BELLS:
            hear(ears, bell)
        ears.execute("SELECT django_ray_announce('queue:default:default')")
        for number in (1, 2, 3):
            session.execute(INSERT.format(NEIGHBOUR))
            await executor.has_run(number)
        ends = f"SELECT pg_terminate_backend({NEIGHBOUR}.django_ray_session(1))"
        session.execute(ends)
        await soon(lambda: other._session.opened == 2)
        assert notifications(ears, session) == []
        assert ours._session.opened == 1


async def test_the_successor_of_a_dead_supervisor_takes_its_work_back_beside_a_living_namesake(
    database, theirs, session
):
    """I7: supervisor 1 of one project lives, that of the other is dead."""
    session.execute(
        f"INSERT INTO {NEIGHBOUR}.django_ray_worker (hostname, pid, backend, queues, concurrency, ray_address, version)"
        " VALUES ('gone', 1, 'default', '[]', 1, '', '')"
    )
    session.execute(INSERT.format(NEIGHBOUR))
    session.execute(
        f"UPDATE {NEIGHBOUR}.django_ray_execution SET state = 'RUNNING', claimed_by_id = 1, attempt_number = 1"
    )
    executor = Instant()
    async with living(database, Instant()) as ours:
        await soon(lambda: ours._session.is_open)
        assert ours._identity.worker == 1
        async with living(theirs, executor):
            await executor.has_run(1)
            await soon(lambda: executions(session, NEIGHBOUR) == [{"state": "SUCCESSFUL", "losses": 1}])


def test_the_same_bell_has_another_channel_and_other_keys(session, connect):
    """I7."""
    there = connect(options=f"-c search_path={NEIGHBOUR.replace(' ', chr(92) + ' ')}")
    both = [
        each.execute(
            "SELECT django_ray_channel('queue:default:default') AS c, django_ray_key('queue:default:default') AS k"
        )
        for each in (session, there)
    ]
    ours, others = [cursor.fetchone() for cursor in both]
    assert ours["c"] != others["c"]
    assert ours["k"] != others["k"]
    assert session.execute("SELECT django_ray_identify(5) AS got").fetchone()["got"]
    assert there.execute("SELECT django_ray_identify(5) AS got").fetchone()["got"]
    assert session.execute("SELECT django_ray_session(5) AS pid").fetchone()["pid"] == session.info.backend_pid
    assert there.execute("SELECT django_ray_session(5) AS pid").fetchone()["pid"] == there.info.backend_pid


@pytest.mark.parametrize("search_path", ["public", f"public, {NEIGHBOUR}", "''", "pg_temp, pg_catalog"])
def test_whoever_enqueues_rings_the_bell_of_the_table_it_writes_to(session, connect, search_path):
    """I7: whatever its search_path is, and whatever that of the supervisor."""
    ours, others, monitor = connect(), connect(), connect()
    others.execute(f"SET search_path = {NEIGHBOUR}")
    for each in (ours, others):
        hear(each, "queue:default:default")
        each.execute("SELECT django_ray_announce('queue:default:default')")
    session.execute(f"SET search_path = {search_path}")
    session.execute(INSERT.format(NEIGHBOUR))
    assert (len(notifications(ours, monitor)), len(notifications(others, monitor))) == (0, 1)


def test_a_waiter_hears_of_its_own_projects_results(session, connect):
    """I7: a copy of its execution ends in the other schema; it goes on to wait for its own."""
    task_id = session.execute(INSERT.format("public") + " RETURNING task_id").fetchone()["task_id"]
    session.execute(
        f"INSERT INTO {NEIGHBOUR}.django_ray_execution (task_id, callable_path) VALUES (%s, 'x.y')", [task_id]
    )
    there, monitor = connect(), connect()
    there.execute(f"SET search_path = {NEIGHBOUR}")
    hear(there, "results")
    for schema in ("public", NEIGHBOUR):
        session.execute(f"UPDATE {schema}.django_ray_execution SET awaited = true")
    session.execute("UPDATE public.django_ray_execution SET state = 'SUCCESSFUL', finished_at = now()")
    assert notifications(there, monitor) == []
    session.execute(f"UPDATE {NEIGHBOUR}.django_ray_execution SET state = 'SUCCESSFUL', finished_at = now()")
    assert len(notifications(there, monitor)) == 1
    wait_for_end("default", task_id, 60, 0)


@pytest.fixture
def released():
    """A database with the tables of 0.1.0, which it has used."""
    with database_of_its_own(SCHEMA_OF_THE_RELEASE, ROWS) as url:
        yield url


def test_tables_of_the_release_get_keys_of_their_own_by_the_statement_of_the_page(released):
    """I7: and stay in the world of 0.1.0 before."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    (statement,) = re.findall(r"CREATE OR REPLACE FUNCTION django_ray_world.*?;", page, re.DOTALL)
    migrate("public", url=released)
    with psycopg.connect(released, autocommit=True) as session:
        look = "SELECT django_ray_world(), django_ray_channel('results'), 'django_ray_execution'::regclass::oid::int"
        world, channel, own = session.execute(look).fetchone()
        assert (world, channel) == (0, "django_ray:results")
        session.execute(statement)
        assert session.execute(look).fetchone() == (own, f"django_ray:{own}:results", own)


def test_functions_are_made_where_the_tables_are_and_look_there_first(released):
    """I7: a schema that somebody has put in front of the search_path since then gets none of it."""
    with psycopg.connect(released, autocommit=True, row_factory=dict_row) as session:
        session.execute("CREATE SCHEMA first")
        migrate('first, "$user", public', url=released)
        made = "SELECT proname FROM pg_proc WHERE pronamespace = 'first'::regnamespace"
        assert session.execute(made).fetchall() == []
        paths = session.execute(
            "SELECT setting FROM pg_proc CROSS JOIN unnest(proconfig) AS setting"
            " WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'django\\_ray\\_%'"
            " AND setting LIKE 'search_path=%'"
        ).fetchall()
        assert paths
        assert [row["setting"] for row in paths if not row["setting"].startswith("search_path=public,")] == []
