"""The SQL of claims and records, on a real server."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from anyio import create_task_group, fail_after, sleep

from django_ray_worker.core.claim import Held, Reconciled, Rescued
from django_ray_worker.core.judge import abandoned, released
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Fail, Release, Retry, Succeed
from django_ray_worker.database.statements import SQL, Record, claim_parameters, record_parameters
from django_ray_worker.recording.recorder import Recorder

ERROR = Error(exception_class_path="builtins.ValueError", message="m", traceback="t")


async def test_claims_come_by_priority_then_age_over_all_queues(open_store, insert):
    """C8."""
    store, worker = await open_store()
    old = insert()
    low = insert(priority=-5, queue_name="other")
    high = insert(priority=5, queue_name="other")
    young = insert()
    taken = [claim.task_id for _ in range(4) for claim in (await store.claim(worker, 1)).claims]
    assert taken == [high, old, young, low]


async def test_one_batch_is_in_order_too(open_store, insert):
    store, worker = await open_store()
    expected = [insert(priority=priority) for priority in (0, 0, 9, -1, 9)]
    batch = await store.claim(worker, 10)
    order = [2, 4, 0, 1, 3]
    assert [claim.task_id for claim in batch.claims] == [expected[index] for index in order]


async def test_other_queues_and_other_backends_are_left_alone(open_store, insert):
    store, worker = await open_store(queues=("default",))
    insert(queue_name="other")
    insert(backend="any")
    mine = insert()
    assert [claim.task_id for claim in (await store.claim(worker, 10)).claims] == [mine]


async def test_a_supervisor_of_any_queue_takes_from_every_queue(open_store, insert):
    store, worker = await open_store(queues=None, backend="any")
    ids = {insert(backend="any", queue_name=name) for name in ("a", "B", "ü", "it's", "🦀" * 200)}
    insert(backend="any", queue_name="later", due_at="2100-01-01T00:00:00Z")
    insert(backend="default")
    batch = await store.claim(worker, 100)
    assert {claim.task_id for claim in batch.claims} == ids
    assert batch.next_due > 1e9


async def test_a_due_row_waits_for_its_time_and_is_promoted(open_store, insert):
    store, worker = await open_store()
    insert(due_at="2100-01-01T00:00:00Z")
    due = insert(due_at="2020-01-01T00:00:00Z")
    batch = await store.claim(worker, 10)
    assert batch.claims == ()
    assert batch.next_due < 0
    await store.promote()
    batch = await store.claim(worker, 10)
    assert [claim.task_id for claim in batch.claims] == [due]
    assert batch.next_due > 0


async def test_twelve_claimers_take_each_of_a_thousand_rows_once(open_store, connect):
    """C8."""
    connect().execute(
        "INSERT INTO django_ray_execution (callable_path, queue_name)"
        " SELECT 'x.y', CASE WHEN n % 2 = 0 THEN 'default' ELSE 'other' END FROM generate_series(1, 1000) n"
    )
    taken = []

    async def claim_all(store, worker):
        while batch := (await store.claim(worker, 7)).claims:
            taken.extend(claim.task_id for claim in batch)
            await asyncio.sleep(0)

    stores = [await open_store() for _ in range(12)]
    async with create_task_group() as claimers:
        for store, worker in stores:
            claimers.start_soon(claim_all, store, worker)
    # Who looked while a peer held more rows than it took may stop early: it is told, and looks again.
    await claim_all(*stores[0])
    assert len(taken) == len(set(taken)) == 1000


async def test_a_claim_tells_of_rows_that_somebody_else_has_locked(open_store, insert, connect):
    """Whoever locks a row may roll back, and then nobody rings."""
    store, worker = await open_store()
    insert(), insert(queue_name="other")
    locker = connect(autocommit=False)
    locker.execute("SELECT 1 FROM django_ray_execution WHERE queue_name = 'other' FOR UPDATE")
    batch = await store.claim(worker, 5)
    assert (len(batch.claims), batch.has_skipped) == (1, True)
    locker.rollback()
    batch = await store.claim(worker, 5)
    assert (len(batch.claims), batch.has_skipped) == (1, False)
    assert not (await store.claim(worker, 5)).has_skipped


async def test_a_record_returns_what_it_wrote(open_store, insert, rows):
    store, worker = await open_store()
    for _ in range(3):
        insert()
    first, second, third = (await store.claim(worker, 3)).claims
    written = await store.record(
        [
            Record(third, Retry(error=ERROR, after=60, failures=1)),
            Record(first, Succeed(result='{"a": 1}')),
            Record(second, Fail(error=ERROR, failures=1)),
        ]
    )
    assert written == {first.task_id, second.task_id, third.task_id}
    one, two, three = rows()
    assert (one["state"], one["result"], one["claimed_by_id"]) == ("SUCCESSFUL", {"a": 1}, None)
    assert (two["state"], two["failures"], two["exception_type"]) == ("FAILED", 1, "builtins.ValueError")
    assert (two["errors"][0]["attempt"], two["errors"][0]["worker_id"]) == (1, str(worker))
    assert (three["state"], three["failures"], three["finished_at"]) == ("READY", 1, None)
    assert 50 < (three["due_at"] - three["last_attempted_at"]).total_seconds() < 70


async def test_a_claim_whose_body_never_began_is_no_attempt_to_who_looks(open_store, insert, rows):
    store, worker = await open_store()
    insert()
    (claim,) = (await store.claim(worker, 1)).claims
    assert await store.record([Record(claim, Release(has_begun=False))]) == {claim.task_id}
    seen = "state, worker_ids, started_at, last_attempted_at"
    assert rows(seen) == [{"state": "READY", "worker_ids": [], "started_at": None, "last_attempted_at": None}]
    (begun,) = (await store.claim(worker, 1)).claims
    await store.record([Record(begun, Release())])
    first = rows("started_at")[0]["started_at"]
    (again,) = (await store.claim(worker, 1)).claims
    await store.record([Record(again, Release(has_begun=False))])
    assert rows("worker_ids, started_at, attempt_number") == [
        {"worker_ids": [str(worker)], "started_at": first, "attempt_number": 3}  # the fence counts every claim
    ]


async def test_the_fence_refuses_an_older_attempt_and_another_owner(open_store, insert, rows):
    """C3: the late outcome of an attempt that was taken away changes nothing."""
    store, worker = await open_store()
    other_store, other = await open_store()
    insert()
    (late,) = (await store.claim(worker, 1)).claims
    await store.record([Record(late, Release())])
    (current,) = (await other_store.claim(other, 1)).claims
    assert await store.record([Record(late, Succeed(result="1"))]) == set()
    assert rows("state, claimed_by_id") == [{"state": "RUNNING", "claimed_by_id": other}]
    assert await other_store.record([Record(current, Succeed(result="2"))]) == {current.task_id}
    assert await other_store.record([Record(current, Succeed(result="3"))]) == set()
    assert rows("result")[0]["result"] == 2


async def test_the_fence_refuses_an_older_attempt_of_the_same_owner(open_store, insert, rows):
    """C3: taken away and claimed again by the one that had it, whose owner is right and whose attempt is not."""
    store, worker = await open_store()
    insert()
    (late,) = (await store.claim(worker, 1)).claims
    await store.record([Record(late, Release())])
    (current,) = (await store.claim(worker, 1)).claims
    assert await store.record([Record(late, Succeed(result="1"))]) == set()
    assert await store.record([Record(current, Succeed(result="2"))]) == {current.task_id}
    assert rows("result, attempt_number") == [{"result": 2, "attempt_number": 2}]


async def test_the_fence_refuses_an_attempt_that_nobody_has_claimed_since(open_store, insert, rows):
    """C3: taken away and READY again, so that its attempt is still the last and only its owner is not."""
    store, worker = await open_store()
    insert()
    (late,) = (await store.claim(worker, 1)).claims
    await store.record([Record(late, Release())])
    assert await store.record([Record(late, Succeed(result="1"))]) == set()
    assert rows("state, attempt_number") == [{"state": "READY", "attempt_number": 1}]


BLOCKED = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'django-ray-listen'"
    " AND datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
)


async def blocked(session, number):
    """Return when so many sessions wait for a lock of a row."""
    with fail_after(20):
        while session.execute(BLOCKED).fetchone()["count"] < number:  # noqa: ASYNC110 - it is the server's
            await sleep(0.005)


@pytest.fixture
def database_settings(connect):
    """Change what sessions that are opened from now on begin with."""
    session = connect()
    name = psycopg.sql.Identifier(session.info.dbname)

    def change(**settings):
        for key, value in settings.items():
            change = psycopg.sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, psycopg.sql.Identifier(key), value)
            session.execute(change)

    yield change
    session.execute(psycopg.sql.SQL("ALTER DATABASE {} RESET ALL").format(name))


@pytest.fixture
def patient(monkeypatch):
    """A record waits for locked rows as long as a deadlock takes to be found."""
    monkeypatch.setattr("django_ray_worker.database.store.LOCK_SECONDS", 60)


async def test_two_writers_with_the_same_rows_in_another_order_do_not_deadlock(
    patient, database_settings, open_store, insert, connect
):
    """C7: both meet at the row in the middle, whose lock somebody else holds; what each holds by then decides."""
    # The plan that a table of any size has. A table of three rows is read as a whole, in one order for all.
    database_settings(enable_seqscan="off", enable_hashjoin="off", enable_mergejoin="off")
    store, worker = await open_store()
    other, _ = await open_store()
    for _ in range(3):
        insert()
    claims = (await store.claim(worker, 3)).claims
    holder, monitor = connect(autocommit=False), connect()
    holder.execute("SELECT 1 FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [claims[1].task_id])
    records = [Record(claim, Succeed(result="1")) for claim in claims]
    written = []

    async def write(store, records):
        written.append(await store.record(records))

    async with create_task_group() as writers:
        writers.start_soon(write, store, records)
        await blocked(monitor, 1)
        writers.start_soon(write, other, records[::-1])
        await blocked(monitor, 2)
        holder.rollback()
    assert sorted(map(len, written)) == [0, 3]


@pytest.fixture
def unhurried(database_settings):
    """Who waits for a lock gives way only when the other one has had the time to come into the way, too."""
    database_settings(deadlock_timeout="5s")


async def test_a_deadlock_is_recorded_at_once_and_once(  # noqa: PLR0917
    patient, unhurried, recorder, insert, rows, connect, caplog
):
    """C7: 40P01, for real. An operator's transaction holds the second row and wants the first."""
    recorder, store, worker = recorder
    insert(), insert()
    first, second = (await store.claim(worker, 2)).claims
    operator, monitor = connect(autocommit=False), connect()
    operator.execute("SET deadlock_timeout = '60s'")  # so that the recorder is the one that gives way
    touch = "UPDATE django_ray_execution SET priority = 1 WHERE task_id = %s"
    operator.execute(touch, [second.task_id])
    for claim in (first, second):
        recorder.put(Record(claim, Succeed(result="1")))
    await blocked(monitor, 1)
    await asyncio.to_thread(operator.execute, touch, [first.task_id])
    operator.commit()
    await recorder.close(30)
    assert "2 outcomes wait for the database (deadlock detected" in caplog.text
    assert "is not ours any more" not in caplog.text
    assert rows("state, priority, attempt_number") == [{"state": "SUCCESSFUL", "priority": 1, "attempt_number": 1}] * 2


