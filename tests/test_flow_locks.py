"""Flows, and rows that somebody else has locked: the end of an upstream waits for nobody.

What was late is made up for.
"""

import asyncio
import json
import threading

import pytest
from anyio import fail_after, sleep

from django_ray.options import Options
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Fail, Succeed
from django_ray_worker.database.statements import SQL, Record, claim_of, claim_parameters, record_parameters
from django_ray_worker.recording.recorder import Recorder
from tests.supervisors import Instant, living, until
from tests.test_flow_interleavings import RETRY, call, wrong

OK = Succeed(result="1")
BAD = Fail(error=Error(exception_class_path="builtins.ValueError", message="m", traceback="t"), failures=1)


class Table:
    """The table, by plain SQL."""

    def __init__(self, session):
        self.session = session

    def enqueue(self, *calls, flow=None, session=None):
        rows = (session or self.session).execute(
            "SELECT task_id FROM django_ray_enqueue_admitted('default', %s)", [json.dumps(calls)]
        )
        return [row["task_id"] for row in rows.fetchall()]

    def claims(self, number):
        parameters = {"backend": "default", "queues": ["default"], **claim_parameters(1, number)}
        rows = self.session.execute(SQL["claim"], parameters).fetchall()
        return {row["task_id"]: claim_of(row, Options()) for row in rows if row["task_id"]}

    def record(self, *records):
        """As a supervisor with more patience than the test: what it waits for is found by a deadline."""
        self.session.execute("SET statement_timeout = '20s'")
        rows = self.session.execute(SQL["record"], record_parameters([Record(*record) for record in records], 0.5))
        return len(rows.fetchall())

    def state(self, *ids):
        rows = self.session.execute("SELECT task_id, state FROM django_ray_execution").fetchall()
        states = {row["task_id"]: row["state"] for row in rows}
        return [states.get(one) for one in ids]

    def late(self):
        return self.session.execute("SELECT count(*) AS number FROM django_ray_edge WHERE is_late").fetchone()["number"]

    def settle_late(self):
        return self.session.execute(SQL["settle_late"]).fetchone()["has_skipped"]

    def wrong(self):
        rows = self.session.execute("SELECT * FROM django_ray_execution").fetchall()
        return wrong(rows, self.session.execute("SELECT * FROM django_ray_edge").fetchall())


@pytest.fixture
def table(connect):
    return Table(connect())


@pytest.fixture
def stranger(connect):
    return connect(autocommit=False)


async def soon(condition):
    with fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is the server's, or another task's
            await sleep(0.005)


LOCKS = {
    "locks it": "SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE",
    "cancels it": "SELECT django_ray_cancel(%s)",
    "writes it": "UPDATE django_ray_execution SET state = 'READY' WHERE task_id = %s",
    "deletes it": "DELETE FROM django_ray_execution WHERE task_id = %s",
}


@pytest.mark.parametrize("how", LOCKS)
def test_whoever_is_at_a_downstream_holds_up_no_end_of_its_upstreams(table, stranger, how):
    """One statement records both, and what else depends on them goes on; it is made up for when the lock is gone."""
    a, b = table.enqueue(call(), call())
    claims = table.claims(2)
    locked, free = table.enqueue(call(a, b), call(a, b))
    stranger.execute(LOCKS[how], [locked])
    assert table.record((claims[a], OK), (claims[b], OK)) == 2
    assert table.state(free, locked) == ["READY", "WAITING"]
    assert table.late() == 2
    assert table.settle_late()
    stranger.rollback()
    assert not table.settle_late()
    assert table.state(free, locked) == ["READY", "READY"]
    assert table.wrong() == []


@pytest.mark.parametrize("how", LOCKS)
def test_what_its_owner_has_committed_stands(table, stranger, how):
    a, b = table.enqueue(call(), call())
    claims = table.claims(2)
    (locked,) = table.enqueue(call(a, b))
    stranger.execute(LOCKS[how], [locked])
    assert table.record((claims[a], OK), (claims[b], OK)) == 2
    stranger.commit()
    assert not table.settle_late()
    assert table.state(locked) == [{"cancels it": "CANCELLED", "deletes it": None}.get(how, "READY")]
    assert table.wrong() == []
    assert table.late() == 0


