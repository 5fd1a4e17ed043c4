"""Gates and living supervisors, which have no pulse here: whatever happens is done by an event."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest
from anyio import fail_after, sleep

from django_ray_worker.core.outcome import Returned
from django_ray_worker.database.store import Store
from django_ray_worker.running.answer import Answer
from tests.supervisors import Instant, living


class Held(Instant):
    """Bodies that end when they are told to."""

    def __init__(self):
        super().__init__()
        self.ends = {}
        self.began = {}

    async def run(self, claims):
        (claim,) = claims
        self.ends[claim.task_id] = asyncio.Event()
        self.began[claim.task_id] = time.monotonic()
        self.ran.append(claim.task_id)
        await self.ends[claim.task_id].wait()
        return Answer(outcomes=[Returned("null")], seconds=[0.001], outputs=[""])

    def end(self, task_id):
        self.ends[task_id].set()


@pytest.fixture
def gated(connect):
    """Enqueue so many executions behind a gate; return their ids."""
    session = connect()

    def _gated(gate="g", number=1, queue="default", expires=None, **rule):
        return [
            row["task_id"]
            for row in session.execute(
                "INSERT INTO django_ray_execution (callable_path, queue_name, gate, gate_rule, expires_at)"
                " SELECT 'tests.tasks.add', %s, %s, %s::jsonb, now() + %s::interval FROM generate_series(1, %s)"
                " RETURNING task_id",
                [queue, gate, json.dumps(rule), expires, number],
            ).fetchall()
        ]

    return _gated


async def soon(condition, seconds=20):
    """Return when it holds."""
    with fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await sleep(0.002)


async def asleep(sleepers, number=1, bell="queue:default:default"):
    await soon(lambda: sleepers(bell) == number)


async def test_a_free_place_is_taken_at_once(database, gated, sleepers):
    """Nobody has to look: whoever sleeps is woken by the end of what runs there."""
    executor, waits = Held(), []
    first, *others = gated(number=10, limit=1)
    async with living(database, executor):
        await soon(lambda: executor.ran == [first])
        for number, task_id in enumerate(others, 1):
            await asleep(sleepers, bell="gates:default")
            ended = time.monotonic()
            executor.end(executor.ran[-1])
            await soon(lambda number=number: len(executor.ran) > number)
            waits.append(executor.began[task_id] - ended)
        executor.end(executor.ran[-1])
    print(f"from the end of one to the begin of the next: {1000 * max(waits):.1f} ms at most")
    assert executor.ran == [first, *others]


async def test_a_free_place_is_taken_by_another_supervisor(database, gated):
    """Of another queue, and asleep."""
    one, other = Held(), Held()
    (first,) = gated(limit=1)
    async with living(database, one, queues=("default",)), living(database, other, queues=("other",)) as life:
        await soon(lambda: one.ran == [first])
        (second,) = gated(limit=1, queue="other")
        await soon(lambda: life._gate_bell.is_announced and not life._wakeup.is_hungry)
        one.end(first)
        await soon(lambda: other.ran == [second])
        other.end(second)


async def test_who_sees_nothing_behind_gates_sleeps_on_no_bell_of_theirs(database, gated, sleepers, connect):
    executor, session = Held(), connect()
    async with living(database, executor):
        await asleep(sleepers)
        assert sleepers("gates:default") == 0
        first, _ = gated(number=2, limit=1)
        await asleep(sleepers, bell="gates:default")
        executor.end(first)
        await soon(lambda: len(executor.ran) == 2)
        executor.end(executor.ran[-1])
        left = "SELECT FROM django_ray_execution WHERE finished_at IS NULL"
        await soon(lambda: not session.execute(left).fetchall())
        session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
        await soon(lambda: len(executor.ran) == 3)
        executor.end(executor.ran[-1])
        await soon(lambda: sleepers("gates:default") == 0)


async def test_a_limit_that_is_raised_counts_at_once(database, gated, sleepers, connect):
    executor = Held()
    gated(number=3, limit=1)
    async with living(database, executor):
        await soon(lambda: len(executor.ran) == 1)
        await asleep(sleepers, bell="gates:default")
        connect().execute("""INSERT INTO django_ray_gate (name, "limit") VALUES ('g', 3)""")
        await soon(lambda: len(executor.ran) == 3)
        for task_id in executor.ran:
            executor.end(task_id)


async def test_a_rate_is_kept_by_several_supervisors_and_nothing_is_sent_in_between(database, gated, monkeypatch):
    """Any second has the rate, and two more at most, for what wakes late."""
    number, rate, claims = 150, 50, 0
    claim = Store.claim

    async def counted(self, *arguments, **options):
        nonlocal claims
        claims += 1
        return await claim(self, *arguments, **options)

    monkeypatch.setattr(Store, "claim", counted)
    starts = []

    class Noting(Instant):
        async def run(self, claims):
            starts.extend(time.monotonic() for _ in claims)
            return await super().run(claims)

    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(living(database, Noting()))
        gated(number=number, count=rate, per=1.0)
        await soon(lambda: len(starts) == number, 60)
    starts.sort()
    most = max(sum(begun <= other < begun + 1 for other in starts) for begun in starts)
    print(f"{(number - 1) / (starts[-1] - starts[0]):.1f} a second, at most {most} in one, {claims} claims")
    assert most <= rate + 3  # one for the moment that a start is noted here, not there
    # Each of three wakes for a token, claims, and claims once more where there is more than it got.
    assert claims <= 3 * 3 * number + 3 * number  # the enqueues ring


async def test_between_two_tokens_nothing_is_sent(database, gated, monkeypatch, sleepers):
    executor = Instant()
    async with living(database, executor) as life:
        gated(number=2, count=1, per=3600.0)
        await executor.has_run(1)
        await asleep(sleepers, bell="gates:default")
        await soon(lambda: not life._wakeup.is_hungry)
        await sleep(0.5)  # what was under way

        async def claim(*_, **__):
            raise AssertionError("a claim")

        monkeypatch.setattr(life._store, "claim", claim)
        await sleep(2)
        assert 3500 < life._claimer._again - asyncio.get_running_loop().time() < 3600
    assert len(executor.ran) == 1


async def test_what_expires_ends_although_every_slot_is_taken(database, gated, sleepers, connect):
    executor, session = Held(), connect()
    async with living(database, executor, concurrency=1, cluster="nowhere"):  # nothing is sent ahead
        await asleep(sleepers)
        gated("b", number=2, expires="3 s")  # seen by the claim that takes the first of them
        await soon(lambda: len(executor.ran) == 1)
        left = "SELECT FROM django_ray_execution WHERE state IN ('WAITING', 'READY')"
        await soon(lambda: not session.execute(left).fetchall())
        states = session.execute("SELECT state FROM django_ray_execution ORDER BY task_id").fetchall()
        assert [row["state"] for row in states] == ["RUNNING", "FAILED"]
        executor.end(executor.ran[-1])


async def test_what_expires_later_ends_too_although_every_slot_is_taken(database, sleepers, connect):
    """The claim that takes the first sees when the second expires, and that expiry when the third does."""
    executor, session = Held(), connect()
    async with living(database, executor, concurrency=1, cluster="nowhere"):  # nothing is sent ahead
        await asleep(sleepers)
        session.execute(
            "INSERT INTO django_ray_execution (callable_path, expires_at)"
            " SELECT 'tests.tasks.add', now() + seconds * interval '1 s' FROM unnest(%s::float[]) AS seconds",
            [[600.0, 2.0, 3.5]],
        )
        await soon(lambda: len(executor.ran) == 1)
        left = "SELECT FROM django_ray_execution WHERE state IN ('WAITING', 'READY')"
        await soon(lambda: not session.execute(left).fetchall())
        states = session.execute("SELECT state FROM django_ray_execution ORDER BY task_id").fetchall()
        assert [row["state"] for row in states] == ["RUNNING", "FAILED", "FAILED"]
        executor.end(executor.ran[-1])


async def test_a_new_one_at_a_full_gate_goes_although_every_slot_is_taken(database, gated, connect):
    executor, session = Held(), connect()
    rule = {"limit": 1, "full": "cancel_new"}
    async with living(database, executor, concurrency=1, cluster="nowhere") as life:
        (first,) = gated(**rule)
        await soon(lambda: executor.ran == [first])
        (second,) = gated(**rule)
        state = "SELECT state FROM django_ray_execution WHERE task_id = %s"
        await soon(lambda: session.execute(state, [second]).fetchone()["state"] == "CANCELLED")
        await soon(lambda: life.metrics.turned_away == 1)
        executor.end(first)


async def test_a_new_session_ends_what_has_expired_although_every_slot_is_taken(database, sleepers, connect):
    """While there was no session, nobody could be told when that is."""
    executor, session = Held(), connect()
    async with living(database, executor, concurrency=1, cluster="nowhere") as life:
        await asleep(sleepers)
        insert = "INSERT INTO django_ray_execution (callable_path, expires_at) VALUES ('tests.tasks.add', %s)"
        session.execute(insert, ["2100-01-01"])
        await soon(lambda: len(executor.ran) == 1)
        session.execute(insert, ["2020-01-01"])
        session.execute("SELECT pg_terminate_backend(django_ray_session(%s))", [life._identity.worker])
        await soon(lambda: session.execute("SELECT FROM django_ray_execution WHERE state = 'FAILED'").fetchall())
        assert life.metrics.reconnects == 1
        executor.end(executor.ran[-1])