@pytest.mark.parametrize("kind", [psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected])
async def test_a_record_that_lost_against_another_transaction_is_repeated(recorder, insert, rows, monkeypatch, kind):
    """C7, A4: 40001 and 40P01."""
    recorder, store, worker = recorder
    insert()
    (claim,) = (await store.claim(worker, 1)).claims
    record, refusals = store.record, [kind("no"), kind("again no")]

    async def refuse(records):
        if refusals:
            raise refusals.pop()
        return await record(records)

    monkeypatch.setattr(store, "record", refuse)
    recorder.put(Record(claim, Succeed(result="1")))
    await recorder.close(10)
    assert refusals == []
    assert rows("state, attempt_number") == [{"state": "SUCCESSFUL", "attempt_number": 1}]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_stricter_default_of_database_and_role_changes_nothing(
    patient, database_settings, open_store, connect, isolation
):
    """C6: twelve claimers that meet all the time, and not one 40001. A4: neither does a read-only default."""
    session = connect()
    session.execute("INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, 300)")
    database_settings(default_transaction_isolation=isolation, default_transaction_read_only="on")
    try:
        assert connect().execute("SHOW transaction_isolation").fetchone() == {"transaction_isolation": isolation}

        async def work(store, worker):
            while claims := (await store.claim(worker, 7)).claims:
                await store.record([Record(claim, Succeed(result="1")) for claim in claims])

        async with create_task_group() as workers:
            for store, worker in [await open_store() for _ in range(12)]:
                workers.start_soon(work, store, worker)
    finally:
        database_settings(default_transaction_read_only="off")  # the end of the test flushes the table
    counts = "SELECT state, attempt_number, count(*) FROM django_ray_execution GROUP BY 1, 2"
    assert session.execute(counts).fetchall() == [{"state": "SUCCESSFUL", "attempt_number": 1, "count": 300}]


