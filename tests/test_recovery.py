"""What is lost comes back: locked rows, dead and frozen peers, a session that was swallowed, a Ray that is gone."""

import asyncio
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
from anyio import Event, fail_after, sleep, sleep_forever
from django.db import connection

from django_ray.models import RayTaskExecution
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.database import store
from django_ray_worker.waking import liveness
from tests import tasks
from tests.supervisors import IDENTITY, Instant, living, until

pytestmark = pytest.mark.django_db(transaction=True)

INSERT = "INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')"
INSERT_OTHER = "INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('tests.tasks.add', 'other')"


class Endless(Instant):
    """A fake executor whose claims run until they are cancelled."""

    def __init__(self):
        super().__init__()
        self.stopped = []

    async def run(self, claims):
        await super().run(claims)
        try:
            await sleep_forever()
        finally:
            self.stopped.extend(claim.task_id for claim in claims)


async def soon(condition):
    """until() for coroutines."""
    with fail_after(20):
        while not condition():  # noqa: ASYNC110 - it is in another process or another task's hands
            await sleep(0.005)


def is_open(life):
    """It has a session: it hears, and the others see it alive."""
    return life._session.is_open


def end_session(session, worker):
    """End the listening session of a supervisor: the one that holds its identity."""
    ended = session.execute("SELECT pg_terminate_backend(django_ray_session(%s)) AS is_ended", [worker]).fetchone()
    assert ended["is_ended"]


def cancel_unheard(session):
    """Ask for a cancel in the way of a message that is lost: the row alone tells."""
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER django_ray_on_cancel")
    session.execute("UPDATE django_ray_execution SET cancel_requested_at = now()")
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER django_ray_on_cancel")


async def test_a_request_whose_message_was_lost_is_found_by_the_next_session(database, connect):
    """A3, C4: on every connect, what runs in our name is compared with what we hold."""
    session, executor = connect(), Endless()
    session.execute(INSERT)
    async with living(database, executor, grace=0.1) as life:
        await executor.has_run(1)
        cancel_unheard(session)
        end_session(session, life._identity.worker)
        await soon(lambda: executor.stopped)
        await soon(lambda: session.execute("SELECT state FROM django_ray_execution").fetchone()["state"] == "CANCELLED")


@pytest.mark.parametrize("what", ["work", "cancel"])
async def test_what_is_committed_between_connect_and_listen_is_looked_for(database, connect, monkeypatch, what):
    """A3: LISTEN comes first, then the look; so nobody need ring for what was committed before it."""
    session, executor = connect(), Endless()
    session.execute(INSERT)
    listen, reconnected = store.listen, False

    async def commit_first(*arguments):
        nonlocal reconnected
        if life._session.opened:
            reconnected = True
            session.execute("SET session_replication_role = replica")  # nobody announced, so nobody would be rung for
            session.execute(INSERT if what == "work" else "UPDATE django_ray_execution SET cancel_requested_at = now()")
            session.execute("SET session_replication_role = origin")
        return await listen(*arguments)

    monkeypatch.setattr(store, "listen", commit_first)
    async with living(database, executor, grace=0.1) as life:
        await executor.has_run(1)
        end_session(connect(), life._identity.worker)
        if what == "work":
            await executor.has_run(2)
        else:
            await soon(lambda: executor.stopped)
    assert reconnected


@pytest.fixture
def looks(monkeypatch):
    """Watch the looks after a peer: an event that is set when the next one is over."""

    def _looks(life):
        rescue, over = life._store.rescue, Event()

        async def watched(*arguments, **only):
            rescued = await rescue(*arguments, **only)
            if only:
                over.set()
            return rescued

        monkeypatch.setattr(life._store, "rescue", watched)
        return over

    return _looks


async def test_a_peer_that_only_lost_its_session_keeps_its_work(database, connect, looks, monkeypatch):
    """C1: its neighbour waits for a moment, in which a live one is back."""
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 4.0)  # long enough to be back meanwhile, on a busy machine too
    session, executor = connect(), Endless()
    async with (
        living(database, executor, queues=("other",), grace=0.1) as life,
        living(database, Instant(), queues=("default",)) as neighbour,
    ):
        session.execute(
            "INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('tests.tasks.add', 'other')"
        )
        await executor.has_run(1)
        await soon(lambda: is_open(neighbour))
        over = looks(neighbour)
        await soon(lambda: is_watched(session, life._identity.worker))
        end_session(session, life._identity.worker)
        with fail_after(20):
            await over.wait()
        row = session.execute("SELECT state, attempt_number, losses FROM django_ray_execution").fetchone()
        assert (row["state"], row["attempt_number"], row["losses"]) == ("RUNNING", 1, 0)
        assert session.execute("SELECT 1 FROM django_ray_worker WHERE lost_at IS NOT NULL").fetchall() == []


