"""The doorbell, stepped through every order of one enqueuer and one sleeper.

Whatever the order, the sleeper either is notified or sees the row in the claim that follows its wait for transactions
in flight. Each parameter of the protocol is shown to be needed: without it, an order is found that loses the row.
"""

import itertools
import threading

import psycopg
import pytest
from anyio import Event, fail_after, sleep
from django.db import connection

from tests.supervisors import Instant, database_url, living, notifications, until

BELL = "queue:default:default"
INSERT = "INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')"
IN_FLIGHT, ASLEEP = 1145721433, 1145721434

ENQUEUER = ("look at in-flight", "look who sleeps", "commit")
SLEEPER = ("announce", "await in flight", "claim")


def orders():
    steps = [("e", step) for step in ENQUEUER] + [("s", step) for step in SLEEPER]
    for places in itertools.combinations(range(len(steps)), len(ENQUEUER)):
        enqueuer, sleeper = iter(ENQUEUER), iter(SLEEPER)
        yield [("e", next(enqueuer)) if place in places else ("s", next(sleeper)) for place in range(len(steps))]


class Enqueuer:
    """django_ray_ring taken apart into its steps. The row is inserted first, with the triggers off."""

    def __init__(self, session):
        self.session = session
        self.got_in_flight = False
        session.execute("BEGIN")
        session.execute("SET LOCAL session_replication_role = replica")
        session.execute(INSERT)

    def step(self, name):
        key = "django_ray_key(%s)"
        if name == "look at in-flight":
            row = self.session.execute(f"SELECT pg_try_advisory_xact_lock_shared({IN_FLIGHT}, {key}) AS got", [BELL])
            self.got_in_flight = row.fetchone()["got"]
        elif name == "look who sleeps":
            row = self.session.execute(
                f"SELECT CASE WHEN pg_try_advisory_lock({ASLEEP}, {key}) THEN pg_advisory_unlock({ASLEEP}, {key}) "
                "ELSE false END AS nobody",
                [BELL, BELL],
            ).fetchone()
            if not (self.got_in_flight and row["nobody"]):
                self.session.execute("SELECT pg_notify(django_ray_channel(%s), '')", [BELL])
        else:
            self.session.execute("COMMIT")


class Sleeper:
    def __init__(self, session, waiter, monitor, leave_out):
        self.session, self.waiter, self.monitor, self.leave_out = session, waiter, monitor, leave_out
        channel = session.execute("SELECT django_ray_channel(%s) AS name", [BELL]).fetchone()["name"]
        session.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
        self.waiting = None
        self.saw = False

    def step(self, name):
        if name == self.leave_out:
            return
        if name == "announce":
            self.session.execute("SELECT django_ray_announce(%s)", [BELL])
        elif name == "await in flight":
            self.waiting = threading.Thread(
                target=self.waiter.execute, args=["SELECT django_ray_await_in_flight(%s)", [BELL]]
            )
            self.waiting.start()
            until(lambda: not self.waiting.is_alive() or self.is_blocked(), what="step 2 done or blocked")
        else:
            self.saw = bool(self.session.execute("SELECT 1 FROM django_ray_execution").fetchall())

    def is_blocked(self):
        pid = self.waiter.info.backend_pid
        return self.monitor.execute("SELECT pg_blocking_pids(%s) AS by", [pid]).fetchone()["by"] != []

    def was_notified(self):
        return bool(notifications(self.session, self.monitor))


def run(order, connect, isolation, leave_out=None):
    """Run the steps in this order; a claim waits until step 2 has returned. Tell whether the row was noticed."""
    with connect() as janitor:
        janitor.execute("TRUNCATE django_ray_execution")
    with connect() as asleep, connect() as waiter, connect() as monitor, connect(isolation=isolation) as enqueuing:
        sleeper = Sleeper(asleep, waiter, monitor, leave_out)
        enqueuer = Enqueuer(enqueuing)
        steps = list(order)
        while steps:
            who, name = steps.pop(0)
            if (who, name) == ("s", "claim") and sleeper.waiting is not None and sleeper.waiting.is_alive():
                if sleeper.is_blocked():
                    # Step 2 waits for the enqueuer: the claim comes after it.
                    steps.insert(next(i for i, (other, _) in enumerate(steps) if other == "e") + 1, (who, name))
                    continue
                sleeper.waiting.join()
            (enqueuer if who == "e" else sleeper).step(name)
            if (who, name) == ("e", "commit") and sleeper.waiting is not None:
                sleeper.waiting.join()
        return sleeper.saw or sleeper.was_notified()