@pytest.mark.parametrize("time_zone", ["Asia/Tokyo", "America/New_York"])
async def test_the_time_zone_of_the_session_changes_no_moment(database_settings, open_store, insert, rows, time_zone):
    """F2: of the database, or of the role; what the body is told is the same moment."""
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    insert(run_after=moment)
    database_settings(timezone=time_zone)
    store, worker = await open_store()
    (claim,) = (await store.claim(worker, 1)).claims
    await store.record([Record(claim, Retry(error=ERROR, after=60, failures=1))])
    assert 50 < (await store.claim(worker, 1)).next_due <= 60
    payload = json.loads(claim.payload)
    assert datetime.fromisoformat(payload["run_after"]) == moment
    (row,) = rows("enqueued_at, last_attempted_at, due_at")
    assert datetime.fromisoformat(payload["enqueued_at"]) == row["enqueued_at"]
    assert 50 < (row["due_at"] - row["last_attempted_at"]).total_seconds() < 70


async def test_a_row_deleted_while_it_runs_is_no_error(open_store, insert, connect):
    """C9."""
    store, worker = await open_store()
    insert()
    (claim,) = (await store.claim(worker, 1)).claims
    connect().execute("DELETE FROM django_ray_execution")
    assert await store.record([Record(claim, Succeed(result="1"))]) == set()