def test_a_chain_that_is_locked_in_its_middle_fails_as_far_as_it_is_free_and_then_wholly(table, stranger):
    (head,) = table.enqueue(call())
    claims, chain = table.claims(1), [head]
    for _ in range(6):
        chain += table.enqueue(call(chain[-1]))
    stranger.execute(LOCKS["locks it"], [chain[3]])
    table.record((claims[head], BAD))
    assert table.state(*chain) == ["FAILED"] * 3 + ["WAITING"] * 4
    stranger.rollback()
    assert not table.settle_late()
    assert table.state(*chain) == ["FAILED"] * 7
    stranger.execute(LOCKS["locks it"], [chain[3]])
    table.session.execute(RETRY, [head])
    assert table.state(*chain) == ["READY", "WAITING", "WAITING", "FAILED", "FAILED", "FAILED", "FAILED"]
    stranger.rollback()
    assert not table.settle_late()
    assert table.state(*chain) == ["READY"] + ["WAITING"] * 6
    assert table.wrong() == []


def test_of_any_number_that_are_late_none_is_forgotten_and_one_that_stays_locked_holds_up_no_other(table, stranger):
    many = table.enqueue(*[call() for _ in range(2500)])
    claims = table.claims(2500)
    (first,) = table.enqueue(call(*many))
    (second,) = table.enqueue(call(many[0]))
    stranger.execute("SELECT FROM django_ray_execution WHERE task_id = ANY (%s) FOR UPDATE", [[first, second]])
    for start in range(0, 2500, 500):
        table.record(*[(claims[one], OK) for one in many[start : start + 500]])
    assert table.late() == 2501
    stranger.rollback()
    stranger.execute(LOCKS["locks it"], [first])
    assert table.settle_late()
    assert table.state(first, second) == ["WAITING", "READY"]
    stranger.rollback()
    assert not table.settle_late()
    assert table.state(first, second) == ["READY", "READY"]
    assert table.late() == 0


def test_equal_ones_that_failed_together_come_back_as_one(table):
    """A unique violation would make the retry impossible; and in a record, the result of the upstream unstorable."""
    (head,) = table.enqueue(call())
    claims = table.claims(1)
    unique = {**call(head), "admission": {"unique": "u:k"}}
    (first,) = table.enqueue(unique)
    table.record((claims[head], BAD))
    (second,) = table.enqueue(unique)
    assert table.state(first, second) == ["FAILED", "FAILED"]
    table.session.execute(RETRY, [head])
    assert table.state(head, first, second) == ["READY", "FAILED", "WAITING"]


def test_equal_callbacks_that_have_run_run_once_more_as_one(table):
    (head,) = table.enqueue(call())
    claims = table.claims(1)
    callback = {**call(head, needs="end"), "admission": {"unique": "u:k"}}
    (first,) = table.enqueue(callback)
    table.record((claims[head], BAD))
    table.record((table.claims(1)[first], OK))
    (second,) = table.enqueue(callback)
    table.record((table.claims(1)[second], OK))
    table.session.execute(RETRY, [head])
    assert table.record((table.claims(1)[head], OK)) == 1
    assert table.state(head, first, second) == ["SUCCESSFUL", "SUCCESSFUL", "READY"]


@pytest.mark.parametrize("becomes", ["committed", "rolled back"])
def test_who_enqueues_an_equal_one_right_now_holds_up_no_record(table, stranger, becomes):
    (head,) = table.enqueue(call())
    claims = table.claims(1)
    callback = {**call(head, needs="end"), "admission": {"unique": "u:k"}}
    (first,) = table.enqueue(callback)
    table.record((claims[head], BAD))
    table.record((table.claims(1)[first], OK))
    table.session.execute(RETRY, [head])
    claims = table.claims(1)
    table.enqueue({**call(), "admission": {"unique": "u:k"}}, session=stranger)
    assert table.record((claims[head], OK)) == 1
    assert table.state(head, first) == ["SUCCESSFUL", "SUCCESSFUL"]
    stranger.commit() if becomes == "committed" else stranger.rollback()
    assert not table.settle_late()
    assert table.state(first) == ["SUCCESSFUL" if becomes == "committed" else "READY"]


