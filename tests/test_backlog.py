"""How claims share calls: Pace and Backlog, which know no clock and no database."""

from uuid import uuid4

import pytest
from anyio import Event, create_task_group, fail_after, sleep, sleep_forever, wait_all_tasks_blocked

from django_ray.requirements import TaskOptions
from django_ray.runtime.call import BUDGET_SECONDS, PATIENCE_SECONDS
from django_ray_worker.claiming.backlog import Backlog
from django_ray_worker.claiming.pace import MOST_TASKS, Pace
from django_ray_worker.claiming.slots import Slots
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.policy import Release
from django_ray_worker.recording.tally import Tally
from django_ray_worker.running.dispatcher import MOST_PARKED, Dispatcher
from tests.supervisors import Instant


def claim(path="tasks.short", unfit="", **options):
    return Claim(
        task_id=uuid4(),
        attempt=1,
        worker=1,
        queue_name="default",
        callable_path=path,
        options=TaskOptions(**options),
        unfit=unfit,
        failures=0,
        losses=0,
        missing_for=0.0,
        waited=0.0,
        payload="{}",
    )


@pytest.fixture
def pace():
    known = Pace()
    for _ in range(300):
        known.observe(claim("tasks.short"), 0.0001)
        known.observe(claim("tasks.medium"), BUDGET_SECONDS / 4)
        known.observe(claim("tasks.long"), 2.0)
    return known


class Endless(Instant):
    """Runs for ever; has no node for what is impossible."""

    most_per_call = 250

    def __init__(self):
        super().__init__()
        self.running = []
        self.has_two = Event()

    def lacks(self, claim):
        return {"GPU": 1.0} if "impossible" in claim.callable_path else {}

    async def run(self, claims):
        self.running.extend(claims)
        if len(self.running) == 2:
            self.has_two.set()
        await sleep_forever()


def backlog_of(pace, total=2, most=250, ahead=0):
    given_back: list = []
    slots = Slots(total, ahead)
    return Backlog(slots, pace, most_per_call=most, give_back=given_back.append), slots, given_back


def test_a_task_that_was_never_seen_is_expected_to_fill_a_call():
    assert Pace().of(claim("tasks.new")) >= BUDGET_SECONDS


def test_one_body_that_was_held_up_changes_little(pace):
    before = pace.of(claim())
    pace.observe(claim(), 0.05)
    assert pace.of(claim()) < before + 0.001


def test_a_long_one_now_and_then_leaves_the_others_together(pace):
    for _ in range(5):
        pace.observe(claim(), 2.0)
        for _ in range(99):
            pace.observe(claim(), 0.0001)
    assert pace.of(claim()) < BUDGET_SECONDS / 10


def test_after_a_loss_a_task_runs_alone_for_a_while(pace):
    pace.distrust(claim())
    for _ in range(100):
        assert pace.of(claim()) > BUDGET_SECONDS / 2
        pace.observe(claim(), 0.0001)
    for _ in range(400):
        pace.observe(claim(), 0.0001)
    assert pace.of(claim()) < BUDGET_SECONDS / 10


def test_tasks_without_end_are_forgotten_in_the_end():
    pace = Pace()
    for number in range(MOST_TASKS + 5):
        pace.observe(claim(f"tasks.number_{number}"), 0.001)
    assert pace.of(claim("tasks.number_0")) == BUDGET_SECONDS
    assert pace.of(claim(f"tasks.number_{MOST_TASKS}")) < BUDGET_SECONDS


def test_at_first_there_is_room_for_one_per_free_slot(pace):
    backlog, slots, _ = backlog_of(pace)
    assert backlog.room() == 2
    slots.take(object(), soon=False)
    assert backlog.room() == 1
    slots.take(object(), soon=False)
    assert backlog.room() == 0


def test_short_ones_are_claimed_ahead_for_slots_that_will_be_free_soon(pace):
    backlog, slots, _ = backlog_of(pace)
    backlog.put([claim()] * 2)
    backlog.take()
    backlog.take()
    slots.take("a short one", soon=True)
    slots.take("a long one", soon=False)
    assert 100 < backlog.room() <= 250
    slots.release("a short one")
    slots.take("another long one", soon=False)
    assert backlog.room() == 0


