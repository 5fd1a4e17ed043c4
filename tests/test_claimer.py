"""The claimer's loop, with nothing behind it."""

import asyncio
from types import SimpleNamespace

from anyio import Lock

from django_ray_worker.claimer import Claimer, Wakeup
from django_ray_worker.slots import Slots


async def test_a_due_time_without_a_session_does_not_spin():
    """A7: the database is away and a scheduled row falls due."""
    wakeup = Wakeup()
    turns = 0

    def may_not_claim():
        nonlocal turns
        turns += 1
        return False

    claimer = Claimer(
        SimpleNamespace(),
        worker=1,
        may_claim=may_not_claim,
        doorbell=SimpleNamespace(),
        slots=Slots(1, on_free=wakeup.nudge),
        wakeup=wakeup,
        claiming=Lock(),
        on_doubt=lambda: None,
        start=lambda claim: None,
    )
    claimer._due = float("-inf")
    running = asyncio.create_task(claimer.run())
    for _ in range(200):
        await asyncio.sleep(0)
    running.cancel()
    assert turns <= 2
