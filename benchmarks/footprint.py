"""(K) What a task costs the database: bytes of WAL, and what it leaves in the table and its indexes, each per task.

After a checkpoint, and with the table's own autovacuum off: dead rows are counted before anybody removes them.
"""

import time

import psycopg

KINDS = ("no-op", "1 kB of arguments, 1 kB of result", "three retries")
TABLE = "django_ray_execution"
PATIENCE = 120.0
LEFT = f"SELECT count(*) FROM {TABLE} WHERE finished_at IS NULL"
GROWN = f"""
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal, pg_table_size('{TABLE}') AS table,
    pg_indexes_size('{TABLE}') AS indexes
"""


def measure(system, size):
    system.reset()
    figures = {}
    with system.warm(), psycopg.connect(system.url, autocommit=True) as session:
        session.execute(f"ALTER TABLE {TABLE} SET (autovacuum_enabled = off)")
        for kind in KINDS:
            with system.progress.step(f"K  {size.footprint:,} tasks: {kind}"):
                figures |= _cost(system, session, kind, size.footprint)
    return figures


def _cost(system, session, kind, count):
    session.execute(f"TRUNCATE {TABLE}")
    session.execute("CHECKPOINT")
    before = _row(session)
    numbers = system.numbers(count)
    system.ask("of_kind", kind, numbers.start, numbers.stop)
    deadline = time.monotonic() + PATIENCE
    while session.execute(LEFT).fetchone()[0]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {count} tasks have ended within {PATIENCE} s: {kind}")
        time.sleep(0.2)
    after = _row(session)
    return {f"{kind}: {name}, bytes": float(after[name] - before[name]) / count for name in before}


def _row(session):
    return session.cursor(row_factory=psycopg.rows.dict_row).execute(GROWN).fetchone()