@pytest.fixture
def sessions(transactional_db):
    def connect(isolation=None):
        session = psycopg.connect(database_url(connection), autocommit=True, row_factory=psycopg.rows.dict_row)
        if isolation:
            session.execute(f"SET default_transaction_isolation = '{isolation}'")
        return session

    return connect


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_no_order_of_steps_loses_a_row(sessions, isolation):
    """A3, B1, C6: 20 orders, at every isolation level of the enqueuer."""
    tried = list(orders())
    assert len(tried) == 20
    lost = [order for order in tried if not run(order, sessions, isolation)]
    assert lost == []


@pytest.mark.parametrize("step", ["announce", "await in flight"])
def test_without_one_of_its_steps_the_sleeper_would_lose_a_row(sessions, step):
    assert any(not run(order, sessions, "read committed", leave_out=step) for order in orders())


@pytest.fixture
def hears(connect):
    """A session that listens to a bell."""

    def _hears(bell):
        session, other = connect(), connect()
        channel = session.execute("SELECT django_ray_channel(%s) AS name", [bell]).fetchone()["name"]
        session.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
        return lambda: len(notifications(session, other))

    return _hears


def test_nobody_asleep_means_no_notify(connect, hears):
    heard = hears(BELL)
    connect().execute(INSERT)
    assert heard() == 0


def test_an_announced_sleeper_is_notified_once_per_commit_however_many_rows(connect, hears):
    """B3."""
    heard = hears(BELL)
    connect().execute("SELECT django_ray_announce(%s)", [BELL])
    connect().execute(f"{INSERT}, {', '.join(['(%s)'] * 999)}", ["tests.tasks.add"] * 999)
    assert heard() == 1


def test_a_sleeper_on_any_queue_hears_each(connect, hears):
    heard = hears("queues:default")
    connect().execute("SELECT django_ray_announce('queues:default')")
    connect().execute("INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('x.y', 'never heard of')")
    assert heard() == 1


def test_after_leave_nothing_is_sent(connect, hears):
    heard, session = hears(BELL), connect()
    session.execute("SELECT django_ray_announce(%s)", [BELL])
    assert session.execute("SELECT django_ray_leave(%s) AS was", [BELL]).fetchone()["was"]
    connect().execute(INSERT)
    assert heard() == 0


def test_rolled_back_work_is_not_announced(connect, hears):
    """B4: neither a transaction nor a savepoint that is rolled back wakes anybody."""
    heard, session = hears(BELL), connect()
    connect().execute("SELECT django_ray_announce(%s)", [BELL])
    with pytest.raises(RuntimeError), session.transaction():
        session.execute(INSERT)
        raise RuntimeError
    with session.transaction(), pytest.raises(RuntimeError), session.transaction():
        session.execute(INSERT)
        raise RuntimeError
    assert heard() == 0


def test_a_rolled_back_savepoint_does_not_hide_the_work_before_it(connect, hears):
    heard, session = hears(BELL), connect()
    connect().execute("SELECT django_ray_announce(%s)", [BELL])
    with session.transaction():
        session.execute(INSERT)
        with pytest.raises(RuntimeError), session.transaction():
            session.execute(INSERT)
            raise RuntimeError
    assert heard() == 1


def test_an_open_transaction_holds_up_only_the_wait_of_the_sleeper(connect):
    """Nobody ever blocks an enqueuer, and other enqueuers notify meanwhile."""
    slow, sleeper, waiter, monitor = connect(), connect(), connect(), connect()
    slow.execute("BEGIN")
    slow.execute(INSERT)
    sleeper.execute("SELECT django_ray_announce(%s)", [BELL])
    waiting = threading.Thread(target=waiter.execute, args=["SELECT django_ray_await_in_flight(%s)", [BELL]])
    waiting.start()
    pid = waiter.info.backend_pid
    until(lambda: monitor.execute("SELECT pg_blocking_pids(%s) AS by", [pid]).fetchone()["by"])
    with connect() as other:
        other.execute("SET lock_timeout = '1s'")
        other.execute(INSERT)  # does not wait
    slow.execute("COMMIT")
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    "update",
    [
        "state = 'READY', claimed_by_id = NULL",
        "state = 'READY', claimed_by_id = NULL, due_at = now() + interval '1 hour'",
    ],
)
def test_a_row_that_becomes_claimable_again_rings(connect, hears, update):
    session = connect()
    session.execute(INSERT)
    session.execute("UPDATE django_ray_execution SET state = 'RUNNING', claimed_by_id = 1")
    heard = hears(BELL)
    connect().execute("SELECT django_ray_announce(%s)", [BELL])
    session.execute(f"UPDATE django_ray_execution SET {update}")
    assert heard() == 1


