"""Pausing and resuming queues, and what supervisors count of them."""

from anyio import Event, fail_after, get_cancelled_exc_class, sleep, sleep_forever

from django_ray_worker.core.outcome import Returned, Unstarted
from django_ray_worker.running.answer import Answer, NoAnswer
from tests.supervisors import Instant, hear, living

INSERT = (
    "INSERT INTO django_ray_execution (callable_path, queue_name)"
    " SELECT 'tests.tasks.add', %s FROM generate_series(1, %s)"
)
PAUSE = "INSERT INTO django_ray_queue (backend, name, paused_at) VALUES ('default', %s, now())"
RESUME = "UPDATE django_ray_queue SET paused_at = NULL WHERE name = %s"


async def until(condition):
    """Return when it holds: it is the server's, or another task's."""
    with fail_after(20):
        while not condition():  # noqa: ASYNC110
            await sleep(0.005)


async def test_what_is_paused_is_not_claimed_and_what_is_resumed_is(open_store, insert, connect):
    store, worker = await open_store()
    session = connect()
    insert(queue_name="other"), insert()
    session.execute(PAUSE, ["other"])
    batch = await store.claim(worker, 10)
    assert [claim.queue_name for claim in batch.claims] == ["default"]
    assert not batch.has_skipped
    session.execute(RESUME, ["other"])
    assert [claim.queue_name for claim in (await store.claim(worker, 10)).claims] == ["other"]


async def test_a_paused_queue_of_another_backend_is_another_queue(open_store, insert, connect):
    store, worker = await open_store()
    insert()
    connect().execute(PAUSE.replace("'default'", "'elsewhere'"), ["default"])
    assert len((await store.claim(worker, 10)).claims) == 1


async def test_resuming_wakes_a_supervisor_that_sleeps(database, connect, sleepers):
    """Also one of any queue, which has no list of names."""
    session = connect()
    for queues, bell in ((("default", "other"), "queue:default:default"), (None, "queues:default")):
        executor = Instant()
        session.execute("TRUNCATE django_ray_execution, django_ray_queue")
        session.execute(PAUSE, ["default"])
        async with living(database, executor, queues=queues) as life:
            await until(lambda life=life, bell=bell: sleepers(bell) and not life._wakeup.is_hungry)
            session.execute(INSERT, ["default", 3])
            session.execute(INSERT, ["other", 1])  # claimed after the three, if they could be
            await executor.has_run(1)
            await until(lambda life=life, bell=bell: sleepers(bell) and not life._wakeup.is_hungry)
            assert len(executor.ran) == 1
            session.execute(RESUME, ["default"])
            await executor.has_run(4)


async def test_a_queue_row_that_is_deleted_resumes_the_queue(database, connect, sleepers):
    session, executor = connect(), Instant()
    session.execute(PAUSE, ["default"])
    async with living(database, executor) as life:
        session.execute(INSERT, ["default", 1])
        await until(lambda: sleepers() and not life._wakeup.is_hungry)
        session.execute("DELETE FROM django_ray_queue")
        await executor.has_run(1)


class Busy(Instant):
    """Runs until it is let go."""

    most_per_call = 250
    cpus = 1

    def __init__(self) -> None:
        super().__init__()
        self.go = Event()
        self.claims = []

    async def run(self, claims):
        if self.claims:
            return await self.wait_behind()
        self.claims = list(claims)
        await self.go.wait()
        return Answer(
            outcomes=[Returned("1") for _ in claims], seconds=[0.001] * len(claims), outputs=[""] * len(claims)
        )

    async def wait_behind(self):
        """As Ray does, which says of what it cancels whether it had begun."""
        try:
            await sleep_forever()
        except get_cancelled_exc_class():
            return NoAnswer(Unstarted())


