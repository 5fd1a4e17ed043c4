"""Gates: how many of those behind one run at a time, who comes first, how fast; and what is turned away."""

import json
from collections import Counter

import pytest

from django_ray.models import State
from django_ray_worker.core.claim import Expired
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Cancel, Fail, Release, Retry, Succeed
from django_ray_worker.database.statements import Record
from tests.supervisors import hear, notifications

ERROR = Error(exception_class_path="builtins.ValueError", message="m", traceback="t")


@pytest.fixture
def gated(insert):
    """Insert an execution behind a gate."""

    def _gated(gate="g", limit=1, **columns):
        rule = {**({} if limit is None else {"limit": limit}), **columns.pop("rule", {})}
        return insert(gate=gate, gate_rule=json.dumps(rule), **columns)

    return _gated


@pytest.fixture
def sql(connect):
    """Run a statement, outside of Django; return its first row."""
    session = connect()

    def run(statement, *parameters):
        cursor = session.execute(statement, parameters)
        return cursor.fetchone() if cursor.description else None

    return run


@pytest.fixture
def row(sql):
    return lambda task_id: sql(
        "SELECT *, errors -> -1 ->> 'message' AS message FROM django_ray_execution WHERE task_id = %s", task_id
    )


async def taken(store, worker, room=10, **options):
    return [claim.task_id for claim in (await store.claim(worker, room, **options)).claims]


async def ended(store, batch, verdict=None):
    await store.record([Record(claim, verdict or Succeed(result="null")) for claim in batch.claims])


def test_what_waits_behind_a_gate_is_not_among_the_claimable(gated, row):
    assert row(gated())["state"] == State.WAITING


async def test_no_more_than_the_limit_run(open_store, gated):
    store, worker = await open_store()
    ids = [gated(limit=2) for _ in range(5)]
    batch = await store.claim(worker, 10)
    assert [claim.task_id for claim in batch.claims] == ids[:2]
    assert batch.gates.is_used
    assert await taken(store, worker) == []
    await ended(store, batch)
    assert await taken(store, worker) == ids[2:4]


@pytest.mark.parametrize("how", ["retry", "release", "fail", "cancel", "delete"])
async def test_whatever_ends_an_attempt_leaves_its_place(open_store, gated, sql, how):
    store, worker = await open_store()
    first, second = gated(), gated()
    batch = await store.claim(worker, 10)
    if how == "delete":
        sql("DELETE FROM django_ray_execution WHERE task_id = %s", first)
    else:
        verdict = {
            "retry": Retry(error=ERROR, after=60, failures=1),
            "release": Release(after=60, has_begun=True),
            "fail": Fail(error=ERROR, failures=1),
            "cancel": Cancel(error=ERROR),
        }[how]
        await ended(store, batch, verdict)
    assert await taken(store, worker) == [second]


async def test_what_comes_back_waits_behind_its_gate_again(open_store, gated, row):
    store, worker = await open_store()
    first = gated()
    gated()
    await ended(store, await store.claim(worker, 10), Retry(error=ERROR, after=0, failures=1))
    assert row(first)["state"] == State.WAITING
    assert await taken(store, worker) == [first]


async def test_gates_are_served_in_a_circle(open_store, gated):
    """One tenant's thousand rows delay the single one of another by one round."""
    store, worker = await open_store()
    many = [gated("a", limit=None) for _ in range(20)]
    place, order = (None, None), []
    for number in range(6):
        if number == 2:
            single = gated("b", limit=None)
        batch = await store.claim(worker, 1, after_gate=place)
        place = batch.gates.place
        order += [claim.task_id for claim in batch.claims]
    assert order == [many[0], many[1], single, *many[2:5]]


async def test_a_claim_of_several_takes_from_each_gate_in_turn(open_store, gated):
    store, worker = await open_store()
    rows = {gate: [gated(gate, limit=None) for _ in range(9)] for gate in "abc"}
    ids = await taken(store, worker, 7)
    count = Counter(gate for task_id in ids for gate, of_it in rows.items() if task_id in of_it)
    assert sorted(count.values()) == [2, 2, 3]


async def test_what_one_gate_cannot_take_is_left_to_the_others(open_store, gated):
    store, worker = await open_store()
    for gate in "abc":
        for _ in range(9):
            gated(gate, limit=1 if gate != "c" else 9)
    first = await store.claim(worker, 9)
    assert len(first.claims) == 5  # a share of three for each of three
    assert first.gates.has_more
    second = await store.claim(worker, 9 - 5)
    assert len(second.claims) == 4


async def test_priority_comes_before_the_circle(open_store, gated):
    store, worker = await open_store()
    gated("a", limit=None)
    high = [gated("b", limit=None, priority=5) for _ in range(3)]
    assert await taken(store, worker, 3) == high


