"""Who watches executions."""

import asyncio
import itertools

from django_ray.models import RayTaskExecution

SECONDS = 60


async def collect(result, seen=None):
    """Return all updates; each goes to seen as well, as soon as it is there."""
    found = []
    async with asyncio.timeout(SECONDS):
        async for update in result.updates():
            found.append(update)
            if seen is not None:
                seen.append(update)
    return found


def messages(updates):
    """Return what they say, once for each value."""
    return [message for message, _ in itertools.groupby(update.message for update in updates)]


def lines(updates):
    return "\n".join(update.output for update in updates if update.output).split("\n")


async def go(directory, step):
    await asyncio.to_thread((directory / str(step)).touch)


async def come(condition):
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def watched(result):
    """Return when somebody watches. Not until(), which would hold the thread that the viewer needs."""
    async with asyncio.timeout(SECONDS):
        while not await RayTaskExecution.objects.filter(pk=result.id, awaited=True).aexists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def seen_by_all(seen, message):
    await come(lambda: all(any(update.message == message for update in one) for one in seen))
