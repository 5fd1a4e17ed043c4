"""How many of a queue run at once in one supervisor, and whose turn it is: `--queue mail:4,images:2,default`."""

from dataclasses import replace

import pytest

from django_ray.models import RayTaskExecution
from django_ray_worker.claiming.backlog import Backlog
from django_ray_worker.claiming.pace import Pace
from django_ray_worker.claiming.quotas import Quotas
from django_ray_worker.claiming.slots import Slots
from django_ray_worker.core.claim import Turns
from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.preflight import find_backend, find_quotas
from tests import tasks
from tests.supervisors import until
from tests.test_backlog import claim


def of_queue(queue, path="tasks.new"):
    return replace(claim(path), queue_name=queue)


def backlog_with(quotas, total=4):
    slots = Slots(total)
    return Backlog(slots, Pace(), most_per_call=250, give_back=print, quotas=quotas), slots


def test_a_queue_that_has_what_it_may_have_is_passed_over():
    quotas = Quotas(["mail", "images"], {"mail": 1})
    backlog, slots = backlog_with(quotas)
    backlog.put([of_queue("mail"), of_queue("images")])
    quotas.take([of_queue("mail")])  # meanwhile
    call = backlog.take()
    slots.take("a call", soon=False)
    assert [one.queue_name for one in call] == ["images"]
    assert [one.queue_name for one in backlog.claims] == ["mail"]
    assert not backlog.is_ready
    quotas.release([of_queue("mail")])
    assert backlog.is_ready


def test_a_call_is_of_one_queue_although_they_come_in_turn():
    known = Pace()
    for _ in range(300):
        known.observe(claim("tasks.short"), 0.0001)
    quotas = Quotas(["mail", "images"], {"mail": 4})
    backlog = Backlog(Slots(2), known, most_per_call=250, give_back=print, quotas=quotas)
    backlog.put([of_queue(queue, "tasks.short") for _ in range(10) for queue in ("mail", "images")])
    assert {one.queue_name for one in backlog.take()} == {"mail"}
    assert {one.queue_name for one in backlog.take()} == {"images"}


def test_what_may_be_claimed():
    quotas = Quotas(["mail", "images", "default"], {"mail": 4, "images": 2})
    for _ in range(2):
        quotas.take([of_queue("images")])
    quotas.take([of_queue("mail")])
    turns = quotas.turns([of_queue("mail")], 1)
    assert turns == Turns(
        queues=["mail", "default"],
        rooms={"mail": 2, "images": 0},
        held={"mail": 2, "images": 2, "default": 0},
    )
    assert quotas.turns([], 10).rooms == {"mail": 30, "images": 0}  # of short ones


def test_it_is_looked_again_when_a_queue_that_was_full_has_room():
    looks = []
    quotas = Quotas(["mail", "images"], {"mail": 1}, on_room=lambda: looks.append(1))
    quotas.take([of_queue("mail")])
    quotas.take([of_queue("images")])
    quotas.note(quotas.turns([], 1), [])
    quotas.release([of_queue("images")])
    assert looks == []
    quotas.release([of_queue("mail")])
    assert looks == [1]


def test_a_call_that_ends_while_a_claim_is_under_way_is_not_missed():
    """What the claim has left of its queue nobody rings for again."""
    looks = []
    quotas = Quotas(["mail", "default"], {"mail": 1}, on_room=lambda: looks.append(1))
    quotas.note(quotas.turns([], 10), [of_queue("mail")])  # it had room for ten
    quotas.take([of_queue("mail")])
    turns = quotas.turns([], 10)
    assert turns.queues == ["default"]
    quotas.ask()
    quotas.release([of_queue("mail")])
    quotas.note(turns, [])
    assert looks == [1]


def test_a_claim_that_is_cancelled_while_it_waits_makes_room():
    looks = []
    quotas = Quotas(["mail", "images"], {"mail": 1}, on_room=lambda: looks.append(1))
    backlog, slots = backlog_with(quotas, total=1)
    slots.take("something", soon=False)
    backlog.put([of_queue("mail")])
    backlog.remove(backlog.claims[0])
    assert looks == [1]


def test_what_no_call_of_its_queue_can_carry_goes_back_at_once():
    quotas, given_back = Quotas(["mail", "images"], {"mail": 2}), []
    backlog = Backlog(Slots(8), Pace(), most_per_call=250, give_back=given_back.append, quotas=quotas)
    mails = [of_queue("mail") for _ in range(5)]
    backlog.put([*mails, of_queue("images")])
    assert given_back == mails[2:]
    assert len(backlog.claims) == 3


def test_the_calls_of_a_queue_share_what_it_has_among_those_that_it_may_have():
    known = Pace()
    for _ in range(300):
        known.observe(claim("tasks.short"), 0.0001)
    quotas = Quotas(["mail"], {"mail": 1})
    backlog = Backlog(Slots(8), known, most_per_call=250, give_back=print, quotas=quotas)
    backlog.put([of_queue("mail", "tasks.short") for _ in range(40)])
    assert len(backlog.take()) == 40  # not a part for each of eight slots


def test_for_how_many_more_slots_would_help():
    quotas = Quotas(["mail", "images", "default"], {"mail": 4, "images": 1})
    quotas.take([of_queue("images")])
    quotas.take([of_queue("mail")])
    assert quotas.parts == [(["default"], None), (["mail"], 3)]
    assert Quotas(["mail"]).parts == [(None, None)]


