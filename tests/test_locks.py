"""Somebody else's lock on a row of ours: it holds up that row, and nothing else."""

import asyncio
import signal

import pytest
from anyio import fail_after, sleep

from django_ray_worker.core.claim import Reconciled, Rescued
from django_ray_worker.core.judge import abandoned, released
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.policy import Release, Succeed
from django_ray_worker.database.statements import SQL, Record, lock_parameters
from django_ray_worker.recording.recorder import Recorder
from tests.supervisors import Instant, living, until

LOCK = "SELECT 1 FROM django_ray_execution WHERE task_id = ANY (%s) FOR UPDATE"
LOCK_WORKER = "SELECT 1 FROM django_ray_worker WHERE id = %s FOR UPDATE"


async def soon(condition):
    """until() for coroutines."""
    with fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is the server's, or another task's
            await sleep(0.005)


@pytest.fixture
def stranger(connect):
    """A transaction of somebody else's."""
    return connect(autocommit=False)


@pytest.fixture
async def recorder(open_store):
    """A recorder at work, and how to end it."""
    store, worker = await open_store()
    recorder = Recorder(store, Metrics(), on_recorded=lambda: None)
    running = asyncio.create_task(recorder.run())
    yield recorder, store, worker
    await recorder.close(10)
    await running


def counts(rows):
    states = [row["state"] for row in rows("state")]
    return {state: states.count(state) for state in sorted(set(states))}


async def claimed(store, worker, insert, number):
    for _ in range(number):
        insert()
    return (await store.claim(worker, number)).claims


async def test_a_locked_row_holds_up_no_other_outcome(recorder, insert, rows, stranger, caplog):
    """I5: one of twenty, in the middle of a batch; and what ends afterwards is stored too."""
    recorder, store, worker = recorder
    claims = await claimed(store, worker, insert, 20)
    stranger.execute(LOCK, [[claims[7].task_id]])
    for claim in claims:
        recorder.put(Record(claim, Succeed(result="1")))
    await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 19})
    (late,) = await claimed(store, worker, insert, 1)
    recorder.put(Record(late, Succeed(result="1")))
    await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 20})
    await soon(lambda: recorder.pending == {claims[7].task_id})
    await soon(lambda: "1 outcomes wait for rows that another transaction has locked" in caplog.text)
    assert str(claims[7].task_id) in caplog.text
    stranger.rollback()
    await soon(lambda: counts(rows) == {"SUCCESSFUL": 21})
    assert {row["attempt_number"] for row in rows("attempt_number")} == {1}
    assert "is not ours any more" not in caplog.text


async def test_what_the_owner_of_the_lock_has_decided_stands(recorder, insert, rows, stranger, caplog):
    """I5: the row is READY again when the lock is gone, so that the fence refuses what came back."""
    recorder, store, worker = recorder
    (claim,) = await claimed(store, worker, insert, 1)
    stranger.execute("UPDATE django_ray_execution SET state = 'READY', claimed_by_id = NULL")
    recorder.put(Record(claim, Succeed(result="1")))
    await soon(lambda: "another transaction has locked" in caplog.text)
    stranger.commit()
    await soon(lambda: not recorder.pending)
    assert "is not ours any more" in caplog.text
    assert counts(rows) == {"READY": 1}


async def test_bad_data_and_a_lock_in_one_batch_concern_their_own_rows(recorder, insert, rows, stranger):
    """I5, D2."""
    recorder, store, worker = recorder
    claims = await claimed(store, worker, insert, 4)
    stranger.execute(LOCK, [[claims[0].task_id]])
    for claim, result in zip(claims, ("1", '"a\\u0000b"', "3", "4"), strict=True):
        recorder.put(Record(claim, Succeed(result=result)))
    await soon(lambda: counts(rows) == {"FAILED": 1, "RUNNING": 1, "SUCCESSFUL": 2})
    stranger.rollback()
    await soon(lambda: counts(rows) == {"FAILED": 1, "SUCCESSFUL": 3})