@pytest.fixture
def outage(database, connect, looks, monkeypatch):
    """End every session, in one order or the other; the peer comes back last. Returns what became of its work."""
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 4.0)  # long enough to be back meanwhile, on a busy machine too

    async def _outage(first):
        session, executor, gate, identify = connect(), Endless(), Event(), store.identify
        gate.set()

        async def late(connection, worker):
            if worker == peer._identity.worker:
                await gate.wait()
            return await identify(connection, worker)

        monkeypatch.setattr(store, "identify", late)
        own = type(database)(connection)
        async with (
            living(database, executor, queues=("other",), grace=0.1) as peer,
            living(own, Instant(), queues=("default",)) as neighbour,
        ):
            session.execute(INSERT_OTHER)
            await executor.has_run(1)
            await soon(lambda: is_open(neighbour))
            looked, seen, watch = looks(neighbour), Event(), neighbour._store.watch

            async def watched(*arguments):
                is_gone = await watch(*arguments)
                if is_gone:
                    seen.set()
                return is_gone

            monkeypatch.setattr(neighbour._store, "watch", watched)
            neighbour._liveness.members_changed()  # so that it begins to watch once more
            await soon(lambda: is_watched(session, peer._identity.worker))
            gate = Event()
            if first == "peer":
                end_session(session, peer._identity.worker)
                with fail_after(20):
                    await seen.wait()
            for each in own._opened:
                session.execute("SELECT pg_terminate_backend(%s, 20000)", [each.info.backend_pid])
            if first == "neighbour":
                end_session(session, peer._identity.worker)
            await soon(lambda: neighbour._session.opened == 2)
            # As long as a peer may take that is refused at first: longer than the grace of one that lost alone.
            await sleep(liveness.GRACE_SECONDS + 0.2)
            gate.set()
            await soon(lambda: peer._session.opened == 2)
            row = session.execute("SELECT state, attempt_number, losses FROM django_ray_execution").fetchone()
            return (*row.values(), looked.is_set())

    return _outage


async def test_after_an_outage_of_all_the_first_one_back_waits_for_its_peer(outage):
    """A2, C1: everybody's session ends, and the one that is back first must not rescue the other."""
    assert await outage(first="neighbour") == ("RUNNING", 1, 0, False)


async def test_who_sees_a_peers_end_and_then_loses_its_own_session_waits_too(outage):
    """A2, C1: a server that is restarted need not end the session that watches first."""
    assert await outage(first="peer") == ("RUNNING", 1, 0, False)


async def test_a_peer_whose_first_session_takes_its_time_is_watched_all_the_same(database, connect, looks, monkeypatch):
    """C1: between its registration and its first session, a new supervisor looks like a dead one."""
    session, identify, gate = connect(), store.identify, Event()

    async def late(connection, worker):
        if worker != neighbour._identity.worker:
            await gate.wait()
        return await identify(connection, worker)

    monkeypatch.setattr(store, "identify", late)
    async with living(database, Instant(), queues=("other",)) as neighbour:
        await soon(lambda: is_open(neighbour))
        over = looks(neighbour)
        async with living(database, Endless(), queues=("default",), grace=0.1) as life:
            with fail_after(20):
                await over.wait()  # the neighbour has found it dead
            gate.set()
            await soon(lambda: life._session.opened)
            await soon(lambda: is_watched(session, life._identity.worker))


def is_watched(session, worker):
    """Somebody waits for the end of that supervisor's session."""
    return session.execute(
        f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {IDENTITY} AND objid = %s::int::oid"
        " AND NOT granted",
        [worker],
    ).fetchone()


async def test_a_row_that_was_locked_and_left_as_it_is_runs(database, connect):
    """Its transaction is rolled back, so nobody rings: the claim that skipped it looks again."""
    locker, executor = connect(autocommit=False), Instant()
    connect().execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
    locker.execute("SELECT 1 FROM django_ray_execution FOR UPDATE")
    async with living(database, executor):
        await asyncio.sleep(0.3)  # it has looked, and skipped it
        assert executor.ran == []
        locker.rollback()
        await executor.has_run(1)


