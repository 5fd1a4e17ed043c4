"""What runs and waits here, while rows change, Ray goes and the supervisor stops: nobody is mistaken for another."""

from uuid import UUID

import pytest
from anyio import Event, create_task_group, fail_after, sleep, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from ray.exceptions import RaySystemError

from django_ray.requirements import TaskOptions
from django_ray_worker.claiming import lanes as lanes_module
from django_ray_worker.claiming.lanes import Lanes
from django_ray_worker.core.claim import Claim, Held
from django_ray_worker.core.outcome import Returned, Unstarted
from django_ray_worker.core.policy import Postpone, Succeed
from django_ray_worker.recording.tally import Tally
from django_ray_worker.running.answer import Answer, NoAnswer, unprepared
from django_ray_worker.running.dispatcher import Dispatcher
from django_ray_worker.running.onray import cluster as cluster_module
from django_ray_worker.running.onray.cluster import Cluster
from django_ray_worker.running.onray.executor import RayExecutor
from tests.supervisors import Instant, config, living

WAITING = TaskOptions(batch=50, batch_wait=60.0)
WARM = TaskOptions(worker="tests.warming.Model", replicas=(1, 2))


def claim(number=0, options=TaskOptions(), **changes):  # noqa: B008 - it does not change
    return Claim(
        task_id=UUID(int=number), attempt=1, worker=1, queue_name="default", callable_path="x.y",
        options=options, unfit="", failures=0, losses=0, missing_for=0, waited=None, payload="", **changes,
    )  # fmt: skip


class Scripted(Instant):
    """Its calls answer what they are told; without anything, they wait until they may end."""

    most_per_call = 250

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.may_end = list(answers), Event()
        self.calls = []

    async def run(self, claims):
        self.calls.append([one.task_id.int for one in claims])
        if self.answers:
            return self.answers.pop(0)
        await self.may_end.wait()
        return Answer(outcomes=[Returned("1") for _ in claims], seconds=[0.0] * len(claims), outputs=[""] * len(claims))


@pytest.fixture
def records():
    return []


@pytest.fixture
def dispatcher_of(records):
    def make(executor, total=1):
        return Dispatcher(executor, total, Tally(None), record=records.append, on_free=lambda: None)

    return make


