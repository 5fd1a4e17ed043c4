"""Large flows: each execution is written once, whatever its shape; two supervisors that meet in them never deadlock.

Versions of rows are counted, and pages, not time.
"""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from psycopg import Rollback

from django_ray.options import Options
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Fail, Succeed
from django_ray_worker.database.statements import SQL, Record, claim_of, claim_parameters, record_parameters
from django_ray_worker.database.store import MOST_PER_RECORD
from tests.supervisors import until
from tests.test_flow_interleavings import RETRY, wrong
from tests.test_many_gates import pages_of

OK = Succeed(result="1")
BAD = Fail(error=Error(exception_class_path="builtins.ValueError", message="m", traceback="t"), failures=1)
LONG = os.environ.get("DJANGO_RAY_STRESS") == "long"
ROUNDS = 5000 if LONG else 100
STATES = "SELECT state, count(*) AS number FROM django_ray_execution GROUP BY state"
WRITTEN = "SELECT n_tup_upd AS it FROM pg_stat_xact_user_tables WHERE relname = %s"


class Graph:
    """Executions, numbered, each of which needs the success of some before it."""

    def __init__(self, session, upstreams, needs="success", *, analyze=True):
        self.session = session
        self.ids = [row["id"] for row in session.execute(
            "SELECT django_ray_uuid7() AS id FROM generate_series(1, %s)", [len(upstreams)]
        )]  # fmt: skip
        ids, edges = (
            self.ids,
            [(up, down, place) for down, ups in enumerate(upstreams) for place, up in enumerate(ups, 1)],
        )
        session.execute(
            "INSERT INTO django_ray_edge (upstream_id, downstream_id, place, met)"
            " SELECT up, down, place, false FROM unnest(%s::uuid[], %s::uuid[], %s::int[]) AS edge(up, down, place)",
            [[ids[up] for up, _, _ in edges], [ids[down] for _, down, _ in edges], [place for *_, place in edges]],
        )
        session.execute(
            "INSERT INTO django_ray_execution (task_id, callable_path, is_upstream, needs)"
            " SELECT id, 'x.y', EXISTS (SELECT FROM django_ray_edge WHERE upstream_id = id),"
            " CASE WHEN EXISTS (SELECT FROM django_ray_edge WHERE downstream_id = id) THEN %s END"
            " FROM unnest(%s::uuid[]) AS id",
            [needs, ids],
        )
        if analyze:
            session.execute("ANALYZE django_ray_execution, django_ray_edge")

    def states(self):
        return {row["state"]: row["number"] for row in self.session.execute(STATES).fetchall()}

    def claim(self, most=MOST_PER_RECORD):
        parameters = {"backend": "default", "queues": ["default"], **claim_parameters(1, most)}
        rows = self.session.execute(SQL["claim"], parameters).fetchall()
        return [claim_of(row, Options()) for row in rows if row["task_id"]]

    def written(self, sql, parameters):
        """Send a statement; return how many versions of executions and of edges it has made."""
        with self.session.transaction():
            before = self._written()
            self.session.execute(sql, parameters)
            return tuple(number - then for number, then in zip(self._written(), before, strict=True))

    def _written(self):
        tables = "django_ray_execution", "django_ray_edge"
        return [self.session.execute(WRITTEN, [table]).fetchone()["it"] for table in tables]

    def record(self, claims, verdict):
        return self.written(SQL["record"], record_parameters([Record(claim, verdict) for claim in claims]))

    def run(self):
        """Run all that may; return the order, and how many versions of executions were made by the ends."""
        order, versions = [], 0
        while claims := self.claim():
            order += [self.ids.index(claim.task_id) for claim in claims]
            versions += self.record(claims, OK)[0]
        return order, versions

    def check(self):
        rows = self.session.execute("SELECT * FROM django_ray_execution").fetchall()
        edges = self.session.execute("SELECT * FROM django_ray_edge").fetchall()
        assert wrong(rows, edges) == []


@pytest.fixture
def session(connect):
    session = connect()
    session.execute(SQL["session_settings"])
    session.execute("SET statement_timeout = 0")
    return session


