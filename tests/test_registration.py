"""The row of a supervisor is taken from it while it lives, or its id given out again: it goes on under a new one."""

import asyncio

import pytest
from anyio import Event, fail_after, sleep
from django.core.management import CommandError, call_command
from django.db import connection

from django_ray_worker.core.stock import Stock
from tests.supervisors import Instant, living

pytestmark = pytest.mark.django_db(transaction=True)

INSERT = "INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('tests.tasks.add', %s)"


async def soon(condition):
    """until() for coroutines."""
    with fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is in another process or another task's hands
            await sleep(0.005)


class Gated(Instant):
    """A fake executor whose claims return when the gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = Event()
        self.stopped = []

    async def run(self, claims):
        answer = await super().run(claims)
        stopped = True
        try:
            await self.gate.wait()
            stopped = False
        finally:
            if stopped:
                self.stopped.extend(claim.task_id for claim in claims)
        return answer


@pytest.fixture
def lives(database):
    """Supervisors that share no connections, as in processes of their own."""
    return lambda *arguments, **changes: living(type(database)(connection), *arguments, **changes)


def executions(session):
    return [
        tuple(row.values())
        for row in session.execute(
            "SELECT state, attempt_number, losses, worker_ids FROM django_ray_execution ORDER BY task_id"
        ).fetchall()
    ]


def workers(session):
    """The ids of those that are there, as far as the table tells."""
    rows = session.execute("SELECT id FROM django_ray_worker WHERE stopped_at IS NULL AND lost_at IS NULL ORDER BY id")
    return [row["id"] for row in rows.fetchall()]


def is_asleep(life):
    return life._session.is_open and life._doorbell.is_announced and not life._wakeup.is_hungry


TRUNCATE = "TRUNCATE django_ray_worker RESTART IDENTITY"
TAKEN = [
    TRUNCATE,
    "DELETE FROM django_ray_worker",
    "UPDATE django_ray_worker SET stopped_at = now()",
    "UPDATE django_ray_worker SET hostname = 'of a fixture', pid = 1, backend = 'default'",
    "UPDATE django_ray_worker SET backend = 'any'",
]


@pytest.mark.parametrize("taken", TAKEN)
async def test_a_supervisor_whose_row_is_taken_registers_anew_and_what_runs_is_recorded(lives, connect, taken):
    """I8: without a lost connection; under the new id it claims, under the old one it records."""
    session, executor = connect(), Gated()
    session.execute(INSERT, ["default"])
    async with lives(executor, pulse=0.2) as life:
        await executor.has_run(1)
        former = life._identity.worker
        session.execute(taken)
        if taken == TRUNCATE:
            session.execute("SELECT setval(pg_get_serial_sequence('django_ray_worker', 'id'), 100)")
        await soon(lambda: life._identity.worker != former and not dead(session, life))
        assert life._identity.worker in workers(session)
        session.execute(INSERT, ["default"])
        await executor.has_run(2)
        executor.gate.set()
        await soon(lambda: [row[0] for row in executions(session)] == ["SUCCESSFUL"] * 2)
        assert [row[1:] for row in executions(session)] == [(1, 0, [str(former)]), (1, 0, [str(life._identity.worker)])]
        assert (life._session.opened, life.metrics.pulses_missed, life.metrics.refused) == (1, 0, 0)


def dead(session, life):
    """No session has the identity of that supervisor."""
    row = session.execute("SELECT django_ray_session(%s) AS pid", [life._identity.worker]).fetchone()
    return row["pid"] is None


async def test_a_newcomer_whose_id_a_living_supervisor_has_takes_another_one(lives, connect):
    """I8: TRUNCATE ... RESTART IDENTITY, and the next one gets number 1 again. The old ones need no pulse for that."""
    session = connect()
    session.execute(TRUNCATE)
    first, second, third = Instant(), Instant(), Instant()
    async with lives(first, queues=("default",)), lives(second, queues=("other",)) as other:
        await soon(lambda: is_asleep(other))
        session.execute(TRUNCATE)
        async with lives(third, queues=("third",)) as life:
            await soon(lambda: is_asleep(life))
            assert life._identity.worker > 2
            session.execute(INSERT, ["third"])
            await third.has_run(1)
            await soon(lambda: workers(session) == [life._identity.worker])  # those it has tried are ended
        session.execute(INSERT, ["other"])
        await second.has_run(1)


def flush():
    """As somebody would: again, if PostgreSQL has ended it for a ring of waiters. It locks all tables, one by one."""
    try:
        while True:
            try:
                call_command("flush", interactive=False, verbosity=0)
            except CommandError as error:
                if getattr(getattr(error.__cause__, "__cause__", None), "sqlstate", None) != "40P01":
                    raise
            else:
                return
    finally:
        connection.close()  # that of this thread


async def test_after_flush_everything_goes_on(lives, connect):
    """I8: what ran is gone, so it is stopped, and its outcome goes nowhere."""
    session, executor = connect(), Gated()
    session.execute(INSERT, ["default"])
    async with lives(executor, pulse=0.2) as life:
        await executor.has_run(1)
        former = life._identity
        ids = former.names
        await asyncio.to_thread(flush)
        await soon(lambda: life._identity.names != ids or life._identity.worker in workers(session))
        executor.gate.set()
        session.execute(INSERT, ["default"])
        await executor.has_run(2)
        await soon(lambda: [row[0] for row in executions(session)] == ["SUCCESSFUL"])


async def test_what_runs_under_a_former_id_is_nobodys_to_take_back(lives, connect, monkeypatch):
    """I8: also when the session is lost meanwhile, and a peer looks."""
    session, executor = connect(), Gated()
    session.execute(INSERT, ["default"])
    # Three of its periods are how long a busy machine may hold it up before the peer takes it for frozen.
    async with lives(executor, pulse=3) as life:
        await executor.has_run(1)
        former = life._identity.worker
        session.execute("DELETE FROM django_ray_worker WHERE id = %s", [former])
        await soon(lambda: life._identity.worker != former and not dead(session, life))
        session.execute("SELECT pg_terminate_backend(django_ray_session(%s))", [life._identity.worker])
        await soon(lambda: life._session.opened == 2)
        assert life._identity.names[1:] == (former,)
        async with lives(Instant(), queues=("other",), pulse=0.3) as peer:
            looks, look = [], peer._store.neighbour

            async def watched(names, besides):
                neighbour = await look(names, besides)
                looks.append(neighbour and neighbour.id)
                return neighbour

            monkeypatch.setattr(peer._store, "neighbour", watched)
            await soon(lambda: former in looks and len(looks) > 3)
            executor.gate.set()
            await soon(lambda: executions(session) == [("SUCCESSFUL", 1, 0, [str(former)])])


async def test_what_runs_under_a_former_id_can_be_cancelled(lives, connect):
    """I8: the trigger notifies the owner that stands in the row."""
    session, executor = connect(), Gated()
    session.execute(INSERT, ["default"])
    async with lives(executor, pulse=1) as life:
        await executor.has_run(1)
        former = life._identity.worker
        session.execute("DELETE FROM django_ray_worker")
        await soon(lambda: life._identity.worker != former and not dead(session, life))
        session.execute("UPDATE django_ray_execution SET cancel_requested_at = now()")
        await soon(lambda: executor.stopped)
        await soon(lambda: [row[0] for row in executions(session)] == ["CANCELLED"])


async def test_an_id_that_somebody_took_while_we_were_away_is_given_up(lives, connect):
    """I8: our row is gone, and a newcomer has our id, in the moment in which our session is lost."""
    session, stranger, executor = connect(), connect(), Instant()
    async with lives(executor) as life:
        await soon(lambda: is_asleep(life))
        former = life._identity.worker
        # Without the row, the session that follows goes by a new id from the start.
        session.execute("DELETE FROM django_ray_worker")
        session.execute("SELECT pg_terminate_backend(django_ray_session(%s), 20000)", [former])
        await soon(lambda: life._identity.worker != former and life._session.is_open)
        # With it, the stranger has the identity alone, and keeps it.
        former, opened = life._identity.worker, life._session.opened
        session.execute("SELECT pg_terminate_backend(django_ray_session(%s), 20000)", [former])
        while not stranger.execute("SELECT django_ray_identify(%s) AS got", [former]).fetchone()["got"]:
            session.execute("SELECT pg_terminate_backend(django_ray_session(%s), 20000)", [former])
        await soon(lambda: life._identity.worker != former and life._session.opened > opened)
        assert former not in life._identity.names
        session.execute(INSERT, ["default"])
        await executor.has_run(1)


async def test_an_id_that_somebody_has_restored_is_passed_over(open_store, connect):
    """I8: rows were loaded by hand, and the sequence does not know of them."""
    store, worker = await open_store()
    connect().execute(
        "INSERT INTO django_ray_worker (id, hostname, pid, backend, queues, concurrency, ray_address, version)"
        " SELECT %s + n, 'h', 1, 'default', '[]', 1, '', '' FROM generate_series(1, 3) AS n",
        [worker],
    )
    columns = {"hostname": "h", "pid": 1, "ray_address": "", "version": "", "pulse": 0}
    assert await store.register(Stock(slots=1), **columns) == worker + 4


@pytest.mark.parametrize("peers", [1, 2])
@pytest.mark.parametrize("owner", [-1, 1_000_000, 2**31 - 1])
async def test_a_row_of_an_owner_that_never_was_is_found_by_the_pulse(lives, connect, owner, peers):
    """I8: an UPDATE by hand, a row of another database."""
    session, executor = connect(), Instant()
    async with lives(executor, pulse=0.2) as life, lives(executor, pulse=0.2) as other:
        if peers == 1:
            other._stop.intake.cancel()
        await soon(lambda: is_asleep(life))
        session.execute(
            "INSERT INTO django_ray_execution (callable_path, state, claimed_by_id, attempt_number)"
            " VALUES ('tests.tasks.add', 'RUNNING', %s, 1)",
            [owner],
        )
        await executor.has_run(1)
        await soon(lambda: [row[:3] for row in executions(session)] == [("SUCCESSFUL", 2, 1)])