def test_one_is_claimed_ahead_where_calls_hold_one_and_end_soon(pace):
    backlog, slots, _ = backlog_of(pace)
    for _ in range(300):
        pace.observe(claim("tasks.of_50_ms"), 0.05)
    backlog.put([claim("tasks.of_50_ms")] * 2)
    for _ in range(2):
        slots.take(object(), soon=backlog.is_short(backlog.take()))
    assert backlog.room() == 2


def test_long_ones_are_never_claimed_ahead(pace):
    backlog, slots, _ = backlog_of(pace)
    backlog.put([claim("tasks.long")] * 2)
    for _ in range(2):
        slots.take(object(), soon=backlog.is_short(backlog.take()))
    assert backlog.room() == 0


def test_who_has_not_been_seen_is_not_expected_to_end_soon(pace):
    backlog, _, _ = backlog_of(pace)
    assert backlog.is_short([claim()] * 10)
    assert not backlog.is_short([claim("tasks.new")])
    assert not backlog.is_short([claim("tasks.long")])


def test_a_call_holds_what_fits_in_order_and_spread_over_the_free_slots(pace):
    backlog, slots, _ = backlog_of(pace)
    claims = [claim() for _ in range(10)]
    backlog.put(claims)
    assert backlog.take() == claims[:5]
    slots.take(object(), soon=False)
    assert backlog.take() == claims[5:]


def test_a_call_is_over_when_its_time_is_spent(pace):
    backlog, _, _ = backlog_of(pace, total=1)
    backlog.put([claim("tasks.medium") for _ in range(6)])
    assert [len(backlog.take()), len(backlog.take())] in ([4, 2], [3, 3])  # the mean is a float


@pytest.mark.parametrize(
    "other",
    [
        claim(ray={"num_cpus": 2}),
        claim(timeout=5.0),
        claim(unfit="no such option"),
        claim("tasks.long"),
        claim("tasks.new"),
    ],
)
def test_what_does_not_fit_runs_in_a_call_of_its_own(pace, other):
    backlog, _, _ = backlog_of(pace, total=1)
    first = claim()
    backlog.put([first, other])
    assert backlog.take() == [first]
    assert backlog.take() == [other]


@pytest.mark.parametrize("options", [{"ray": {"max_calls": 1}}, {"timeout": 0.5}])
def test_a_fresh_process_or_a_short_timeout_is_for_one(pace, options):
    backlog, _, _ = backlog_of(pace, total=1)
    backlog.put([claim(**options), claim(**options)])
    assert len(backlog.take()) == 1


def test_without_ray_each_has_a_call(pace):
    backlog, _, _ = backlog_of(pace, total=1, most=1)
    backlog.put([claim(), claim()])
    assert len(backlog.take()) == 1


def test_what_turns_out_longer_than_those_before_is_given_back_but_for_what_runs_soon(pace):
    backlog, slots, given_back = backlog_of(pace)
    backlog.put([claim()])
    backlog.take()
    slots.take(object(), soon=False)
    slots.take(object(), soon=False)
    long = [claim("tasks.long") for _ in range(300)]
    backlog.put(long)
    assert len(backlog) + len(given_back) == 300
    assert len(backlog) <= 10
    assert list(backlog.claims) == long[: len(backlog)]


def test_after_a_return_to_the_queue_what_is_claimed_ahead_grows_call_by_call(pace):
    """K3: or the same executions would go round while the slots are held up again and again."""
    backlog, _, given_back = backlog_of(pace)
    backlog.put([claim() for _ in range(50)])
    backlog.clear()
    assert len(given_back) == 50
    rooms = []
    for _ in range(4):
        backlog.put([claim()])
        backlog.take()
        rooms.append(backlog.room())
    assert rooms == [2, 4, 8, 16]


async def test_what_waits_while_nothing_moves_is_given_back(pace):
    backlog, slots, given_back = backlog_of(pace)
    slots.take(object(), soon=False)
    slots.take(object(), soon=False)
    async with create_task_group() as tasks:
        tasks.start_soon(backlog.watch)
        waiting = [claim(), claim()]
        backlog.put(waiting)
        with fail_after(PATIENCE_SECONDS * 50):
            while len(given_back) < 2:  # noqa: ASYNC110
                await sleep(0.01)
        tasks.cancel_scope.cancel()
    assert given_back == waiting
    assert len(backlog) == 0


