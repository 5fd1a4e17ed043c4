"""From 0.1.0 to today and back, over one database, with everything running.

The database has the tables of 0.1.0, rows in every state and a million finished ones; the old processes are those of
the released wheel. Whatever migrations there are by now: the way goes to the newest, and back to the last of 0.1.0.
"""

from itertools import product
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from psycopg.rows import dict_row, tuple_row

import django_ray
from django_ray import migrations
from tests.deploys import LAST_MIGRATION, RELEASE, ROWS, SCHEMA, Deploy, database_of_its_own
from tests.schema import catalogue
from tests.supervisors import until

TODAY = django_ray.__version__
TASKS = """
from django.tasks import task

@task
def note(what, how=None):
    return f"{what}: noted"

@task(backend="busy")
def count(enqueued_by):
    return enqueued_by
"""
FINISHED = """
    INSERT INTO django_ray_execution
    (callable_path, state, attempt_number, worker_ids, enqueued_at, started_at, last_attempted_at, finished_at, result)
    SELECT 'deployed_tasks.note', 'SUCCESSFUL', 1, '["1"]', moment, moment, moment, moment, '1'
    FROM (SELECT now() - number * interval '1 second' AS moment FROM generate_series(1, 1000000) AS number) AS past
"""
# What no supervisor changes.
ENQUEUED = (
    "task_id", "backend", "queue_name", "priority", "callable_path", "args", "kwargs", "options", "carrier",
    "enqueued_at", "run_after", "awaited",
)  # fmt: skip


@pytest.fixture
def url():
    with database_of_its_own(SCHEMA, ROWS) as url:
        yield url


@pytest.fixture
def session(url):
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as session:
        yield session


@pytest.fixture
def deploy(url, tmp_path):
    with Deploy(url, tmp_path) as deploy:
        yield deploy


@pytest.fixture
def old(deploy, released_packages):
    return deploy.version("old", TASKS, packages=released_packages)


@pytest.fixture
def new(deploy):
    return deploy.version("new", TASKS)


@pytest.fixture
def has_run(session):
    """Wait until, from now on, each of these (enqueued by, run by) has happened."""

    def _has_run(*pairs):
        now = session.execute("SELECT clock_timestamp() AS now").fetchone()["now"]

        def look():
            rows = session.execute(
                "SELECT args->>0 AS enqueued_by, version AS run_by FROM django_ray_execution AS execution"
                " JOIN django_ray_worker AS worker ON worker.id = (worker_ids->>-1)::int"
                " WHERE finished_at > %s AND execution.backend = 'busy'",
                [now],
            ).fetchall()
            return set(pairs) <= {(row["enqueued_by"], row["run_by"]) for row in rows}

        until(look, what=f"(enqueued by, run by) {pairs}")

    return _has_run


@pytest.fixture
def migrate_beside(url, session, new):
    """Run today's migrate beside a web process, and beside a transaction that has enqueued and stays open meanwhile.

    Return when it began and when it ended.
    """

    def _migrate(web, *arguments):
        waits = "SELECT true FROM pg_stat_activity WHERE application_name = 'migrate' AND wait_event_type = 'Lock'"
        with psycopg.connect(url) as transaction:
            transaction.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('deployed_tasks.note')")
            began = monotonic()
            migrate = new.migrate(*arguments, PGAPPNAME="migrate")
            until(lambda: migrate.process.poll() is not None or session.execute(waits).fetchone())
            web.goes_on()  # what keeps it from doing so for long is to be a BriefMigration
            transaction.rollback()
        assert migrate.wait() == 0, migrate.log
        web.goes_on()
        return began, monotonic()

    return _migrate


def longest(enqueues, moments):
    began, ended = moments
    return max(each.ended - each.began for each in enqueues if each.ended > began and each.began < ended)


@pytest.mark.slow
def test_a_deploy_and_the_way_back_lose_nothing(session, old, new, migrate_beside, has_run):
    """Each of the old and the new web processes and supervisors works beside each other one, and beside migrate."""
    tables = catalogue(session.cursor(row_factory=tuple_row))
    session.execute(FINISHED)
    session.execute("ANALYZE django_ray_execution")

    def start(version, name):
        # PostgreSQL ends an enqueue that waits longer than five seconds for a lock, and with it the process.
        web = version.enqueue_on_and_on("count", name, PGOPTIONS="-c lock_timeout=5s")
        return version.supervise("--backend", "busy"), web

    def end(supervisor, web):
        supervisor.signal()
        assert supervisor.wait() == 0
        return web.enqueues

    before = start(old, RELEASE)
    has_run((RELEASE, RELEASE))
    forwards = migrate_beside(before[1])
    assert session.execute("SELECT django_ray_world() AS world").fetchone() == {"world": 0}
    has_run((RELEASE, RELEASE))
    after = start(new, TODAY)
    has_run(*product((RELEASE, TODAY), repeat=2))
    first = end(*before)
    has_run((TODAY, TODAY))

    again = start(old, RELEASE)
    has_run(*product((RELEASE, TODAY), repeat=2))
    second = end(*after)
    backwards = migrate_beside(again[1], "django_ray", LAST_MIGRATION)
    has_run((RELEASE, RELEASE))
    assert catalogue(session.cursor(row_factory=tuple_row)) == tables
    third = end(*again)
    old.supervise("--backend", "busy")  # ends what is left

    ids = [each.id for each in first + second + third]
    unfinished = "SELECT true FROM django_ray_execution WHERE task_id = ANY (%s) AND finished_at IS NULL"
    until(lambda: not session.execute(unfinished, [ids]).fetchone())
    ends = session.execute(
        "SELECT state, failures, losses, jsonb_array_length(worker_ids) AS attempts, count(*)"
        " FROM django_ray_execution WHERE backend = 'busy' GROUP BY 1, 2, 3, 4"
    ).fetchall()
    assert ends == [{"state": "SUCCESSFUL", "failures": 0, "losses": 0, "attempts": 1, "count": len(ids)}]
    for what, moments, enqueues in (("forwards", forwards, first), ("backwards", backwards, third)):
        print(
            f"Migrating {what} took {moments[1] - moments[0]:.1f} s; the longest enqueue meanwhile took "
            f"{longest(enqueues, moments) * 1000:.0f} ms"
        )