async def test_what_has_no_gate_has_its_share(open_store, gated, insert):
    store, worker = await open_store()
    behind = [gated(limit=None) for _ in range(10)]
    others = [insert() for _ in range(10)]
    ids = await taken(store, worker, 4, share=2)
    assert set(ids) == {*behind[:2], *others[:2]}
    assert set(await taken(store, worker, 16, share=8)) == {*behind[2:], *others[2:]}


async def test_a_slot_of_one_is_shared_by_turns(open_store, gated, insert):
    store, worker = await open_store()
    behind, other = gated(limit=None), insert()
    assert await taken(store, worker, 1, share=0) == [other]
    assert await taken(store, worker, 1, share=0) == [behind]


async def test_a_gate_of_several_queues_counts_once(open_store, gated):
    store, worker = await open_store(queues=None, backend="any")
    for queue in ("x", "y", "z"):
        for _ in range(3):
            gated(limit=2, backend="any", queue_name=queue)
    assert len(await taken(store, worker)) == 2


async def test_other_queues_and_paused_ones_are_left_alone(open_store, gated, sql):
    store, worker = await open_store(queues=("default", "paused"))
    gated("a", queue_name="elsewhere")
    gated("b", queue_name="paused")
    sql("INSERT INTO django_ray_queue (backend, name, paused_at) VALUES ('default', 'paused', now())")
    mine = gated("c")
    assert await taken(store, worker) == [mine]


async def test_an_override_counts_and_the_own_one_before_that_of_all(open_store, gated, sql):
    store, worker = await open_store()
    for _ in range(5):
        gated("t:1", limit=1)
        gated("t:2", limit=1)
    sql("""INSERT INTO django_ray_gate (name, "limit") VALUES ('t:*', 2), ('t:2', 0)""")
    assert len(await taken(store, worker)) == 2


async def test_a_rate_lets_one_start_at_a_time(open_store, gated, sql):
    store, worker = await open_store()
    ids = [gated(limit=None, rule={"count": 1, "per": 30.0, "burst": 1}) for _ in range(3)]
    batch = await store.claim(worker, 10)
    assert [claim.task_id for claim in batch.claims] == ids[:1]
    assert 20 < batch.gates.next_in <= 30
    again = await store.claim(worker, 10)
    assert again.claims == ()
    assert 20 < again.gates.next_in <= 30
    sql("UPDATE django_ray_gate SET next_at = '2020-01-01'")
    assert await taken(store, worker) == ids[1:2]


async def test_a_burst_may_be_made_up_for(open_store, gated):
    store, worker = await open_store()
    for _ in range(9):
        gated(limit=None, rule={"count": 1, "per": 30.0, "burst": 4})
    assert len(await taken(store, worker)) == 4
    assert await taken(store, worker) == []


@pytest.mark.parametrize(
    "rule",
    [
        "[]",
        '"x"',
        "{}",
        '{"limit": "x", "count": 0, "per": -1}',
        '{"limit": -3}',
        '{"limit": 1e400}',
        '{"count": 5}',
        '{"full": 7}',
    ],
)
async def test_whatever_somebody_has_written_there_no_claim_fails(open_store, insert, rule):
    store, worker = await open_store()
    odd = insert(gate="odd", gate_rule=rule)
    fine = insert()
    assert set(await taken(store, worker)) == {odd, fine}
    await store.make_way()


async def test_a_gate_that_a_peer_admits_at_is_looked_at_again(open_store, gated, connect):
    store, worker = await open_store()
    gated()
    peer = connect(autocommit=False)
    peer.execute("SELECT pg_advisory_xact_lock(1145721436, django_ray_key('gate:default:g'))")
    batch = await store.claim(worker, 10)
    assert (batch.claims, batch.has_skipped) == ((), True)
    peer.rollback()
    assert len(await taken(store, worker)) == 1


async def test_a_row_that_somebody_has_locked_is_passed_over(open_store, gated, connect):
    store, worker = await open_store()
    first, second = gated(limit=2), gated(limit=2)
    peer = connect(autocommit=False)
    peer.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [first])
    batch = await store.claim(worker, 10)
    assert ([claim.task_id for claim in batch.claims], batch.has_skipped) == ([second], False)
    peer.rollback()
    assert await taken(store, worker) == [first]


async def test_new_ones_at_a_full_gate_are_cancelled(open_store, gated, row):
    store, worker = await open_store()
    full = {"rule": {"full": "cancel_new"}}
    first = gated(**full)
    assert (await store.make_way()).refused == 0
    assert await taken(store, worker) == [first]
    second = gated(**full)
    assert (await store.make_way()).refused == 1
    assert row(second)["state"] == State.CANCELLED
    assert row(second)["message"] == "The gate g was full, and when_full says cancel_new."