async def test_claims_nobody_holds_are_released_and_held_ones_are_not(open_store, insert, rows):
    """C4."""
    store, worker = await open_store()
    insert(), insert()
    held, lost = (await store.claim(worker, 2)).claims
    assert await store.reconcile([worker], {held.task_id}, released) == Reconciled(
        ours={held.task_id: Held(1)}, unheld=1, locked=0
    )
    assert lost.task_id in {row["task_id"] for row in rows() if row["state"] == "READY"}
    assert [row["state"] for row in rows()] == ["RUNNING", "READY"]


async def test_the_dead_are_rescued_within_their_backend(open_store, insert, rows):
    """C1: whose retry policy decides is the backend's."""
    ours, us = await open_store()
    theirs, them = await open_store(queues=None, backend="any")
    insert(backend="any")
    await theirs.claim(them, 1)
    assert await ours.rescue(us, abandoned) == {}
    successor, new = await open_store(queues=None, backend="any")
    assert await successor.rescue(new, abandoned) == {them: Rescued(rows=1, locked=0, is_marked=True)}
    assert rows("state, losses") == [{"state": "READY", "losses": 1}]


@pytest.fixture
async def recorder(open_store):
    """A recorder at work, and how to end it."""
    store, worker = await open_store()
    recorder = Recorder(store, Metrics(), on_recorded=lambda: None)
    running = asyncio.create_task(recorder.run())
    yield recorder, store, worker
    await recorder.close(10)
    await running


