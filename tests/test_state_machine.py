"""Two supervisors over the real SQL, in every order that hypothesis thinks of, against a model in a dictionary.

Claims are kept after they were taken away, so that late records happen all the time. With the fence removed from
record.sql (attempt_number and claimed_by_id), a falsifying run is found within a few examples:

    state.enqueue()
    state.claim(limit=1, who=0)
    state.rescue(who=1)
    state.record(verdict=Succeed(result='1'), which=0)    # too late: the row is READY again
    AssertionError: the database let a late record pass

`test_a_removed_fence_is_found` does exactly that, each time the tests run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from django_ray.options import Options
from django_ray.retry import FREE_RELEASES
from django_ray_worker.core.claim import Reconciled, Rescued
from django_ray_worker.core.judge import abandoned, released
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Cancel, Fail, Release, Retry, Succeed
from django_ray_worker.core.stock import Stock
from django_ray_worker.database import statements
from django_ray_worker.database.statements import Record
from django_ray_worker.database.store import Store

ERROR = Error(exception_class_path="builtins.ValueError", message="m", traceback="t")
MAX_LOSSES = Options().defaults.retry.max_losses
verdicts = st.sampled_from(
    [
        Succeed(result="1"),
        Fail(error=ERROR, failures=1),
        Retry(error=ERROR, after=0, released=2),
        Retry(error=ERROR, after=3600, failures=1),
        Cancel(error=ERROR),
        Release(released=9),
        Release(has_begun=False),
    ]
)


@dataclass
class Model:
    """What one row must look like."""

    state: str = "READY"
    is_due: bool = True
    attempt: int = 0
    begun: int = 0  # Attempts that may have begun, to who looks.
    owner: int | None = None
    errors: int = 0
    losses: int = 0
    released: int = 0  # Times that it came back without having ended or been charged.


class Arena:
    """Two stores of one queue, on an event loop of their own, and a plain session to look with."""

    def __init__(self, database, session) -> None:
        self.runner = asyncio.Runner()
        self.session = session
        self.pools = [database.pool(), database.pool()]
        self.stores = [
            Store(self.run(pool.__aenter__()), backend="default", queues=("default",), options=Options())
            for pool in self.pools
        ]
        self.workers = [
            self.run(store.register(Stock(slots=1), hostname="h", pid=1, ray_address="x", version="0", pulse=0))
            for store in self.stores
        ]

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def close(self) -> None:
        for pool in self.pools:
            self.run(pool.__aexit__(None, None, None))
        self.runner.close()


class TwoSupervisors(RuleBasedStateMachine):
    arena: Arena

    def __init__(self) -> None:
        super().__init__()
        self.arena.session.execute("TRUNCATE django_ray_execution")
        self.rows: dict = {}
        self.claims: list = []  # Every claim ever made, held or not.

    @rule()
    def enqueue(self):
        row = self.arena.session.execute(
            "INSERT INTO django_ray_execution (callable_path) VALUES ('x.y') RETURNING task_id"
        ).fetchone()
        self.rows[row["task_id"]] = Model()

    @rule(who=st.integers(0, 1), limit=st.integers(1, 3))
    def claim(self, who, limit):
        batch = self.arena.run(self.arena.stores[who].claim(self.arena.workers[who], limit))
        claimable = sorted(key for key, model in self.rows.items() if model.state == "READY" and model.is_due)
        assert [claim.task_id for claim in batch.claims] == claimable[:limit]
        for claim in batch.claims:
            model = self.rows[claim.task_id]
            model.state, model.owner = "RUNNING", self.arena.workers[who]
            model.attempt += 1
            model.begun += 1
            assert (claim.attempt, claim.released) == (model.attempt, model.released)
        self.claims.extend(batch.claims)

    @rule(which=st.integers(0, 30), verdict=verdicts)
    def record(self, which, verdict):
        if not self.claims:
            return
        claim = self.claims[which % len(self.claims)]
        model = self.rows[claim.task_id]
        is_current = (model.state, model.attempt, model.owner) == ("RUNNING", claim.attempt, claim.worker)
        who = self.arena.workers.index(claim.worker)
        written = self.arena.run(self.arena.stores[who].record([Record(claim, verdict)]))
        assert bool(written) <= is_current, "the database let a late record pass"
        assert written == ({claim.task_id} if is_current else set())
        if is_current:
            model.owner = None
            model.state = {Succeed: "SUCCESSFUL", Fail: "FAILED", Cancel: "CANCELLED"}.get(type(verdict), "READY")
            model.is_due = not (isinstance(verdict, Retry) and verdict.after)
            model.errors += isinstance(verdict, Retry | Fail | Cancel)
            model.begun -= verdict == Release(has_begun=False)
            model.released = getattr(verdict, "released", 0)

    @rule(who=st.integers(0, 1))
    def rescue(self, who):
        """The other one is taken for dead, rightly or not: it goes on to record late."""
        dead = self.arena.workers[1 - who]
        rescued = self.arena.run(self.arena.stores[who].rescue(self.arena.workers[who], abandoned, only=dead))
        self.arena.run(self.arena.stores[who].revive(dead))
        running = [model for model in self.rows.values() if model.owner == dead]
        assert rescued == {dead: Rescued(rows=len(running), locked=0, is_marked=True)}
        for model in running:
            model.owner = None
            model.losses += 1
            model.errors += 1
            model.state = "READY" if model.losses <= MAX_LOSSES else "FAILED"
            model.is_due = model.losses == 1  # later ones wait a while
            if model.state == "FAILED":
                model.released = 0

    @rule(who=st.integers(0, 1))
    def reconnect_having_lost_every_reply(self, who):
        """C4: everything that runs in our name is unheld."""
        worker = self.arena.workers[who]
        found = self.arena.run(self.arena.stores[who].reconcile([worker], (), released))
        mine = {key for key, model in self.rows.items() if model.owner == worker}
        assert found == Reconciled(ours={}, unheld=len(mine), locked=0)
        for key in mine:
            model = self.rows[key]
            model.released += 1
            model.owner, model.state, model.is_due = None, "READY", model.released <= FREE_RELEASES
            model.begun -= 1

    @invariant()
    def the_rows_are_as_the_model_says(self):
        found = self.arena.session.execute(
            "SELECT task_id, state, due_at IS NULL AS is_due, attempt_number, claimed_by_id, losses, released,"
            " jsonb_array_length(errors) AS errors, jsonb_array_length(worker_ids) AS workers,"
            " started_at IS NOT NULL AS is_begun FROM django_ray_execution"
        ).fetchall()
        for row in found:
            model = self.rows[row["task_id"]]
            assert (row["state"], row["attempt_number"], row["claimed_by_id"]) == (
                model.state,
                model.attempt,
                model.owner,
            )
            assert (row["workers"], row["is_begun"]) == (model.begun, model.begun > 0)
            assert (row["errors"], row["losses"], row["released"]) == (model.errors, model.losses, model.released)
            if row["state"] == "READY":
                assert row["is_due"] == model.is_due
        assert len(found) == len(self.rows)


@pytest.fixture
def machine(database, connect):
    arena = Arena(database, connect())
    yield type("Machine", (TwoSupervisors,), {"arena": arena})
    arena.close()


SETTINGS = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def test_two_supervisors_agree_with_the_model_in_every_order(machine):
    run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.mark.parametrize(
    "fence",
    [
        "AND execution.attempt_number = verdict.attempt",
        "AND execution.claimed_by_id IS NOT DISTINCT FROM verdict.worker",
    ],
)
@pytest.mark.slow
def test_a_removed_fence_is_found(machine, monkeypatch, fence):
    sql = statements.SQL["record"]
    assert fence.encode() in sql
    monkeypatch.setitem(statements.SQL, "record", sql.replace(fence.encode(), b""))
    found = settings(SETTINGS, max_examples=500, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)
