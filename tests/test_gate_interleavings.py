"""Gates, stepped through every order of an enqueue, the end of what runs there, and a supervisor that goes to sleep.

Whatever the order, the supervisor either is notified or admits the execution in the claim that follows its wait for
transactions in flight. And of two that admit at the same time, both together admit no more than may run.
"""

import itertools
import threading

import psycopg
import pytest
from django.db import connection

from django_ray_worker.database.statements import SQL, claim_parameters
from tests.supervisors import database_url, notifications, until

BELLS = ["queue:default:default", "gates:default"]
INSERT = (
    "INSERT INTO django_ray_execution (callable_path, gate, gate_rule)"
    """ VALUES ('tests.tasks.add', 'g', '{"limit": 1}') RETURNING task_id"""
)
STEPS = {"enqueuer": ("insert", "commit"), "runner": ("end", "commit"), "sleeper": ("announce", "await", "claim")}


def orders():
    """Every order of the steps of all three, each in its own order."""
    actors = [actor for actor, steps in STEPS.items() for _ in steps]
    for order in sorted(set(itertools.permutations(actors))):
        own = {actor: iter(steps) for actor, steps in STEPS.items()}
        yield [(actor, next(own[actor])) for actor in order]


def claim(session, limit=1):
    rows = session.execute(
        SQL["claim"], {"backend": "default", "queues": ["default"], **claim_parameters(1, limit)}
    ).fetchall()
    return [row["task_id"] for row in rows if row["task_id"] is not None]


@pytest.fixture
def sessions(transactional_db):
    opened = []

    def connect(isolation="read committed"):
        session = psycopg.connect(database_url(connection), autocommit=True, row_factory=psycopg.rows.dict_row)
        session.execute(f"SET default_transaction_isolation = '{isolation}'")
        opened.append(session)
        return session

    yield connect
    for session in opened:
        session.close()


class Scene:
    """One execution runs behind a gate of one; another is enqueued; a supervisor has seen nothing to do."""

    def __init__(self, connect, isolation, leave_out):
        self.leave_out = leave_out
        self.asleep, self.claiming, self.waiter, self.monitor = (connect() for _ in range(4))
        self.enqueuer, self.runner = connect(isolation), connect(isolation)
        for bell in BELLS:
            channel = self.asleep.execute("SELECT django_ray_channel(%s) AS name", [bell]).fetchone()["name"]
            self.asleep.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
        self.wait = None
        self.admitted = []

    def begin(self):
        for session in (self.enqueuer, self.runner):
            if session.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                session.rollback()
        self.asleep.execute("SELECT pg_advisory_unlock_all()")
        self.monitor.execute("TRUNCATE django_ray_execution")
        self.running = self.monitor.execute(INSERT).fetchone()["task_id"]
        assert claim(self.claiming) == [self.running]
        for session in (self.enqueuer, self.runner):
            session.execute("BEGIN")
            session.execute("SELECT 1 FROM django_ray_execution")  # its snapshot, where it has one alone
        notifications(self.asleep, self.monitor)
        self.admitted, self.wait = [], None

    def run(self, order):
        self.begin()
        steps = list(order)
        while steps:
            actor, step = steps.pop(0)
            if (actor, step) == ("sleeper", "claim") and self.is_waiting():
                # It waits for a transaction in flight: the claim comes after it.
                steps.insert(next(i for i, (_, other) in enumerate(steps) if other == "commit") + 1, (actor, step))
                continue
            getattr(self, f"{actor}_{step}")()
        assert self.wait is None or not self.is_waiting()
        return bool(self.admitted) or bool(notifications(self.asleep, self.monitor))

    def is_waiting(self):
        if self.wait is None or not self.wait.is_alive():
            return False
        until(lambda: not self.wait.is_alive() or self.is_blocked(), what="the wait done or blocked")
        return self.wait.is_alive()

    def is_blocked(self):
        pid = self.waiter.info.backend_pid
        return self.monitor.execute("SELECT pg_blocking_pids(%s) AS by", [pid]).fetchone()["by"] != []

    def enqueuer_insert(self):
        self.enqueuer.execute(INSERT)

    def enqueuer_commit(self):
        self._commit(self.enqueuer)

    def runner_end(self):
        self.runner.execute(
            "UPDATE django_ray_execution SET state = 'SUCCESSFUL', claimed_by_id = NULL, finished_at = now()"
            " WHERE task_id = %s",
            [self.running],
        )

    def runner_commit(self):
        self._commit(self.runner)

    def _commit(self, session):
        session.execute("COMMIT")
        if self.wait is not None:
            until(lambda: not self.wait.is_alive() or self.is_blocked(), what="the wait done or blocked")

    def sleeper_announce(self):
        if self.leave_out != "announce":
            for bell in BELLS:
                self.asleep.execute("SELECT django_ray_announce(%s)", [bell])

    def sleeper_await(self):
        if self.leave_out != "await":
            self.wait = threading.Thread(target=self._await)
            self.wait.start()
            until(lambda: not self.wait.is_alive() or self.is_blocked(), what="the wait done or blocked")

    def _await(self):
        for bell in BELLS:
            self.waiter.execute("SELECT django_ray_await_in_flight(%s)", [bell])

    def sleeper_claim(self):
        self.admitted = claim(self.claiming)


@pytest.mark.parametrize("isolation", ["read committed", pytest.param("repeatable read", marks=pytest.mark.slow)])
def test_no_order_of_steps_loses_what_may_run(sessions, isolation):
    tried = list(orders())
    assert len(tried) == 210
    scene = Scene(sessions, isolation, leave_out=None)
    assert [order for order in tried if not scene.run(order)] == []


@pytest.mark.parametrize("step", ["announce", "await"])
def test_without_one_of_its_steps_the_sleeper_would_lose_it(sessions, step):
    scene = Scene(sessions, "read committed", leave_out=step)
    assert any(not scene.run(order) for order in orders())


@pytest.mark.parametrize("limit", [1, 2])
def test_two_that_admit_at_a_time_admit_no_more_than_may_run(sessions, limit):
    first, second, monitor = sessions(), sessions(), sessions()
    for _ in range(5):
        monitor.execute(INSERT.replace('"limit": 1', f'"limit": {limit}'))
    for session in (first, second):
        session.execute("BEGIN")
    admitted = claim(first, 10)
    assert len(admitted) == limit
    assert claim(second, 10) == []  # not seen by a snapshot: the lock of the gate keeps it out
    first.execute("COMMIT")
    assert claim(second, 10) == []  # and now it counts
    second.execute("COMMIT")
    monitor.execute("DELETE FROM django_ray_execution WHERE task_id = %s", [admitted[0]])
    assert len(claim(second, 10)) == 1
