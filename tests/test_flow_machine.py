"""Random graphs, two supervisors that claim and record, operators, and somebody who locks rows for a while.

Whenever all is quiet, the rows are as the ends of the upstreams say (`wrong()`, which knows nothing of how that is
done).
And what is claimed has all that it waits for: what has succeeded is told by a ledger outside of the database.
"""

import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from django_ray_worker.core.judge import abandoned
from django_ray_worker.core.policy import Cancel, Fail, Release, Retry, Succeed
from django_ray_worker.database.statements import SQL, Record
from tests.test_flow_interleavings import ENDED, ENQUEUE, RETRY, call, wrong
from tests.test_state_machine import ERROR, Arena

places = st.integers(0, 30)
verdicts = st.sampled_from(
    [
        Succeed(result="1"),
        Succeed(result="1"),
        Fail(error=ERROR, failures=1),
        Retry(error=ERROR, after=0, failures=1),
        Cancel(error=ERROR),
        Release(has_begun=False),
    ]
)


class Flows(RuleBasedStateMachine):
    arena: Arena
    stranger: object

    def __init__(self):
        super().__init__()
        self.stranger.rollback()
        self.session = self.arena.session
        self.session.execute("TRUNCATE django_ray_execution, django_ray_edge")
        self.ids, self.edges, self.claims = [], {}, []
        self.succeeded = set()  # The ledger.
        self.locked = None

    def one(self, place):
        """Somebody that nobody has locked, for those who would wait for the lock without end."""
        free = [one for one in self.ids if one != self.locked]
        return free[place % len(free)] if free else None

    def states(self):
        rows = self.session.execute("SELECT task_id, state FROM django_ray_execution").fetchall()
        return {row["task_id"]: row["state"] for row in rows}

    @rule(upstreams=st.lists(places, max_size=3), needs=st.sampled_from(["success", "success", "end"]))
    def enqueue(self, upstreams, needs):
        chosen = list(dict.fromkeys(one for place in upstreams if (one := self.one(place))))
        row = self.session.execute(ENQUEUE, [json.dumps([call(*chosen, needs=needs)])]).fetchone()
        self.ids.append(row["task_id"])
        self.edges[row["task_id"]] = (chosen, needs)

    @rule(who=st.integers(0, 1), limit=st.integers(1, 4))
    def claim(self, who, limit):
        states = self.states()
        has_late = self.session.execute("SELECT FROM django_ray_edge WHERE is_late").fetchall()
        batch = self.arena.run(self.arena.stores[who].claim(self.arena.workers[who], limit))
        for claim in batch.claims:
            upstreams, needs = self.edges[claim.task_id]
            if needs == "success":
                assert set(upstreams) <= self.succeeded
            elif not has_late:  # what was locked when an upstream came back may start before it
                assert {states.get(one, "gone") for one in upstreams} <= {*ENDED, "gone"}
        self.claims += batch.claims

    @precondition(lambda self: self.claims)
    @rule(which=places, more=places, verdict=verdicts)
    def record(self, which, more, verdict):
        first, second = (self.claims[place % len(self.claims)] for place in (which, more))
        some = [first] if second.task_id == first.task_id or second.worker != first.worker else [first, second]
        who, records = self.arena.workers.index(first.worker), [Record(claim, verdict) for claim in some]
        recorded = self.arena.run(self.arena.stores[who].record_free(records))
        if isinstance(verdict, Succeed):
            self.succeeded |= recorded.written

    @rule(which=places)
    def cancel(self, which):
        self.session.execute("SELECT django_ray_cancel(%s)", [self.one(which)])

    @rule(which=places)
    def retry(self, which):
        self.session.execute(RETRY, [self.one(which)])

    @rule(which=places)
    def delete(self, which):
        self.session.execute("DELETE FROM django_ray_execution WHERE task_id = %s", [self.one(which)])

    @rule()
    def prune(self):
        before = self.states()
        self.session.execute(SQL["prune"], {"backend": "default", "age": 0, "limit": 3})
        gone = before.keys() - self.states().keys()
        unfinished = {one for one, state in before.items() if state not in ENDED}
        assert not any(gone.intersection(self.edges[one][0]) for one in unfinished)

    @rule(who=st.integers(0, 1))
    def rescue(self, who):
        dead = self.arena.workers[1 - who]
        self.arena.run(self.arena.stores[who].rescue(self.arena.workers[who], abandoned, only=dead))
        self.arena.run(self.arena.stores[who].revive(dead))

    @precondition(lambda self: self.ids and self.locked is None)
    @rule(which=places, verb=st.sampled_from(["lock", "cancel", "retry", "delete"]))
    def somebody_is_at_one_for_a_while(self, which, verb):
        sql = {
            "lock": "SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE",
            "cancel": "SELECT FROM django_ray_cancel(%s)",
            "retry": RETRY,
            "delete": "DELETE FROM django_ray_execution WHERE task_id = %s",
        }[verb]
        # What it changes is settled in its transaction, which locks what is downstream: a leaf has nothing there.
        leaves = [one for one in self.ids if not any(one in upstreams for upstreams, _ in self.edges.values())]
        if verb != "lock" and not leaves:
            return
        some = self.ids if verb == "lock" else leaves
        self.locked = some[which % len(some)]
        self.stranger.execute(sql, [self.locked])

    @rule(commits=st.booleans())
    def all_is_quiet(self, commits):
        self.settle(commits=commits)

    def settle(self, *, commits=False):
        if commits:
            self.stranger.commit()
        else:
            self.stranger.rollback()
        self.locked = None
        assert not self.session.execute(SQL["settle_late"]).fetchone()["has_skipped"]
        rows = self.session.execute("SELECT * FROM django_ray_execution").fetchall()
        assert wrong(rows, self.session.execute("SELECT * FROM django_ray_edge").fetchall()) == []

    def teardown(self):
        self.settle()


