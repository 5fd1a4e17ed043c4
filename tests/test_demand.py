"""What a supervisor asks of a cluster that may grow: its part of what waits, and nothing when nothing waits."""

import pytest
from anyio import Event, create_task_group, fail_after, sleep

from django_ray_worker.claiming.demand import LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Demand
from django_ray_worker.claiming.slots import Slots
from django_ray_worker.core.claim import Backlogged

pytestmark = pytest.mark.django_db(transaction=True)


class Places:
    """A cluster that notes what it is asked for."""

    def __init__(self, cpus=0):
        self.cpus = cpus
        self.wanted = 0
        self.asked = []
        self.resized = Event()

    def want(self, places):
        self.wanted = places
        self.asked.append(places)

    async def until_resized(self):
        await self.resized.wait()
        self.resized = Event()


class Queue:
    """So much waits."""

    def __init__(self, waiting):
        self.number = waiting

    async def waiting(self, most, queues=None):
        return Backlogged(number=min(self.number, most), next_due=None)


async def nobody():
    """Listen to nothing."""


def ask(demand, places):
    demand._ask_for(places)


async def test_each_supervisor_asks_for_its_part_of_what_waits(open_store, insert):
    for _ in range(5):
        insert()
    insert(queue_name="elsewhere")
    store, _ = await open_store()
    assert (await store.waiting(1000)).number == 5
    assert (await store.waiting(3)).number == 3
    await open_store()
    assert (await store.waiting(1000)).number == 3


async def test_what_is_overdue_and_what_is_behind_gates_waits_too(open_store, insert):
    """Where there is no slot, nobody promotes or admits it."""
    store, _ = await open_store()
    assert (await store.waiting(1000)) == Backlogged(number=0, next_due=None)
    insert(due_at="2100-01-01")
    found = await store.waiting(1000)
    assert found.number == 0
    assert found.next_due > 3600
    insert(due_at="2020-01-01")
    insert(gate="g", gate_rule='{"limit": 1}')
    assert (await store.waiting(1000)).number == 2
    anybody, _ = await open_store(queues=None)
    assert (await anybody.waiting(1000)).number == 1


def test_a_few_places_first_and_twice_as_many_as_long_as_they_are_not_there():
    places = Places()
    demand = Demand(Queue(0), places, most=None, on_resized=lambda: None, listen=nobody)
    for _ in range(6):
        ask(demand, 20)
    assert places.asked == [1, 2, 4, 8, 16, 20]


def test_what_gets_places_that_were_there_already_is_asked_for_more_seldom():
    places = Places(cpus=2)
    demand = Demand(Queue(0), places, most=None, on_resized=lambda: None, listen=nobody)
    for _ in range(10):
        ask(demand, 20)
        places.wanted = 0  # they ran between two bodies
    assert places.asked == [1] * 10
    assert demand._pause == LONGEST_PAUSE_SECONDS
    ask(demand, 0)
    assert demand._pause == PAUSE_SECONDS


def test_a_cluster_that_has_grown_is_asked_for_more():
    places = Places()
    demand = Demand(Queue(0), places, most=None, on_resized=lambda: None, listen=nobody)
    ask(demand, 20)
    places.wanted, places.cpus = 0, 1
    ask(demand, 20)
    assert places.asked == [1, 2]


async def test_it_goes_on_asking_until_it_has_asked_for_all_of_it_and_is_told_of_more():
    places, told = Places(), Event()

    async def listen():
        told.set()

    demand = Demand(Queue(3), places, most=None, on_resized=lambda: None, listen=listen)
    async with create_task_group() as tasks:
        tasks.start_soon(demand.run)
        demand.crowd()
        with fail_after(60):
            await told.wait()
            while places.wanted < 3:  # noqa: ASYNC110 - it is in another task's hands
                await sleep(0.005)
        tasks.cancel_scope.cancel()
    assert places.asked == [1, 2, 3]


async def test_nothing_is_asked_for_when_nothing_waits():
    places, slots = Places(), []
    demand = Demand(Queue(7), places, most=4, on_resized=lambda: slots.append(places.cpus), listen=nobody)
    async with create_task_group() as tasks:
        tasks.start_soon(demand.run)
        demand.crowd()
        with fail_after(60):
            while places.wanted < 1:  # noqa: ASYNC110 - it is in another task's hands
                await sleep(0.005)
            demand.calm()
            while places.wanted:  # noqa: ASYNC110
                await sleep(0.005)
            places.cpus = 9
            places.resized.set()
            while slots != [0, 9]:  # noqa: ASYNC110
                await sleep(0.005)
        tasks.cancel_scope.cancel()
    assert places.asked == [1, 0]


async def test_what_was_asked_for_is_not_wanted_any_more_when_a_peer_has_taken_what_waited(monkeypatch):
    """The look how much waits is over by then, and the next one comes when somebody is crowded again."""
    monkeypatch.setattr("django_ray_worker.claiming.demand.PAUSE_SECONDS", 0.02)
    places = Places()
    demand = Demand(Queue(1), places, most=4, on_resized=lambda: None, listen=nobody)
    async with create_task_group() as tasks:
        tasks.start_soon(demand.run)
        demand.crowd()
        with fail_after(60):
            while places.wanted < 1:  # noqa: ASYNC110
                await sleep(0.005)
        await sleep(0.1)  # longer than it waits to be calmed
        demand.calm()
        assert places.wanted == 0
        tasks.cancel_scope.cancel()


def test_slots_that_are_taken_away_are_not_given_out_again():
    slots = Slots(2, 2)
    for number in range(2):
        slots.take(number, soon=True)
    slots.take(2, soon=True)
    assert slots.ahead == (2,)
    slots.resize(1, 1)
    assert (slots.free, slots.taken) == (-1, 2)
    slots.release(0)
    assert (slots.free, slots.ahead) == (0, (2,))
    slots.resize(3, 3)
    assert (slots.free, slots.ahead) == (1, ())


async def test_only_what_more_slots_would_help_is_counted(open_store, insert):
    store, _ = await open_store(queues=("default", "other"))
    for queue in ("default", "default", "other"):
        insert(queue_name=queue)
    assert (await store.waiting(1000, ["other"])).number == 1
    assert (await store.waiting(1000, [])).number == 0
    assert (await store.waiting(1000, None)).number == 3
