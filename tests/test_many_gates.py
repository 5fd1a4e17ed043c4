"""Ten thousand gates with work behind each: a claim costs about what it does with ten. Pages are counted, not time."""

import statistics
import time

import pytest
from psycopg import Rollback

from django_ray_worker.database.statements import SQL, claim_parameters

FILL = """
INSERT INTO django_ray_execution (callable_path, gate, gate_rule, priority)
SELECT 'x.y', 'g:' || n % %s, '{"limit": 1}', n % 2 FROM generate_series(1, 30000) AS n
"""


def pages_of(session, statement, parameters):
    """The pages that a statement touches, functions included, once it is planned; it is rolled back.

    The fewest of three times: before a plan the catalogue is read, and a vacuum beside it has functions planned anew.
    """
    found = []
    for _ in range(3):
        with session.transaction(force_rollback=True):
            row = session.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters).fetchone()
        (plan,) = row["QUERY PLAN"]
        found.append(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
    return min(found)


@pytest.fixture
def session(connect):
    session = connect()
    session.execute(SQL["session_settings"])
    return session


async def cost(session, gates, limit, worker):
    """The pages that a claim touches, and its median seconds, of several that are rolled back."""
    session.execute("TRUNCATE django_ray_execution")
    session.execute(FILL.replace("%s", str(gates)))
    session.execute("VACUUM ANALYZE django_ray_execution")
    parameters = {"backend": "default", "queues": ["default"], **claim_parameters(worker, limit)}
    seconds = []
    for _ in range(5):
        with session.transaction():
            began = time.perf_counter()
            rows = session.execute(SQL["claim"], parameters).fetchall()
            seconds.append(time.perf_counter() - began)
            assert len(rows) == min(limit, gates)
            raise Rollback
    return pages_of(session, SQL["claim"], parameters), statistics.median(seconds)


@pytest.mark.parametrize("limit", [2, 10])
async def test_a_claim_among_ten_thousand_gates_costs_what_it_does_among_ten(session, open_store, limit):
    _, worker = await open_store()
    few, few_seconds = await cost(session, 10, limit, worker)
    many, many_seconds = await cost(session, 10_000, limit, worker)
    few_ms, many_ms = 1000 * few_seconds, 1000 * many_seconds
    print(f"{limit} rows of 10 gates: {few} pages, {few_ms:.1f} ms; of 10,000: {many}, {many_ms:.1f} ms")
    assert many < 3 * few


async def test_full_gates_are_passed_over_at_the_cost_of_a_few_probes_each(session, open_store, connect):
    """They are as many as run at most: that bounds it."""
    _, worker = await open_store()
    await cost(session, 10_000, 2, worker)
    claim = {"backend": "default", "queues": ["default"], **claim_parameters(worker, 200)}
    taken = session.execute(SQL["claim"], claim).fetchall()
    assert len(taken) == 200
    pages = pages_of(
        session, SQL["claim"], {"backend": "default", "queues": ["default"], **claim_parameters(worker, 2)}
    )
    assert pages < 200 * 40


@pytest.mark.parametrize("gates", [1, 1000])
async def test_with_whatever_statistics_each_statement_reads_a_few_pages(session, open_store, gates, count_rows):
    """A hundred thousand rows wait."""
    _, worker = await open_store()
    session.execute(FILL.replace("%s", str(gates)).replace("30000", "100000"))
    count_rows()
    scope = {"backend": "default", "queues": ["default"]}
    statements = {
        "claim": scope | claim_parameters(worker, 2),
        "pulse": scope | {"worker": worker, "names": [worker], "hostname": "h", "pid": 1},
        "make_way": scope,
        "expire": scope,
        "prune_gates": scope | {"age": 1, "limit": 10},
    }
    pages = {name: pages_of(session, SQL[name], parameters) for name, parameters in statements.items()}
    print(gates, pages)
    assert max(pages.values()) < 500
