"""What an idle supervisor costs."""

import asyncio

from tests.supervisors import Instant, living


async def test_an_idle_supervisor_does_not_wake_up(database, sleepers, monkeypatch):
    """Counted where the event loop waits. What wakes it is an event, or nothing."""
    selector = asyncio.get_running_loop()._selector
    select, woken = selector.select, 0

    def counted(timeout=None):
        nonlocal woken
        woken += 1
        return select(timeout)

    async with living(database, Instant()):
        while not await asyncio.to_thread(sleepers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # what follows the announcement
        monkeypatch.setattr(selector, "select", counted)
        for _ in range(3):  # what wakes it again and again is in each of them
            woken = 0
            await asyncio.sleep(2)
            if woken <= 4:
                break
        # This test's own timer, and whatever else happened once.
        assert woken <= 4