async def test_one_bad_outcome_in_a_batch_fails_alone(recorder, insert, rows):
    """D2."""
    recorder, store, worker = recorder
    for _ in range(3):
        insert()
    first, bad, last = (await store.claim(worker, 3)).claims
    for claim, result in ((first, "1"), (bad, '"a\\u0000b"'), (last, "3")):
        recorder.put(Record(claim, Succeed(result=result)))
    await recorder.close(10)
    one, two, three = rows()
    assert (one["result"], three["result"]) == (1, 3)
    assert (two["state"], two["exception_type"]) == ("FAILED", "django_ray.exceptions.InvalidResult")
    assert "cannot be stored" in two["errors"][0]["message"]


async def test_a_row_that_takes_no_outcome_at_all_is_left_and_the_recorder_lives(recorder, insert, rows, connect):
    """C9: an operator's own constraint refuses whatever we write."""
    recorder, store, worker = recorder
    insert(), insert()
    stubborn, other = (await store.claim(worker, 2)).claims
    session = connect()
    session.execute(
        "ALTER TABLE django_ray_execution ADD CONSTRAINT theirs"
        f" CHECK (task_id <> '{stubborn.task_id}' OR state = 'RUNNING')"
    )
    try:
        recorder.put(Record(stubborn, Succeed(result="1")))
        recorder.put(Record(other, Succeed(result="2")))
        await recorder.close(10)
    finally:
        session.execute("ALTER TABLE django_ray_execution DROP CONSTRAINT theirs")
    assert [row["state"] for row in rows()] == ["RUNNING", "SUCCESSFUL"]


async def test_an_error_text_that_cannot_be_stored_is_cleaned_at_the_door(open_store, insert, rows):
    """D1."""
    store, worker = await open_store()
    insert()
    (claim,) = (await store.claim(worker, 1)).claims
    odd = Error(exception_class_path="a.B", message="nul \x00", traceback="surrogate \ud800")
    assert await store.record([Record(claim, Fail(error=odd, failures=1))]) == {claim.task_id}
    assert rows()[0]["errors"][0]["message"] == "nul \\x00"


UNFIT = [
    "a text",
    ["a list"],
    {"no such part": 1},
    {"timeout": "never"},
    {"timeout": -1},
    {"timeout": True},
    {"retry": None},
    {"retry": {"max_attempts": "many"}},
    {"retry": {"backoff": 7}},
    {"retry": {"backoff": {"base": "long"}}},
    {"retry": {"retry_on": "builtins.ValueError"}},
    {"retry": {"no_retry_on": [7]}},
    {"retry": {"import_grace": "long"}},
    {"ray": 7},
    {"ray": {"num_cpus": "x"}},
    {"ray": {"num_gpus": 1.5}},
    {"ray": {"memory": "1"}},
    {"ray": {"resources": [1]}},
    {"ray": {"resources": {"CPU": 1}}},
    {"ray": {"resources": {"a": "b"}}},
    {"ray": {"label_selector": {"zone": 1}}},
    {"ray": {"runtime_env": "pip"}},
    {"ray": {"max_calls": "one"}},
    {"ray": {"num_returns": 2}},
    {"ray": {"max_retries": 5}},
    {"ray": {"scheduling_strategy": "SPREAD"}},
]


@pytest.mark.parametrize("options", UNFIT, ids=json.dumps)
async def test_options_that_do_not_fit_spoil_their_own_row_alone(open_store, insert, options):
    """C10."""
    store, worker = await open_store()
    insert(options=json.dumps(options))
    insert()
    poisoned, healthy = (await store.claim(worker, 2)).claims
    assert poisoned.unfit
    assert poisoned.options == healthy.options
    assert healthy.unfit == ""


@pytest.fixture
def crowded(connect, count_rows):
    """C11: 200,000 finished and 200,000 scheduled rows beside a short queue."""
    session = connect()
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, state, finished_at)"
        " SELECT 'x.y', 'SUCCESSFUL', now() FROM generate_series(1, 200000)"
    )
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, due_at)"
        " SELECT 'x.y', now() + interval '7 days' FROM generate_series(1, 200000)"
    )
    session.execute("INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, 2000)")
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
    session.execute(SQL["session_settings"])
    count_rows()
    return session