def test_a_chain_of_ten_thousand_fails_with_its_head_and_comes_back_with_it(session):
    """Each in one statement: a second or two each."""
    graph = Graph(session, [[], *([number] for number in range(9999))])
    assert graph.states() == {"READY": 1, "WAITING": 9999}
    assert graph.record(graph.claim(), BAD) == (10_000, 0)
    assert graph.states() == {"FAILED": 10_000}
    culprits = session.execute("SELECT count(DISTINCT errors #>> '{-1,upstream}') AS it FROM django_ray_execution")
    assert culprits.fetchone()["it"] == 1
    assert graph.written(RETRY, [graph.ids[0]]) == (10_000, 0)
    assert graph.states() == {"READY": 1, "WAITING": 9999}


def test_a_chain_of_ten_thousand_that_stays_failed_for_another_reason_is_written_once(session):
    graph = Graph(session, [[], [], [0, 1], *([number] for number in range(2, 9999))])
    for claim in graph.claim():
        graph.record([claim], BAD)
    assert graph.states() == {"FAILED": 10_000}
    executions, _ = graph.written(RETRY, [graph.ids[0]])
    assert executions == 9_999  # all but the other head
    assert graph.states() == {"READY": 1, "FAILED": 9_999}


def test_a_fan_in_of_twenty_thousand_is_written_once_for_each_batch(session):
    graph = Graph(session, [*[[]] * 20_000, [*range(20_000)]])
    batches = 0
    while claims := graph.claim():
        executions, edges = graph.record(claims, OK)
        if claims[0].task_id == graph.ids[-1]:
            break
        batches += 1
        assert edges == len(claims)
        is_last = graph.states().get("WAITING") is None
        assert executions <= len(claims) + 1 + is_last  # and the downstream, which is READY then
    assert batches == -(-20_000 // MOST_PER_RECORD)
    assert graph.states() == {"SUCCESSFUL": 20_001}


def test_a_fan_in_of_twenty_thousand_that_all_fail_fails_once(session):
    graph = Graph(session, [*[[]] * 20_000, [*range(20_000)]])
    while claims := graph.claim():
        graph.record(claims, BAD)
    assert graph.states() == {"FAILED": 20_001}
    row = session.execute("SELECT errors FROM django_ray_execution WHERE task_id = %s", [graph.ids[-1]]).fetchone()
    assert len(row["errors"]) == 1


@pytest.mark.parametrize("verdict", [OK, BAD])
def test_a_fan_out_of_twenty_thousand_is_one_statement(session, verdict):
    graph = Graph(session, [[], *[[0]] * 20_000])
    assert graph.record(graph.claim(), verdict) == (20_001, 20_000 if verdict is OK else 0)
    assert graph.states() == ({"SUCCESSFUL": 1, "READY": 20_000} if verdict is OK else {"FAILED": 20_001})


@pytest.mark.parametrize("width", [2, 10])
def test_a_diamond_of_depth_fifty(session, width):
    """Each of a layer needs all of the one before: two to the fiftieth ways lead through it, or ten."""
    layers = [[0], *([*range(1 + width * number, 1 + width * (number + 1))] for number in range(50))]
    upstreams = [[]] + [layers[number] for number in range(50) for _ in range(width)]
    graph = Graph(session, upstreams)
    number = 1 + 50 * width
    assert graph.record(graph.claim(), BAD) == (number, 0)
    assert graph.states() == {"FAILED": number}
    assert graph.written(RETRY, [graph.ids[0]]) == (number, 0)
    order, versions = graph.run()
    assert sorted(order) == [*range(number)]
    assert order == sorted(order)  # by layers
    assert versions <= 2 * number  # its own end, and what it was made READY by: a layer is one batch
    graph.check()


def test_what_a_diamond_has_run_does_not_run_again(session):
    graph = Graph(session, [[], [0], [0], [1, 2], [3]])
    graph.record(graph.claim(), OK)
    one, two = graph.claim()
    graph.record([one], OK)
    graph.record([two], BAD)
    assert graph.states() == {"SUCCESSFUL": 2, "FAILED": 3}
    session.execute(RETRY, [two.task_id])
    assert graph.run()[0] == [2, 3, 4]


STATISTICS = {
    "fresh": None,
    "of nothing": [[]],
    "of a chain": [[], *([number] for number in range(2000))],
    "of a fan-in": [*[[]] * 2000, [*range(2000)]],
    "of a fan-out": [[], *[[0]] * 2000],
}


@pytest.mark.parametrize("statistics_are", STATISTICS)
def test_an_end_costs_the_same_beside_many_others(session, statistics_are):
    """As many pages beside three hundred thousand edges and as many rows, whatever the statistics say."""
    if statistics_are != "fresh":
        session.execute("ALTER TABLE django_ray_execution SET (autovacuum_enabled = false)")
        session.execute("ALTER TABLE django_ray_edge SET (autovacuum_enabled = false)")
        Graph(session, STATISTICS[statistics_are])
    pages = []
    for number in (0, 300_000 if LONG else 100_000):
        session.execute("TRUNCATE django_ray_execution, django_ray_edge")
        session.execute("SET session_replication_role = replica")
        session.execute(
            "INSERT INTO django_ray_execution (task_id, callable_path, state, is_upstream, needs)"
            " SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'x.y', 'WAITING', true, 'success'"
            " FROM generate_series(1, %s) AS n",
            [number],
        )
        session.execute(
            "INSERT INTO django_ray_edge (upstream_id, downstream_id, place, met)"
            " SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,"
            " ('00000000-0000-7000-8000-' || lpad(to_hex(n + 1), 12, '0'))::uuid, 1, false"
            " FROM generate_series(1, %s) AS n",
            [number],
        )
        session.execute("SET session_replication_role = origin")
        graph = Graph(session, [[], [0], [0], [1, 2], [3]], analyze=statistics_are == "fresh")
        (claim,) = graph.claim(1)
        pages.append([])
        for verdict in (OK, BAD):
            with suppress(Rollback), session.transaction():
                # What a trigger reads is no part of a plan.
                session.execute("SET LOCAL session_replication_role = replica")
                session.execute(SQL["record"], record_parameters([Record(claim, verdict)]))
                session.execute("SET LOCAL session_replication_role = origin")
                pages[-1].append(pages_of(session, b"SELECT django_ray_settle(%s)", [[claim.task_id]]))
                raise Rollback
        pages[-1].append(pages_of(session, SQL["settle_late"], None))
    for table in ("django_ray_execution", "django_ray_edge"):
        session.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
    print(statistics_are, pages)
    assert all(many < 2 * few + 50 for few, many in zip(*pages, strict=True))


DEADLOCKS = "SELECT deadlocks AS it FROM pg_stat_database WHERE datname = current_database()"


def test_two_supervisors_that_record_in_opposite_orders_never_deadlock(session, connect):
    """Members of two flows with the same downstreams, while an operator cancels and retries some of them.

    `DJANGO_RAY_STRESS=long` does it five thousand times.
    """
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance, before = random.Random(seed), session.execute(DEADLOCKS).fetchone()["it"]
    sessions, barrier = [connect() for _ in range(3)], threading.Barrier(3)

    def work(own, statements):
        barrier.wait()
        for statement, parameters in statements:
            own.execute(statement, parameters)

    with ThreadPoolExecutor(3) as threads:
        for _ in range(ROUNDS):
            with session.transaction():
                session.execute("SET LOCAL session_replication_role = replica")
                session.execute("DELETE FROM django_ray_execution")
                session.execute("DELETE FROM django_ray_edge")
            upstreams = [[] for _ in range(8)]
            for _ in range(6):
                upstreams.append(chance.sample(range(len(upstreams)), chance.randint(2, 5)))
            graph = Graph(session, upstreams, needs=chance.choice(["success", "end"]), analyze=False)
            claims = graph.claim()
            chance.shuffle(claims)
            # Each supervisor a batch of some of both flows, then others one by one.
            works = []
            for some in (claims[:4], claims[4:]):
                records = [Record(claim, chance.choice([OK, OK, BAD])) for claim in some]
                batches = [records[:2], records[2:3], records[3:]]
                works.append([(SQL["record"], record_parameters(batch)) for batch in batches])
                works[-1].append((SQL["settle_late"], None))
            verbs = ["SELECT django_ray_cancel(%s)", RETRY]
            works.append([(chance.choice(verbs), [chance.choice(graph.ids)]) for _ in range(5)])
            for done in [
                threads.submit(work, own, statements) for own, statements in zip(sessions, works, strict=True)
            ]:
                done.result()
            until(lambda: not session.execute(SQL["settle_late"]).fetchone()["has_skipped"], what="nothing is late")
            graph.check()
    assert session.execute(DEADLOCKS).fetchone()["it"] == before
