"""PREPARE TRANSACTION: two-phase commit of a transaction that enqueues."""

import psycopg
import pytest

from tests.supervisors import until

INSERT = "INSERT INTO django_ray_execution (callable_path, args) VALUES ('tests.tasks.add', '[1, 2]')"
PREPARED = "SELECT gid FROM pg_prepared_xacts"


@pytest.fixture
def session(migrated, sql):
    with psycopg.connect(migrated.url, autocommit=True) as session:
        yield session
    for row in sql(PREPARED):
        sql(f"ROLLBACK PREPARED '{row['gid']}'")


def test_while_somebody_sleeps_postgresql_refuses_to_prepare_what_has_enqueued(migrated, session, sql):
    """I23: whoever enqueues notifies then, and PostgreSQL prepares no transaction that has."""
    with psycopg.connect(migrated.url, autocommit=True) as sleeper:
        sleeper.execute("SELECT django_ray_announce('queue:default:default')")
        session.execute("BEGIN")
        session.execute(INSERT)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            session.execute("PREPARE TRANSACTION 'enqueues'")
    assert sql("SELECT 1 FROM django_ray_execution") == []
    assert sql(PREPARED) == []


def test_what_was_prepared_while_nobody_slept_is_waited_for_by_who_falls_asleep(session, sql, supervise):
    """I23, B1: it has not notified, and is in flight until it is committed."""
    session.execute("BEGIN")
    session.execute(INSERT)
    session.execute("PREPARE TRANSACTION 'enqueues'")
    supervise("--sync", PULSE="0")
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 1145721433 AND NOT granted"
    until(lambda: sql(waits), what="somebody waits for it")
    session.execute("COMMIT PREPARED 'enqueues'")
    until(lambda: [row["state"] for row in sql("SELECT state FROM django_ray_execution")] == ["SUCCESSFUL"])