def test_a_result_that_is_asked_for_while_somebody_prunes_stays(table, connect):
    """The statement that prunes has begun before the enqueue, and comes to the row after it."""
    a, other = table.enqueue(call(), call())
    claims = table.claims(2)
    table.record((claims[other], OK))
    table.record((claims[a], OK))
    table.enqueue(call(other))  # asked about first, since it has ended first
    pruner, gate = connect(), connect(autocommit=False)
    gate.execute("SELECT pg_advisory_xact_lock(42)")
    (source,) = (
        table.session.execute("SELECT pg_get_functiondef('django_ray_is_needed(uuid)'::regprocedure) AS it")
        .fetchone()
        .values()
    )
    table.session.execute(
        source.replace(
            "BEGIN\n", f"BEGIN\nIF id = '{other}' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;\n", 1
        )
    )
    try:
        pruning = threading.Thread(
            target=pruner.execute, args=[SQL["prune"], {"backend": "default", "age": 0, "limit": 100}]
        )
        pruning.start()
        until(
            lambda: table.session.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall(), what="the pruner waits"
        )
        (late,) = table.enqueue(call(a))
        gate.rollback()
        pruning.join()
    finally:
        table.session.execute(source)
    assert table.state(a, late) == ["SUCCESSFUL", "READY"]


def test_two_that_enqueue_into_a_flow_that_was_cancelled_do_not_wait_for_each_other_in_a_ring(table, connect):
    """Each commit locks the row of the flow; neither may want more than that."""
    flow = table.session.execute("INSERT INTO django_ray_flow (name, cancelled_at) VALUES ('f', now()) RETURNING id")
    one = {**call(), "link": {"flow": str(flow.fetchone()["id"])}}
    errors = []

    def enqueue(session):
        try:
            for _ in range(300):
                table.enqueue(one, session=session)
        except Exception as error:  # noqa: BLE001 - the thread's
            errors.append(error)

    threads = [threading.Thread(target=enqueue, args=[connect()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    states = table.session.execute("SELECT state, count(*) FROM django_ray_execution GROUP BY state").fetchall()
    assert states == [{"state": "CANCELLED", "count": 900}]


async def test_a_recorder_records_a_batch_whose_downstreams_are_locked(open_store, table, stranger):
    """And one whose own row is locked, by who enqueues after it, waits alone."""
    store, worker = await open_store()
    ids = table.enqueue(*[call() for _ in range(6)])
    claims = {claim.task_id: claim for claim in (await store.claim(worker, 6)).claims}
    (down,) = table.enqueue(call(*ids))
    stranger.execute(LOCKS["locks it"], [down])
    (late,) = table.enqueue(call(ids[0]), session=stranger)
    recorder = Recorder(store, Metrics(), on_recorded=lambda: None)
    running = asyncio.create_task(recorder.run())
    for one in ids:
        recorder.put(Record(claims[one], OK))
    await soon(lambda: table.state(*ids) == ["RUNNING"] + ["SUCCESSFUL"] * 5)
    stranger.commit()
    await soon(lambda: table.state(ids[0], late) == ["SUCCESSFUL", "READY"])
    await recorder.close(10)
    await running
    assert not table.settle_late()
    assert table.state(down) == ["READY"]


async def test_a_supervisor_makes_up_for_it_without_a_pulse(database, table, stranger):
    (a,) = table.enqueue(call())
    (down,) = table.enqueue(call(a))
    stranger.execute(LOCKS["locks it"], [down])
    executor = Instant()
    async with living(database, executor, pulse=0.0):
        await soon(lambda: table.state(a, down) == ["SUCCESSFUL", "WAITING"])
        await soon(lambda: table.late() == 1)
        stranger.rollback()
        await soon(lambda: table.state(down) == ["SUCCESSFUL"])


async def test_a_new_supervisor_makes_up_for_what_nobody_was_there_for(database, table, stranger):
    (a,) = table.enqueue(call())
    claims = table.claims(1)
    (down,) = table.enqueue(call(a))
    stranger.execute(LOCKS["locks it"], [down])
    table.record((claims[a], OK))
    stranger.rollback()
    assert table.state(down) == ["WAITING"]
    async with living(database, Instant(), pulse=0.0):
        await soon(lambda: table.state(down) == ["SUCCESSFUL"])