def test_a_call_is_sent_ahead_for_each_that_should_end_soon():
    slots = Slots(3, ahead=2)
    slots.take("a", soon=True)
    assert (slots.free, slots.free_ahead) == (2, 0), "first what can run"
    slots.take("b", soon=False)
    slots.take("c", soon=True)
    assert (slots.free, slots.free_ahead) == (0, 2)
    slots.take("d", soon=True)
    assert (slots.taken, slots.free_ahead, slots.ahead) == (3, 1, ("d",)), "one more, however short those ahead are"
    slots.release("c")
    assert (slots.taken, slots.ahead, slots.free_ahead) == (3, (), 2), "it runs, in the place of the other"
    slots.take("e", soon=False)
    slots.release("e")
    assert slots.ahead == ()
    slots.hold_up()
    assert (slots.taken, slots.free_ahead) == (3, 0), "those that run are not short after all"


@pytest.mark.parametrize(("cpus", "is_sent"), [({}, True), ({"num_cpus": 1}, True), ({"num_cpus": 0.5}, False)])
def test_what_ray_would_run_at_once_is_not_sent_ahead(pace, cpus, is_sent):
    backlog, slots, _ = backlog_of(pace, total=1, ahead=1)
    slots.take("runs", soon=True)
    backlog.put([claim("tasks.medium", ray=cpus)])
    assert backlog.is_ready is is_sent


@pytest.mark.parametrize(("task", "is_sent"), [("tasks.short", False), ("tasks.medium", True)])
def test_where_a_call_carries_many_none_is_sent_ahead(pace, task, is_sent):
    """At half load calls would only become smaller, and each of them costs."""
    backlog, slots, _ = backlog_of(pace, total=1, ahead=1)
    slots.take("runs", soon=True)
    room = backlog.room()
    backlog.put([claim(task)])
    assert (backlog.is_ready, room > 0) == (is_sent, True)


async def test_what_waits_behind_long_ones_is_taken_back(pace):
    """K3: here there is no Ray to say that it has not begun; so it was interrupted."""
    records = []
    executor = Endless()
    dispatcher = Dispatcher(executor, 1, Tally(None), record=records.append, on_free=lambda: None, ahead=1)
    dispatcher._pace = dispatcher._backlog._pace = pace
    first, ahead, behind = claim("tasks.medium"), claim("tasks.medium"), claim("tasks.medium")
    async with create_task_group() as calls, create_task_group() as waits:
        dispatcher.open(calls, waits)
        for one in (first, ahead, behind):
            dispatcher.start([one])
        with fail_after(20):
            await executor.has_two.wait()
        assert (executor.running, dispatcher.busy, dispatcher.running) == ([first, ahead], 1, 2)
        with fail_after(PATIENCE_SECONDS * 50):
            while len(records) < 2:  # noqa: ASYNC110
                await sleep(0.01)
        assert {record.claim.task_id for record in records} == {ahead.task_id, behind.task_id}
        assert {type(record.verdict) for record in records} == {Release}
        assert (dispatcher.held, dispatcher.room) == ({first.task_id}, 0)
        calls.cancel_scope.cancel()
        waits.cancel_scope.cancel()


async def test_a_hundred_that_no_node_can_run_are_parked_and_the_rest_is_released_for_later(pace):
    """G3: they hold no slot, and a queue full of them is not claimed without end."""
    records = []
    executor = Endless()
    dispatcher = Dispatcher(executor, 2, Tally(None), record=records.append, on_free=lambda: None)
    async with create_task_group() as calls, create_task_group() as waits:
        dispatcher.open(calls, waits)
        for _ in range(MOST_PARKED + 5):
            dispatcher.start([claim("tasks.impossible")])
            await wait_all_tasks_blocked()  # the cluster has been looked at
        dispatcher.start([claim("tasks.possible")])
        await wait_all_tasks_blocked()
        assert len(executor.running) == MOST_PARKED + 1
        assert executor.running[-1].callable_path == "tasks.possible"
        assert [record.verdict for record in records] == [Release(after=15.0, has_begun=False)] * 5
        assert dispatcher.room == 1
        calls.cancel_scope.cancel()
        waits.cancel_scope.cancel()