@pytest.mark.parametrize("number", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize("said", [None, Held(1, is_unwanted=True)], ids=["not ours any more", "unwanted"])
async def test_what_was_settled_where_it_ran_stops_none_that_shared_its_call(dispatcher_of, records, number, said):
    """D9: the row of one that has ended so is not in our name any more, or somebody has wanted to cancel it."""
    first = Answer(
        outcomes=[Returned("1"), Returned("2")], seconds=[0.0, 0.0], outputs=["", ""], settled=frozenset({0, 1})
    )
    executor = Scripted(first)
    dispatcher = dispatcher_of(executor)
    three = [claim(index) for index in range(3)]
    for one in three:
        for _ in range(300):
            dispatcher._pace.observe(one, 0.0001)  # short ones share a call
    async with create_task_group() as calls, create_task_group() as waits:
        dispatcher.open(calls, waits)
        dispatcher.start(three)
        await wait_all_tasks_blocked()
        assert executor.calls == [[0, 1, 2], [2]]
        ours = {three[2].task_id: Held(1)} | ({} if said is None else {three[number].task_id: said})
        dispatcher.reconcile(ours)
        await wait_all_tasks_blocked()
        executor.may_end.set()
        waits.cancel_scope.cancel()
    assert [(record.claim.task_id.int, type(record.verdict)) for record in records] == [(2, Succeed)]


@pytest.mark.parametrize("said", [Held(1, is_paused=True), Held(1, is_unwanted=True), None])
async def test_what_waits_in_a_lane_is_removed_and_nothing_of_it_begins(dispatcher_of, records, said):
    """K5: without the first, which waits for others, the second would run at once: it came back, and runs alone."""
    executor = Scripted()
    dispatcher = dispatcher_of(executor)
    two = [claim(1, WAITING), claim(2, WAITING, released=1)]
    async with create_task_group() as calls, create_task_group() as waits:
        dispatcher.open(calls, waits)
        dispatcher.start(two)
        assert dispatcher.held == {one.task_id for one in two}
        dispatcher.reconcile({} if said is None else {one.task_id: said for one in two})
        await wait_all_tasks_blocked()
        waits.cancel_scope.cancel()
    assert (executor.calls, dispatcher.held) == ([], frozenset())
    assert [record.claim.task_id.int for record in records] == [1, 2]


async def test_a_parked_call_that_was_settled_where_it_ran_tells_that_it_has_ended():
    """E4: a --burst ends then."""

    class Placed(Scripted):
        def lacks(self, claim):
            return {"GPU": 1.0}

    told = []
    executor = Placed(Answer(outcomes=[Returned("1")], seconds=[0.0], outputs=[""], settled=frozenset({0})))
    dispatcher = Dispatcher(
        executor, 1, Tally(None), record=lambda record: None, on_free=lambda: told.append(dispatcher.held)
    )
    async with create_task_group() as calls, create_task_group() as waits:
        dispatcher.open(calls, waits)
        dispatcher.start([claim()])
        await wait_all_tasks_blocked()
        waits.cancel_scope.cancel()
    assert told[-1] == frozenset()


class TwoPlaces:
    def places(self, claim):
        return 1

    def grow(self, claim): ...


async def test_the_end_of_a_rest_is_looked_at_whatever_was_looked_at_in_between(monkeypatch):
    """K5: a worker could not be built here, and more waits in the queue."""
    monkeypatch.setattr(lanes_module, "REST_SECONDS", 0.3)
    monkeypatch.setattr(lanes_module, "GROW_SECONDS", 0.1)
    begun, has_room = [], Event()
    lanes = Lanes(
        TwoPlaces(), begin=lambda claims: begun.append(claims) or len(begun), give_back=None, on_room=has_room.set
    )
    first, second = claim(1, WARM), claim(2, WARM)
    async with create_task_group() as waits:
        lanes.open(waits)
        lanes.start([first, second])
        assert begun == [[first]]
        await sleep(0.05)
        lanes.ended(1, is_unprepared=True)
        assert begun == [[first], [second]]
        lanes.ended(2, is_unprepared=True)
        lanes.note(["x.y"], is_all=True)
        assert not has_room.is_set()
        with fail_after(20):
            await has_room.wait()
        waits.cancel_scope.cancel()


async def test_after_a_stop_a_worker_that_cannot_be_built_ends_no_other_call(dispatcher_of, records):
    """E1: what runs has its grace."""
    executor = Scripted()
    dispatcher = dispatcher_of(executor)
    async with create_task_group() as calls:
        async with create_task_group() as waits:
            dispatcher.open(calls, waits)
            dispatcher.start([claim(1)])
            await wait_all_tasks_blocked()
            executor.answers = [NoAnswer(unprepared("It cannot be built."))]
            waits.cancel_scope.cancel()
        dispatcher.close()
        dispatcher.lanes.start([claim(2, WARM)])
        await wait_all_tasks_blocked()
        executor.may_end.set()
    verdicts = {record.claim.task_id.int: type(record.verdict) for record in records}
    assert verdicts == {1: Succeed, 2: Postpone}


async def test_a_call_is_not_sent_to_a_ray_that_is_gone():
    executor = RayExecutor(config(cluster="nowhere:1"))
    assert await executor.run([claim()]) == NoAnswer(Unstarted())


async def test_a_look_at_a_ray_that_is_gone_keeps_what_was_known(monkeypatch):
    def listed():
        raise RaySystemError("Ray has not been started yet.")

    monkeypatch.setattr(cluster_module, "listed", listed)
    await Cluster(None).look()


@pytest.fixture
def gathering(connect, transactional_db):
    """Enqueue one that waits for others, for a minute; returns how it is now."""
    from tests.warming import lengths

    lengths.using(batch_wait=60).enqueue("word")
    session = connect()
    return lambda: session.execute("SELECT state, losses, worker_ids FROM django_ray_execution").fetchone()


@pytest.mark.django_db(transaction=True)
async def test_what_a_claim_brings_after_the_stop_is_given_back(database, gathering, connect, monkeypatch):
    """E1: the stop comes while a claim from the lanes is under way."""
    async with living(database, Instant()) as life:
        claim_lanes, is_stopped = life._store.claim_lanes, Event()

        async def stop_after(*arguments, **options):
            batch = await claim_lanes(*arguments, **options)
            if batch.claims:
                life._stop.intake.cancel()
                for _ in range(20):
                    await checkpoint()  # the host has left its scope, and has cleared what waited
                is_stopped.set()
            return batch

        monkeypatch.setattr(life._store, "claim_lanes", stop_after)
        with fail_after(60):
            await is_stopped.wait()
    assert gathering() == {"state": "WAITING", "losses": 0, "worker_ids": []}
    assert connect().execute("SELECT FROM django_ray_worker WHERE stopped_at IS NULL").fetchall() == []


@pytest.mark.django_db(transaction=True)
async def test_at_two_signals_in_one_moment_what_waits_is_given_back(database, gathering, connect):
    """E2."""
    async with living(database, Instant()) as life:
        with fail_after(60):
            while not life._dispatcher.lanes.claims:  # noqa: ASYNC110 - a claim is under way
                await sleep(0.005)
        life._stop.intake.cancel()
        life._stop.attempts.cancel()
    assert gathering() == {"state": "WAITING", "losses": 0, "worker_ids": []}
    assert connect().execute("SELECT FROM django_ray_worker WHERE stopped_at IS NULL").fetchall() == []