def plan(session, name, parameters):
    session.execute("BEGIN")
    row = session.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + SQL[name], parameters).fetchone()
    session.execute("ROLLBACK")
    return row["QUERY PLAN"][0]["Plan"]


def nodes(tree):
    yield tree
    for child in tree.get("Plans", []):
        yield from nodes(child)


def buffers(tree):
    return tree["Shared Hit Blocks"] + tree["Shared Read Blocks"]


async def test_claim_and_record_use_their_indexes_however_full_the_table(crowded, open_store):
    store, worker = await open_store()
    scope = {"backend": "default", "queues": ["default", "other"], **claim_parameters(worker, 50)}
    claim = plan(crowded, "claim", scope)
    indexes = {node["Index Name"] for node in nodes(claim) if "Index Name" in node}
    assert "django_ray_ready" in indexes
    assert not [node for node in nodes(claim) if node["Node Type"] == "Seq Scan"]
    assert buffers(claim) < 50 * 40

    claims = (await store.claim(worker, 50)).claims
    record = plan(crowded, "record", record_parameters([Record(claim, Succeed(result="1")) for claim in claims]))
    indexes = {node["Index Name"] for node in nodes(record) if "Index Name" in node}
    assert indexes == {"django_ray_execution_pkey"}
    assert not [node for node in nodes(record) if node["Node Type"] == "Seq Scan"]
    assert buffers(record) < 50 * 40


async def test_the_first_batch_is_recorded_by_index_before_anything_has_statistics(open_store, connect):
    """C11: a table of which the server knows nothing, and a batch that looks like most of it."""
    store, worker = await open_store()
    session = connect()
    session.execute("TRUNCATE django_ray_execution")
    session.execute("INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, 5000)")
    session.execute(SQL["session_settings"])
    claims = (await store.claim(worker, 400)).claims
    record = plan(session, "record", record_parameters([Record(claim, Succeed(result="1")) for claim in claims]))
    assert {node["Node Type"] for node in nodes(record) if "Scan" in node["Node Type"]} == {
        "Function Scan",
        "Index Scan",
    }


async def test_claims_stay_usable_while_an_old_transaction_holds_back_vacuum(open_store, connect):
    """C12: 20,000 executions have come and gone, and all that they leave in the index is still there."""
    store, worker = await open_store()
    old, session = connect(autocommit=False), connect()
    old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    old.execute("SELECT count(*) FROM django_ray_execution")
    session.execute("INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, 20000)")
    session.execute("UPDATE django_ray_execution SET state = 'RUNNING', claimed_by_id = %s", [worker])
    session.execute("UPDATE django_ray_execution SET state = 'FAILED', claimed_by_id = NULL, finished_at = now()")
    session.execute("INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, 3)")
    seconds = []
    for _ in range(3):
        before = time.monotonic()
        batch = await store.claim(worker, 1)
        seconds.append(time.monotonic() - before)
        assert len(batch.claims) == 1
    print(f"one claim behind 20,000 dead index entries: {min(seconds) * 1000:.0f} ms")
    assert min(seconds) < 2


async def test_the_pulse_tells_how_long_the_oldest_claimable_row_has_been_waiting(open_store, insert):
    """C12: of whatever priority; what is not due yet does not wait, and what runs or belongs to others is not ours."""
    store, worker = await open_store()
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    insert(enqueued_at=hour_ago, due_at="2100-01-01T00:00:00Z")
    insert(enqueued_at=hour_ago, backend="any")
    assert (await store.pulse([worker], "h", 1)).oldest is None
    insert(priority=9)
    insert(enqueued_at=datetime.now(UTC) - timedelta(minutes=1), queue_name="other", priority=-9)
    assert 59 < (await store.pulse([worker], "h", 1)).oldest < 90
    insert(due_at=datetime.now(UTC) - timedelta(minutes=2))
    assert 119 < (await store.pulse([worker], "h", 1)).oldest < 150
    await store.promote()
    await store.claim(worker, 10)
    pulse = await store.pulse([worker], "h", 1)
    assert (pulse.oldest, pulse.running) == (None, 3)
