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
UPDATES = f"""
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relname = '{TABLE}'
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
    before, updated = _row(session, GROWN), _row(session, UPDATES)
    numbers = system.numbers(count)
    system.ask("of_kind", kind, numbers.start, numbers.stop)
    deadline = time.monotonic() + PATIENCE
    while session.execute(LEFT).fetchone()[0]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {count} tasks have ended within {PATIENCE} s: {kind}")
        time.sleep(0.2)
    time.sleep(1.5)  # sessions report once a second
    after, updates = _row(session, GROWN), _row(session, UPDATES)
    figures = {f"{kind}: {name}, bytes": float(after[name] - before[name]) / count for name in before}
    made = updates["updates"] - updated["updates"]
    figures[f"{kind}: updates"] = made / count
    figures[f"{kind}: of them without a new index entry (HOT)"] = (updates["hot"] - updated["hot"]) / max(1, made)
    return figures


def _row(session, query):
    cursor = session.cursor(row_factory=psycopg.rows.dict_row)
    return cursor.execute(query).fetchone()