async def test_pausing_gives_back_what_waits_in_a_supervisor_and_lets_finish_what_runs(database, connect, monkeypatch):
    monkeypatch.setattr("django_ray_worker.claiming.backlog.PATIENCE_SECONDS", 60)  # or it would be given back for that
    session, executor = connect(), Busy()
    async with living(database, executor) as life:
        session.execute(INSERT, ["default", 1])
        await until(lambda: executor.claims)
        # Claimed ahead for a slot that is believed to be free soon; one of them waits behind what runs.
        (running,) = executor.claims
        life._dispatcher._slots.soon = 1
        session.execute(INSERT, ["default", 3])
        life._wakeup.look()
        await until(lambda: len(life._dispatcher.held) > 1 and life._dispatcher._slots.ahead)
        session.execute(PAUSE, ["default"])
        await until(lambda: life._dispatcher.held == {running.task_id} and not life._recorder.pending)
        rows = session.execute("SELECT state, worker_ids FROM django_ray_execution ORDER BY task_id").fetchall()
        assert [row["state"] for row in rows] == ["RUNNING", "READY", "READY", "READY"]
        assert [row["worker_ids"] for row in rows[1:]] == [[], [], []]
        executor.go.set()
        await until(lambda: not life._dispatcher.held and not life._recorder.pending)
        states = [row["state"] for row in session.execute("SELECT state FROM django_ray_execution ORDER BY task_id")]
        assert states == ["SUCCESSFUL", "READY", "READY", "READY"]


async def test_what_ended_is_counted_for_its_queue_and_whoever_shows_it_is_told(database, connect):
    session, viewer, executor = connect(), connect(), Instant()
    channel = hear(viewer, "activity:default")
    async with living(database, executor):
        session.execute(INSERT, ["default", 5])
        session.execute(INSERT, ["other", 2])
        await executor.has_run(7)

        def counted():
            rows = session.execute(
                "SELECT queue_name, sum(succeeded) AS n FROM django_ray_minute GROUP BY 1"
            ).fetchall()
            return {row["queue_name"]: row["n"] for row in rows} == {"default": 5, "other": 2}

        await until(counted)
    row = session.execute(
        "SELECT sum(waited) AS waited, max(longest_wait) AS longest FROM django_ray_minute"
    ).fetchone()
    assert 0 < row["longest"] <= row["waited"] < 7 * 20
    assert next(viewer.notifies(timeout=20)).channel == channel


async def test_counts_survive_an_outage_and_old_ones_go(open_store, connect):
    store, worker = await open_store()
    session = connect()
    session.execute(
        "INSERT INTO django_ray_minute (minute, backend, queue_name, worker_id, succeeded, failed, retried, cancelled,"
        " waited, longest_wait) VALUES (now() - interval '170 hours', 'default', 'default', 1, 1, 0, 0, 0, 0, 0)"
    )
    counts = {
        "queue_name": "a",
        "succeeded": 1,
        "failed": 2,
        "retried": 3,
        "cancelled": 4,
        "postponed": 5,
        "waited": 1.5,
        "longest_wait": 1,
    }
    await store.count(worker, [counts])
    await store.count(worker, [counts | {"longest_wait": 0.5}])
    rows = session.execute("SELECT * FROM django_ray_minute").fetchall()
    # The minute may have ended between the two.
    total = {name: sum(row[name] for row in rows) for name in counts.keys() - {"queue_name", "longest_wait"}}
    assert total == {"succeeded": 2, "failed": 4, "retried": 6, "cancelled": 8, "postponed": 10, "waited": 3.0}
    assert max(row["longest_wait"] for row in rows) == 1


async def test_counts_that_cannot_be_written_stop_nothing(database, connect):
    session, executor = connect(), Instant()
    session.execute("ALTER TABLE django_ray_minute RENAME TO away")
    try:
        async with living(database, executor) as life:
            session.execute(INSERT, ["default", 1])
            await executor.has_run(1)
            await life._tally.write(life._identity.worker)
            session.execute(INSERT, ["default", 1])
            life._wakeup.look()
            await executor.has_run(2)
        row = session.execute("SELECT stopped_at FROM django_ray_worker").fetchone()
        assert row["stopped_at"] is not None
    finally:
        session.execute("ALTER TABLE away RENAME TO django_ray_minute")