async def test_a_supervisor_cancels_what_an_open_transaction_wants_cancelled_and_goes_on_meanwhile(
    database, connect, rows, stranger
):
    """I5: the product's own verb locks the row of a running task for as long as its transaction lasts."""
    session, executor = connect(), Held()
    session.execute(
        "INSERT INTO django_ray_execution (callable_path) SELECT 'tests.tasks.add' FROM generate_series(1, 3)"
    )
    async with living(database, executor):
        await soon(lambda: len(executor.ran) == 3)
        (first, *_) = rows("task_id")
        stranger.execute("SELECT django_ray_cancel(%s)", [first["task_id"]])
        executor.release.set()
        await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 2})
        session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
        await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 3})
        stranger.commit()
        await soon(lambda: counts(rows) == {"SUCCESSFUL": 4})


class Held(Instant):
    """What it runs waits for a word."""

    def __init__(self):
        super().__init__()
        self.release = asyncio.Event()

    async def run(self, claims):
        answer = await super().run(claims)
        await self.release.wait()
        return answer


async def test_what_is_locked_is_released_later_and_judged_once(open_store, insert, rows, stranger):
    """I5: a reconciliation, and a rescue."""
    store, worker = await open_store()
    successor, new = await open_store()
    claims = await claimed(store, worker, insert, 3)
    stranger.execute(LOCK, [[claims[1].task_id]])
    judged = []

    def verdict_of(claim):
        judged.append(claim.task_id)
        return released(claim)

    for locked in (1, 1, 0):
        if not locked:
            stranger.rollback()
        found = await store.reconcile([worker], {claims[0].task_id}, verdict_of)
        assert (found.locked, set(found.ours)) == (locked, {claims[0].task_id})
    assert judged == [claims[2].task_id, claims[1].task_id]
    stranger.execute(LOCK, [[claims[0].task_id]])
    assert await successor.rescue(new, abandoned) == {worker: Rescued(rows=0, locked=1, is_marked=True)}
    stranger.rollback()
    assert await successor.rescue(new, abandoned) == {worker: Rescued(rows=1, locked=0, is_marked=True)}
    assert await successor.rescue(new, abandoned) == {}
    assert sorted(row["losses"] for row in rows("losses")) == [0, 0, 1]


async def test_a_reconciliation_comes_back_for_what_was_locked(database, connect, rows, stranger):
    """I5: three claims that nobody holds, and nobody rings again."""
    session, executor = connect(), Instant()
    async with living(database, executor) as life:
        session.execute(
            "INSERT INTO django_ray_execution (callable_path, state, claimed_by_id, attempt_number, worker_ids)"
            " SELECT 'tests.tasks.add', 'RUNNING', %s, 1, to_jsonb(ARRAY[%s::text]) FROM generate_series(1, 3)",
            [life._registration.identity.worker, life._identity.worker],
        )
        stranger.execute(LOCK, [[rows("task_id")[1]["task_id"]]])
        life._reconciler.ask()
        await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 2})
        stranger.rollback()
        await soon(lambda: counts(rows) == {"SUCCESSFUL": 3})


async def test_of_a_dead_peer_the_locked_row_is_taken_back_when_it_is_free(  # noqa: PLR0917
    database, connect, open_store, insert, rows, stranger
):
    """I5: in one transaction with the others, which wait for nothing; the next one that dies is found meanwhile."""
    executor = Instant()
    dead_store, dead = await open_store()
    claims = await claimed(dead_store, dead, insert, 3)
    stranger.execute(LOCK, [[claims[0].task_id]])
    async with living(database, executor) as life:
        await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 2})
        _, other = await open_store()
        insert(state="RUNNING", claimed_by_id=other, attempt_number=1, worker_ids=f'["{other}"]')
        life._liveness.members_changed()
        await soon(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 3})
        stranger.rollback()
        await soon(lambda: counts(rows) == {"SUCCESSFUL": 4})
    assert [row["losses"] for row in rows("losses")] == [1, 1, 1, 1]


