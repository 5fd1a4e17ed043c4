"""Who is turned away, although the database is in the way: asked again, and never the end of a supervisor."""

import psycopg
import pytest
from anyio import create_task_group, fail_after, sleep

from django_ray_worker.claiming.gatekeeper import Gatekeeper
from django_ray_worker.core.claim import Expired, MadeWay
from django_ray_worker.core.metrics import Metrics

SKIPPED, DONE = (MadeWay(refused=number, stopped=0, has_skipped=not number) for number in (0, 1))


class Scripted:
    """A store that answers as it is told."""

    def __init__(self, *answers, expired=(), late=()):
        self.answers, self.expired, self.late = list(answers), list(expired), list(late)

    async def make_way(self):
        return self._next(self.answers)

    async def expire(self):
        answer = self._next(self.expired) if self.expired else 0
        return answer if isinstance(answer, Expired) else Expired(number=answer, next_in=None, was_due=answer > 0)

    async def settle_late(self):
        return self._next(self.late) if self.late else False

    def _next(self, answers):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def run(gatekeeper, is_done):
    async with create_task_group() as tasks:
        tasks.start_soon(gatekeeper.run)
        with fail_after(20):
            while not is_done():  # noqa: ASYNC110
                await sleep(0.005)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "obstacle", [psycopg.OperationalError("gone"), psycopg.errors.NumericValueOutOfRange("too large"), SKIPPED]
)
async def test_a_full_gate_is_asked_about_again_until_it_is_settled(obstacle):
    store, metrics = Scripted(obstacle, obstacle, DONE), Metrics()
    gatekeeper = Gatekeeper(store, metrics, may_write=lambda: True)
    gatekeeper.look()
    await run(gatekeeper, lambda: metrics.turned_away)
    assert (store.answers, metrics.turned_away) == ([], 1)


async def test_what_is_late_in_a_flow_is_looked_at_again_until_nobody_is_in_the_way():
    nobody = MadeWay(refused=0, stopped=0, has_skipped=False)
    store = Scripted(*[nobody] * 4, late=[True, psycopg.OperationalError("gone"), True, False])
    gatekeeper = Gatekeeper(store, Metrics(), may_write=lambda: True)
    gatekeeper.look()
    await run(gatekeeper, lambda: not store.late)
    assert store.answers == []


async def test_what_has_expired_is_ended_however_many_and_whatever_comes_between():
    store, metrics = Scripted(expired=[psycopg.OperationalError("gone"), 1000, 1000, 7]), Metrics()
    gatekeeper = Gatekeeper(store, metrics, may_write=lambda: True)
    gatekeeper.expire_in(-1)
    await run(gatekeeper, lambda: metrics.expired == 2007)
    assert store.expired == []


async def test_an_expiry_says_when_the_next_one_is():
    """So it comes although no slot is free, and so nobody claims."""
    store, metrics = Scripted(expired=[1, Expired(number=0, next_in=0.05, was_due=False), 1, 0]), Metrics()
    gatekeeper = Gatekeeper(store, metrics, may_write=lambda: True)
    gatekeeper.expire_in(-1)
    await run(gatekeeper, lambda: metrics.expired == 2)
    assert store.expired in ([], [0])


async def test_what_a_claim_says_of_the_next_expiry_during_an_expiry_counts():
    metrics = Metrics()

    class Claimed(Scripted):
        async def expire(self):
            if not metrics.expired:
                gatekeeper.expire_in(0.05)
            return await super().expire()

    store = Claimed(expired=[1, 0, 1, 0])
    gatekeeper = Gatekeeper(store, metrics, may_write=lambda: True)
    gatekeeper.expire_in(-1)
    await run(gatekeeper, lambda: metrics.expired == 2)


async def test_what_has_expired_and_is_locked_is_looked_at_again():
    store, metrics = Scripted(expired=[Expired(number=0, next_in=None, was_due=True), 1]), Metrics()
    gatekeeper = Gatekeeper(store, metrics, may_write=lambda: True)
    gatekeeper.expire_in(-1)
    await run(gatekeeper, lambda: metrics.expired == 1)