@pytest.fixture
def rows(session):
    """Read what is in the tables of 0.1.0: table -> name -> row. Columns of later versions are left out."""
    columns = {
        table: [column.name for column in session.execute(f"SELECT * FROM django_ray_{table} LIMIT 0").description]
        for table in ("execution", "worker", "queue", "minute")
    }

    def _rows():
        return {
            table: session.execute(f"SELECT {', '.join(names)} FROM django_ray_{table} ORDER BY {names[0]}").fetchall()
            for table, names in columns.items()
        }

    return _rows


def executions(rows):
    return {row["args"][0]: row for row in rows["execution"]}


def test_rows_in_every_state_are_kept_both_ways(new, rows):
    before = rows()
    for way in ([], ["django_ray", LAST_MIGRATION], []):
        assert new.migrate(*way).wait() == 0
        assert rows() == before


@pytest.mark.parametrize("version", [RELEASE, TODAY])
def test_rows_in_every_state_end_as_they_should(version, old, new, session, rows):
    """Today's supervisor does with them what that of 0.1.0 does."""
    before = rows()
    if version == TODAY:
        assert new.migrate().wait() == 0
    supervisor = (new if version == TODAY else old).supervise()
    noted = {"ready", "awaited", "due a minute ago", "of unknown code", "failed twice", "with everything", "running"}
    ends = {**dict.fromkeys(noted, "SUCCESSFUL"), "to be cancelled": "CANCELLED"}
    unfinished = "SELECT true FROM django_ray_execution WHERE args->>0 = ANY (%s) AND finished_at IS NULL"
    until(lambda: not session.execute(unfinished, [list(ends)]).fetchone())
    supervisor.signal()
    assert supervisor.wait() == 0

    was, now = executions(before), executions(rows())
    assert {name: row["state"] for name, row in now.items() if row != was[name]} == ends
    lost = {"running", "to be cancelled"}
    for name in ends:
        assert {column: now[name][column] for column in ENQUEUED} == {column: was[name][column] for column in ENQUEUED}
        assert now[name]["failures"] == was[name]["failures"]
        assert now[name]["losses"] == was[name]["losses"] + (name in lost)
        assert len(now[name]["errors"]) == len(was[name]["errors"]) + (name in lost)
        assert (now[name]["due_at"], now[name]["missing_since"], now[name]["claimed_by_id"]) == (None, None, None)
    for name in noted:
        assert now[name]["result"] == f"{name}: noted"
        assert now[name]["attempt_number"] == was[name]["attempt_number"] + 1
        assert len(now[name]["worker_ids"]) == len(was[name]["worker_ids"]) + 1

    after = rows()
    *others, killed = before["worker"]
    *others_now, killed_now, _ = after["worker"]
    assert others_now == others
    assert killed_now == {**killed, "lost_at": killed_now["lost_at"]} != killed
    assert after["queue"] == before["queue"]
    assert [row for row in after["minute"] if row["worker_id"] == killed["id"]] == before["minute"]


def test_a_released_supervisor_starts_beside_migrations_that_it_does_not_know(session, old):
    """After a deploy, or halfway through it, an old one may be restarted."""
    session.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('django_ray', '9999_later', now())")
    session.execute("ALTER TABLE django_ray_execution ADD COLUMN later integer NOT NULL DEFAULT 0")
    old.supervise()


def test_a_supervisor_of_today_asks_for_its_migrations(new, session):
    """It starts at once while there is none since 0.1.0."""
    there = {row["name"] for row in session.execute("SELECT name FROM django_migrations").fetchall()}
    if {path.stem for path in Path(migrations.__file__).parent.glob("[0-9]*.py")} != there:
        supervisor = new.listen()
        assert supervisor.wait() == 78
        assert "run manage.py migrate" in supervisor.log
        assert new.migrate().wait() == 0
    new.supervise()


def test_counts_go_on_where_an_int4_ends(session, old, new):
    """I20: the key of django_ray_minute grew by one for each queue, supervisor and second."""
    session.execute("SELECT setval(pg_get_serial_sequence('django_ray_minute', 'id'), 2147483647)")
    supervisor = old.supervise()
    enqueue = "INSERT INTO django_ray_execution (callable_path, args) VALUES ('deployed_tasks.note', '[1]')"
    session.execute(enqueue)
    supervisor.wait_for("Counts cannot be written")
    assert new.migrate().wait() == 0
    session.execute(enqueue)
    counted = "SELECT succeeded FROM django_ray_minute WHERE id = 2147483648"
    until(lambda: session.execute(counted).fetchone())