async def test_a_lock_on_the_row_of_a_dead_supervisor_holds_up_nothing(  # noqa: PLR0917
    database, connect, open_store, insert, rows, stranger
):
    """I5: what it ran is taken back at once; that it is lost is written when its row is free."""
    session = connect()
    dead_store, dead = await open_store()
    await claimed(dead_store, dead, insert, 1)
    stranger.execute(LOCK_WORKER, [dead])
    is_lost = "SELECT lost_at IS NOT NULL AS it FROM django_ray_worker WHERE id = %s"
    async with living(database, Instant()):
        await soon(lambda: counts(rows) == {"SUCCESSFUL": 1})
        assert not session.execute(is_lost, [dead]).fetchone()["it"]
        stranger.rollback()
        await soon(lambda: session.execute(is_lost, [dead]).fetchone()["it"])


async def test_a_lock_on_the_row_of_a_living_supervisor_changes_nothing(  # noqa: PLR0917
    database, connect, open_store, rows, stranger, caplog
):
    """I5: neither its pulse nor a new session wait for it, and no peer takes it for frozen."""
    session, executor = connect(), Instant()
    async with living(database, executor, pulse=0.2) as life:
        await soon(lambda: life._session.is_open)
        worker = life._registration.identity.worker
        store, peer = await open_store()
        stranger.execute(LOCK_WORKER, [worker])
        overdue = "SELECT pulse_at < now() - interval '2 s' AS it FROM django_ray_worker WHERE id = %s"
        await soon(lambda: session.execute(overdue, [worker]).fetchone()["it"])
        assert await store.rescue(peer, abandoned, only=worker) == {}
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'django-ray-listen'"
            " AND datname = current_database() AND query LIKE '%%django_ray_announce%%'"
        )
        await soon(lambda: life._session.opened == 2 and life._session.is_open)
        session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
        await soon(lambda: counts(rows) == {"SUCCESSFUL": 1})
        stranger.rollback()
        await soon(lambda: not session.execute(overdue, [worker]).fetchone()["it"])
    assert life.metrics.pulses_missed == 0
    assert "does not come back" not in caplog.text


@pytest.mark.parametrize("is_successor_there", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_at_the_end_of_a_supervisor_the_locked_outcome_is_left_to_the_server(  # noqa: PLR0917
    listen, connect, rows, insert, stranger, tmp_path, is_successor_there
):
    """I5, E1: the others are recorded, it is said in the log, and the task does not run again."""
    supervisor = listen("--sync")
    supervisor.wait_for("is ready")
    file = tmp_path / "started"
    task_id = insert(callable_path="tests.tasks.touch_and_wait", args=f'["{file}"]')
    until(file.exists)
    stranger.execute(LOCK, [[task_id]])
    file.with_suffix(".go").touch()
    supervisor.wait_for("1 outcomes wait for rows that another transaction has locked")
    insert(args="[1, 2]")
    until(lambda: counts(rows) == {"RUNNING": 1, "SUCCESSFUL": 1})
    supervisor.signal(signal.SIGTERM)
    supervisor.wait_for("PostgreSQL writes them if it ends")
    assert supervisor.wait() == 0
    assert str(task_id) in supervisor.log
    if is_successor_there:
        successor = listen("--sync")
        successor.wait_for("is ready")
        successor.wait_for("locked by another transaction")
    stranger.rollback()
    until(lambda: counts(rows) == {"SUCCESSFUL": 2})
    assert {row["attempt_number"] for row in rows("attempt_number")} == {1}
    assert sum(row["losses"] for row in rows("losses")) == 0


async def test_a_lock_of_the_table_is_no_missing_pulse(database, connect, stranger, caplog):
    """I5, F6: the server says that it waits, so nothing is swallowed, and no connection is dropped."""
    session = connect()
    async with living(database, Instant(), pulse=0.2) as life:
        await soon(lambda: life._session.is_open)
        seen = "SELECT pulse_at FROM django_ray_worker WHERE id = %s"
        stranger.execute("LOCK TABLE django_ray_execution IN ACCESS EXCLUSIVE MODE")
        before = session.execute(seen, [life._registration.identity.worker]).fetchone()["pulse_at"]
        waits = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'django-ray-listen'"
            " AND datname = current_database() AND wait_event_type = 'Lock'"
        )
        await soon(lambda: session.execute(waits).fetchone())
        await soon(lambda: session.execute(seen, [life._registration.identity.worker]).fetchone()["pulse_at"] > before)
        stranger.rollback()
        await soon(lambda: not session.execute(waits).fetchone())
        assert (life.metrics.pulses_missed, life._session.opened) == (0, 1)