def test_claims_and_finished_records_ring_nobody(connect, hears):
    session = connect()
    session.execute(INSERT)
    heard = hears(BELL)
    connect().execute("SELECT django_ray_announce(%s)", [BELL])
    session.execute("UPDATE django_ray_execution SET state = 'RUNNING', claimed_by_id = 1")
    session.execute("UPDATE django_ray_execution SET state = 'FAILED', claimed_by_id = NULL, finished_at = now()")
    assert heard() == 0


QUEUES = [
    "default",
    "UPPER",
    "two words",
    "it's",
    'say "x"',
    "ü" * 60,
    "🦀" * 200,
    "a" * 63,
    "a" * 64,
    "a" * 63 + "b",
    "*",
    "x:y",
]


def test_every_queue_name_has_a_channel_of_its_own_that_fits(connect):
    """B2: upper case, spaces, quotes, non-ASCII, 64 bytes and more, a common 63-byte prefix."""
    session = connect()
    channels = []
    for queue in QUEUES:
        row = session.execute("SELECT django_ray_channel(%s) AS name", [f"queue:default:{queue}"]).fetchone()
        assert len(row["name"].encode()) <= 63
        session.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(row["name"])))
        channels.append(row["name"])
    assert len(set(channels)) == len(QUEUES)
    heard = session.execute("SELECT pg_listening_channels() AS name").fetchall()
    assert {row["name"] for row in heard} == set(channels)


def test_a_cancelled_ring_leaves_no_lock_behind(connect):
    """Test and release of ASLEEP are one expression: cancels at random moments leave nothing."""
    import random

    session, monitor = connect(), connect()
    pid = session.info.backend_pid
    stop = threading.Event()
    dice = random.Random(1)

    def cancel():
        while not stop.wait(dice.random() / 300):
            monitor.execute("SELECT pg_cancel_backend(%s)", [pid])

    canceller = threading.Thread(target=cancel)
    canceller.start()
    cancelled = 0
    for _ in range(800):
        try:
            session.execute(INSERT)
        except psycopg.errors.QueryCanceled:
            cancelled += 1
    stop.set()
    canceller.join()
    until(lambda: session.info.transaction_status.name == "IDLE")
    left = (
        connect()
        .execute(
            "SELECT * FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [ASLEEP],
        )
        .fetchall()
    )
    assert cancelled
    assert left == []


async def test_who_falls_asleep_while_its_session_is_being_opened_falls_asleep_again_on_it(
    database, connect, sleepers, monkeypatch
):
    """B6: a claim that began on the session before ends while the new one looks around, and comes back short."""
    session, executor, is_claiming, may_end = connect(), Instant(), Event(), Event()

    async def soon(condition):
        with fail_after(60):
            while not condition():  # noqa: ASYNC110 - it is the server's, or another task's
                await sleep(0.005)

    async with living(database, executor, pulse=600) as life:
        await soon(lambda: sleepers(BELL) and not life._wakeup.is_hungry)
        claim = life._claimer._source.claim

        async def slow_claim(room):
            batch = await claim(room)
            is_claiming.set()
            await may_end.wait()
            return batch

        with monkeypatch.context() as slowed:
            slowed.setattr(life._claimer._source, "claim", slow_claim)
            session.execute(INSERT)
            with fail_after(60):
                await is_claiming.wait()
        session.execute("SELECT pg_terminate_backend(django_ray_session(%s))", [life._identity.worker])
        # The new session looks around: to reconcile, it waits for the claim.
        await soon(lambda: life.metrics.reconnects and life._reconciler.claiming.statistics().tasks_waiting)
        assert not life._session.is_open
        may_end.set()
        await soon(lambda: life._session.opened == 2)
        await soon(lambda: sleepers(BELL))
        session.execute(INSERT)
        await executor.has_run(2)