async def test_a_clock_that_is_an_hour_off_changes_nothing(database, connect, monkeypatch):
    """F1: due times, pulses and the age of a peer's pulse are the database's."""
    real, executor = time.time, Instant()
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    session = connect()
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, run_after, due_at)"
        " VALUES ('tests.tasks.add', now() + interval '0.5 s', now() + interval '0.5 s')"
    )
    pulses = "SELECT 1 FROM django_ray_worker WHERE pulse_at > started_at + interval '2 s'"
    async with living(database, executor, pulse=2), living(database, Instant(), pulse=2, queues=("other",)):
        await executor.has_run(1)
        while len(session.execute(pulses).fetchall()) < 2:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.05)
    (row,) = session.execute("SELECT started_at - run_after AS late FROM django_ray_execution").fetchall()
    assert 0 <= row["late"].total_seconds() < 60
    assert session.execute("SELECT 1 FROM django_ray_worker WHERE lost_at IS NOT NULL").fetchall() == []


@pytest.mark.slow
def test_a_dead_peers_work_runs_again_within_two_seconds(listen, tmp_path):
    """C1: at once five times of five."""
    survivor = listen("--sync")
    survivor.wait_for("is ready")
    took = []
    for turn in range(5):
        victim = listen("--sync", "--queue", "other")
        victim.wait_for("is ready")
        path = tmp_path / f"started-{turn}"
        result = tasks.touch_and_sleep.using(queue_name="other").enqueue(str(path), 600)
        # Only the survivor serves the default queue; either may have taken this one.
        until(path.exists)
        row = RayTaskExecution.objects.get(task_id=result.id)
        if row.claimed_by.pid != victim.process.pid:
            survivor, victim = victim, survivor
        path.unlink()
        died = time.monotonic()
        victim.process.kill()
        until(path.exists, 30, "the second start")  # by a pulse it would take three minutes
        took.append(time.monotonic() - died)
        row.refresh_from_db()
        assert (row.losses, row.failures, row.attempt_number) == (1, 0, 2)
        assert row.exception_type == "django_ray.exceptions.TaskLost"
        survivor.process.kill()
        survivor.wait()
        RayTaskExecution.objects.all().delete()
        survivor = listen("--sync")
        survivor.wait_for("is ready")
    print("started again after", ", ".join(f"{seconds:.2f} s" for seconds in sorted(took)))
    assert sorted(took)[2] < 2  # the median, because a busy machine may hold up one


def ray_process(supervisor, name):
    """The process of that name among the supervisor's."""
    children = psutil.Process(supervisor.process.pid).children(recursive=True)
    return next(child for child in children if name in " ".join(child.cmdline()[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_ray_that_is_gone_is_started_again_and_costs_no_attempt(listen, tmp_path, finished, victim):
    """G2: with a task running and another waiting, and once more while idle."""
    supervisor = listen("--local", "--concurrency", "1")
    supervisor.wait_for("is ready")
    running = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 1)
    until((tmp_path / "started").exists)
    (tmp_path / "started").unlink()
    waiting = tasks.add.enqueue(1, 2)
    ray_process(supervisor, victim).kill()
    supervisor.wait_for("Ray is back")
    assert finished(running).return_value == "slept"
    assert finished(waiting).return_value == 3
    row = RayTaskExecution.objects.get(task_id=running.id)
    assert (row.attempt_number, row.failures, row.losses, row.errors) == (2, 0, 0, [])
    ray_process(supervisor, victim).kill()
    supervisor.wait_for("Ray is back")
    assert finished(tasks.add.enqueue(1, 3)).return_value == 4
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


async def test_a_pulse_that_went_to_a_session_that_has_ended_drops_nothing_of_the_one_after_it():
    """Else the new session would be hung up for what the former one has not heard."""
    dropped, echoes = asyncio.Event(), []

    class Reopened:
        opened, is_open = 1, True

        async def echo(self, send):
            echoes.append(self.opened)
            if len(echoes) < 3:
                self.opened += 1
            raise TimeoutError

        def drop(self):
            dropped.set()

    registration, metrics = SimpleNamespace(identity=None, pulse=None), Metrics()
    life = liveness.Liveness(
        None, Reopened(), metrics, registration=registration, period=0.001, heed=None, reconcile=None
    )  # fmt: skip
    pulse = asyncio.create_task(life.pulse())
    async with asyncio.timeout(20):
        await dropped.wait()
    pulse.cancel()
    assert (echoes, metrics.pulses_missed) == ([1, 2, 3], 1)