def test_without_quotas_nothing_is_asked():
    quotas = Quotas(["mail"])
    assert quotas.turns([of_queue("mail")], 1) is None


async def test_of_one_priority_the_next_is_of_the_queue_that_has_the_fewest_here(open_store, insert):
    store, worker = await open_store(queues=("default", "other"))
    for _ in range(6):
        insert()
    others = [insert(queue_name="other") for _ in range(3)]
    urgent = insert(priority=5)
    batch = await store.claim(
        worker, 5, turns=Turns(queues=["default", "other"], rooms={"default": 4}, held={"default": 2, "other": 0})
    )
    assert batch.claims[0].task_id == urgent
    # Two of default are here, and the urgent one is a third: the next ones are of the other queue.
    assert {claim.task_id for claim in batch.claims} >= set(others)
    assert [claim.queue_name for claim in batch.claims].count("default") == 2


async def test_no_more_of_a_queue_is_claimed_than_it_has_room_for(open_store, insert):
    store, worker = await open_store(queues=("default", "other"))
    for _ in range(6):
        insert()
    other = insert(queue_name="other")
    turns = Turns(queues=["default", "other"], rooms={"default": 2}, held={})
    batch = await store.claim(worker, 10, turns=turns)
    assert sorted(claim.queue_name for claim in batch.claims) == ["default", "default", "other"]
    assert other in {claim.task_id for claim in batch.claims}
    full = Turns(queues=["other"], rooms={"default": 0}, held={})
    assert (await store.claim(worker, 10, turns=full)).claims == ()


async def test_what_waits_behind_a_gate_is_bound_as_well(open_store, insert):
    store, worker = await open_store(queues=("default", "other"))
    for _ in range(5):
        insert(state="WAITING", gate="shop:7", gate_rule='{"limit": 10}')
    other = insert(queue_name="other")
    turns = Turns(queues=["default", "other"], rooms={"default": 2}, held={})
    batch = await store.claim(worker, 10, turns=turns)
    assert sorted(claim.queue_name for claim in batch.claims) == ["default", "default", "other"]
    assert other in {claim.task_id for claim in batch.claims}


async def test_what_a_quota_has_left_is_locked_by_nobody(open_store, insert, connect):
    store, worker = await open_store(queues=("default", "other"))
    for _ in range(6):
        insert()
    turns = Turns(queues=["default", "other"], rooms={"default": 2}, held={})
    assert not (await store.claim(worker, 10, turns=turns)).has_skipped
    session = connect()
    with session.transaction():
        locked = insert(queue_name="other")
        session.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [locked])
        assert (await store.claim(worker, 10, turns=turns)).has_skipped


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("said", "names", "quotas"),
    [
        (["default:4", "other"], ["default", "other"], {"default": 4}),
        (["default", "default:2"], ["default", "default"], {"default": 2}),
        (["a:b"], ["a:b"], {}),  # a name
        (["shop:7:3"], ["shop:7"], {"shop:7": 3}),
        (["other:"], ["other:"], {}),
    ],
)
def test_what_the_command_line_says(said, names, quotas):
    assert find_quotas(find_backend("default"), said) == (names, quotas)


@pytest.mark.parametrize(
    "said", ["mail:0", "mail:-1", "mail:2.5", "mail:999999999", "mail:100001", ":4", "mail:" + "9" * 5000]
)
def test_a_number_that_cannot_be_meant_is_refused(said):
    with pytest.raises(Misconfigured, match="a whole number from 1 to 100,000, as in mail:4"):
        find_quotas(find_backend("default"), [said])


def test_two_numbers_are_refused():
    with pytest.raises(Misconfigured, match="--queue 'mail' has two numbers, 4 and 5"):
        find_quotas(find_backend("default"), ["mail:4", "mail:5"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_many_mails_do_not_hold_up_an_image(listen, tmp_path):
    supervisor = listen("--local", "--concurrency", "3", "--queue", "default:2,other")
    assert "default (at most 2 at once), other" in supervisor.wait_for("is ready", timeout=180)
    (tmp_path / "mails").mkdir()
    mails = [tasks.hold.enqueue(str(tmp_path / "mails"), f"{number}") for number in range(20)]

    def held():
        return {path.stem for path in (tmp_path / "mails").iterdir() if path.suffix != ".go"}

    until(lambda: len(held()) == 2, what="two mails")
    image = tasks.touch_and_wait.using(queue_name="other").enqueue(str(tmp_path / "image"))
    until((tmp_path / "image").exists, what="the image, which has the third slot")
    for number in range(4):
        (tmp_path / "mails" / f"{number}.go").touch()
        until(lambda begun=number + 3: len(held()) == begun, what="the next mail")
        # Two, and what has ended and is not written yet.
        assert RayTaskExecution.objects.filter(queue_name="default", state="RUNNING").count() <= 3
    (tmp_path / "image.go").touch()
    image.wait(timeout=60)
    # The free slot stays free: the quota is a bound.
    assert tasks.add.using(queue_name="other").enqueue(1, 2).wait(timeout=60).return_value == 3
    assert len(held()) == 6
    for mail in mails:
        mail.cancel()