async def test_locking_uses_the_primary_key_before_anything_has_statistics(open_store, connect):
    """C11: as the record does."""
    store, worker = await open_store()
    session = connect()
    session.execute("TRUNCATE django_ray_execution")
    session.execute("INSERT INTO django_ray_execution (callable_path) SELECT 'x.y' FROM generate_series(1, 5000)")
    session.execute(SQL["session_settings"])
    claims = (await store.claim(worker, 400)).claims
    row = session.execute(b"EXPLAIN (FORMAT JSON) " + SQL["lock"], lock_parameters(claims)).fetchone()
    found, left = set(), [row["QUERY PLAN"][0]["Plan"]]
    while left:
        node = left.pop()
        if node.get("Relation Name"):
            found.add((node["Node Type"], node.get("Index Name")))
        left += node.get("Plans", [])
    assert found - {("LockRows", None)} == {("Index Scan", "django_ray_execution_pkey")}


async def test_a_careful_record_writes_what_is_free_and_names_what_is_locked(open_store, insert, rows, stranger):
    """I5: and what the fence refuses is in neither."""
    store, worker = await open_store()
    free, locked, late = await claimed(store, worker, insert, 3)
    await store.record([Record(late, Release())])
    stranger.execute(LOCK, [[locked.task_id]])
    recorded = await store.record_free([Record(claim, Succeed(result="1")) for claim in (free, locked, late)])
    assert (recorded.written, recorded.locked) == ({free.task_id}, {locked.task_id})
    assert counts(rows) == {"READY": 1, "RUNNING": 1, "SUCCESSFUL": 1}
    assert await store.reconcile([worker], (), released) == Reconciled(ours={}, unheld=0, locked=1)


async def test_a_locked_row_that_is_overdue_holds_up_none_that_falls_due_later(open_store, insert, stranger):
    """I5: the claim says when the next one falls due that is not overdue already."""
    store, worker = await open_store()
    overdue = insert(due_at="2020-01-01T00:00:00Z")
    insert(due_at="2100-01-01T00:00:00Z")
    stranger.execute(LOCK, [[overdue]])
    await store.promote()
    batch = await store.claim(worker, 10)
    assert batch.claims == ()
    assert batch.next_due < 0 < batch.next_later
    stranger.rollback()
    await store.promote()
    batch = await store.claim(worker, 10)
    assert [claim.task_id for claim in batch.claims] == [overdue]
    assert batch.next_due == pytest.approx(batch.next_later)


async def test_it_is_said_that_what_is_due_is_locked(database, connect, rows, stranger, caplog):
    """I5: once, after a second; and it is claimed when it is free."""
    connect().execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
    stranger.execute("SELECT 1 FROM django_ray_execution FOR UPDATE")
    async with living(database, Instant()):
        await soon(lambda: "Executions that are due are locked by another transaction" in caplog.text)
        stranger.rollback()
        await soon(lambda: counts(rows) == {"SUCCESSFUL": 1})
    assert caplog.text.count("Executions that are due are locked") == 1