@pytest.fixture
def machine(database, connect):
    arena = Arena(database, connect())
    yield type("Machine", (Flows,), {"arena": arena, "stranger": connect(autocommit=False)})
    arena.close()


SETTINGS = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def test_two_supervisors_and_operators_keep_every_graph_as_it_has_to_be(machine):
    run_state_machine_as_test(machine, settings=SETTINGS)


# What is replaced by what, and the fewest steps that show it: what chance alone must find, it does not find each time.
# The others are found by the orders of test_flow_interleavings.py.
def the_only_upstream_succeeds(machine):
    machine.enqueue(upstreams=[], needs="success")
    machine.enqueue(upstreams=[0], needs="success")
    machine.claim(who=0, limit=2)
    machine.record(which=0, more=0, verdict=Succeed(result="1"))
    machine.all_is_quiet(commits=False)


def it_succeeds_while_somebody_is_at_the_downstream(machine):
    machine.enqueue(upstreams=[], needs="success")
    machine.enqueue(upstreams=[0], needs="success")
    machine.claim(who=0, limit=1)
    machine.somebody_is_at_one_for_a_while(which=1, verb="lock")
    machine.record(which=0, more=0, verdict=Succeed(result="1"))
    machine.all_is_quiet(commits=False)


FAULTS = {
    "the mark of upstreams": (
        "django_ray_link(json,uuid[])",
        "SET is_upstream = true",
        "SET is_upstream = is_upstream",
        the_only_upstream_succeeds,
    ),
    "the hold": (
        "django_ray_is_held(uuid)",
        ") IS NOT NULL",
        ") IS NOT NULL AND false",
        the_only_upstream_succeeds,
    ),
    "the marks of what is late": (
        "django_ray_settle(uuid[])",
        "SET is_late = true",
        "SET is_late = false",
        it_succeeds_while_somebody_is_at_the_downstream,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(machine, connect, fault):
    signature, there, instead, steps = FAULTS[fault]
    steps(machine())
    session = connect()
    source = session.execute("SELECT pg_get_functiondef(%s::regprocedure) AS it", [signature]).fetchone()["it"]
    assert there in source
    session.execute(source.replace(there, instead))
    try:
        with pytest.raises(AssertionError):
            steps(machine())
    finally:
        session.execute(source)