async def test_what_runs_at_a_full_gate_is_cancelled_for_the_newest(open_store, gated, row):
    store, worker = await open_store()
    full = {"rule": {"full": "cancel_running"}}
    running = gated(**full)
    await store.claim(worker, 10)
    older, newest = gated(**full), gated(**full)
    made = await store.make_way()
    assert (made.refused, made.stopped, made.has_skipped) == (1, 1, False)
    made = await store.make_way()
    assert (made.refused, made.stopped, made.has_skipped) == (0, 0, False)
    assert row(running)["cancel_requested_at"] is not None
    assert (row(older)["state"], row(newest)["state"]) == (State.CANCELLED, State.WAITING)


async def test_what_has_not_begun_by_its_time_ends(open_store, insert, gated, row):
    store, worker = await open_store()
    late = [insert(expires_at="2020-01-01T00:00Z"), gated(expires_at="2020-01-01T00:00Z")]
    fine = insert(expires_at="2100-01-01T00:00Z")
    batch = await store.claim(worker, 10)
    assert [claim.task_id for claim in batch.claims] == [fine]
    assert batch.next_expiry < 0
    assert (await store.expire()).number == 2
    for pk in late:
        assert (row(pk)["state"], row(pk)["message"]) == (State.FAILED, "It had not begun by 2020-01-01 00:00:00 UTC.")
    assert (await store.claim(worker, 10)).next_expiry is None


async def test_an_expiry_says_when_the_next_one_is(open_store, insert, sql, connect):
    store, _ = await open_store()
    locked = insert(expires_at="2020-01-01T00:00Z")
    session = connect(autocommit=False)
    session.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [locked])
    assert await store.expire() == Expired(number=0, next_in=None, was_due=True)
    sql("INSERT INTO django_ray_execution (callable_path, expires_at) SELECT 'x.y', now() + interval '1 h' * n"
        " FROM generate_series(0, 2) AS n")  # fmt: skip
    expired = await store.expire()
    assert expired.number == 1
    assert 3000 < expired.next_in <= 3600


async def test_what_has_begun_does_not_expire(open_store, insert, sql):
    store, worker = await open_store()
    task_id = insert(expires_at="2100-01-01T00:00Z")
    await ended(store, await store.claim(worker, 10), Retry(error=ERROR, after=0, failures=1))
    sql("UPDATE django_ray_execution SET expires_at = '2020-01-01'")
    assert (await store.expire()).number == 0
    assert await taken(store, worker) == [task_id]


@pytest.mark.parametrize("verb", ["finish", "limit", "remove"])
async def test_a_free_place_rings(open_store, gated, connect, sql, verb):
    store, worker = await open_store()
    gated()
    batch = await store.claim(worker, 10)
    asleep, other = connect(), connect()
    asleep.execute("SELECT django_ray_announce('gates:default')")
    hear(asleep, "gates:default")
    if verb == "finish":
        await ended(store, batch)
    else:
        sql("""INSERT INTO django_ray_gate (name, "limit") VALUES ('h', 1)""")
        notifications(asleep, other)
        sql('UPDATE django_ray_gate SET "limit" = 3' if verb == "limit" else "DELETE FROM django_ray_gate")
    assert len(notifications(asleep, other)) == 1


async def test_nobody_who_has_no_gate_notifies_or_pays(open_store, insert, connect):
    store, worker = await open_store()
    asleep, other = connect(), connect()
    asleep.execute("SELECT django_ray_announce('gates:default')")
    hear(asleep, "gates:default")
    insert()
    await ended(store, await store.claim(worker, 10))
    assert notifications(asleep, other) == []


async def test_a_rate_makes_no_gate_full(open_store, gated):
    store, worker = await open_store()
    rule = {"full": "cancel_new", "count": 1, "per": 3600.0}
    first, second = gated(limit=5, rule=rule), gated(limit=5, rule=rule)
    assert await taken(store, worker) == [first]
    assert (await store.make_way()).refused == 0, f"{second} waits for its time"


async def test_who_says_another_word_waits(open_store, gated):
    store, worker = await open_store()
    first = gated(rule={"full": "give_up"})
    gated(rule={"full": ["cancel_new"]})
    assert await taken(store, worker) == [first]
    assert (await store.make_way()).refused == 0


async def test_a_time_that_is_none_expires_as_well(open_store, insert, sql):
    store, _ = await open_store()
    task_id = insert(expires_at="-infinity")
    assert (await store.expire()).number == 1
    said = sql("SELECT errors -> -1 ->> 'message' AS message FROM django_ray_execution WHERE task_id = %s", task_id)
    assert said["message"] == "It had not begun by -infinity."
