"""Where calls run, on Ray or in this process: what is asked of it, and how it is started, and started again.

When Ray is gone, nothing that it ran is charged: all of it is released, Ray is started again, and the claimer looks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from anyio import sleep

from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.core.tries import backoff, is_news

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django_ray.runtime.snapshot import Snapshot
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.running.answer import Answer, NoAnswer

__all__ = ["Executor", "Guard", "restart_when_gone", "start"]

log = logging.getLogger("django_ray.supervisor")

# Brackets what starts or ends Ray, which takes the signal handlers meanwhile.
type Guard = Callable[[], AbstractAsyncContextManager[None]]


class Executor(Protocol):
    """Runs calls."""

    @property
    def address(self) -> str:
        """Where it is, for people."""
        ...

    @property
    def cpus(self) -> int:
        """How many executions it can run at a time."""
        ...

    @property
    def is_usable(self) -> bool:
        """Tell whether there is anything to run on."""
        ...

    @property
    def most_per_call(self) -> int:
        """How many claims one call may carry."""
        ...

    @property
    def is_stuck(self) -> bool:
        """Tell whether a thread hangs in it for good, so that this process can only end."""
        ...

    @property
    def resources(self) -> Mapping[str, float] | None:
        """What it had in all when it looked last, by Ray's names; None where that is no question."""
        ...

    @property
    def replicas(self) -> Mapping[str, int]:
        """How many processes stay for each worker, by its path."""
        ...

    def places(self, claim: Claim) -> int:
        """Return how many calls like that of this claim may run at a time, beside the slots, as far as is known."""
        ...

    def grow(self, claim: Claim) -> None:
        """Have more places for calls like that of this claim, if there may be."""
        ...

    def lacks(self, claim: Claim) -> dict[str, float]:
        """Return what the claim asks for and there was not in all when it looked last."""
        ...

    async def look(self) -> None:
        """Look again what there is."""
        ...

    def glance(self) -> None:
        """Look again soon: it may have grown, or shrunk."""
        ...

    async def until_resized(self) -> None:
        """Return when it can run another number of executions at a time."""
        ...

    async def until_changed(self) -> None:
        """Return when it has other resources or replicas than before, or is asked for other room."""
        ...

    @property
    def wanted(self) -> int:
        """How many executions it was asked to have room for, and has none yet."""
        ...

    def want(self, places: int) -> None:
        """Have it asked for room for so many executions more, which wait elsewhere."""
        ...

    async def run(self, claims: Sequence[Claim]) -> Answer | NoAnswer:
        """Run the claims one after the other. When cancelled: stop what runs, and return what the others became."""
        ...

    async def snapshot(self, claims: Sequence[Claim]) -> Snapshot | None:
        """Return what the body of one of these does now; None when none is found."""
        ...

    async def start(self) -> None:
        """Make it ready. OSError when that may work later, Misconfigured when not, Stuck when that hangs."""
        ...

    async def until_gone(self) -> str:
        """Return when it is gone; says why."""
        ...

    async def abandon(self) -> None:
        """Give up what runs on it, now that it is gone: every attempt is interrupted. Stuck when that hangs."""
        ...

    async def close(self) -> None:
        """End it."""
        ...


async def start(executor: Executor, guard: Guard, *, waits_out: tuple[type[Exception], ...] = (OSError,)) -> None:
    """Start it, however long that takes."""
    tries = 0
    while True:
        try:
            async with guard():
                await executor.start()
        except* waits_out as errors:
            reason = str(errors.exceptions[0])
        else:
            return
        wait = backoff(tries)
        if is_news(tries):
            log.warning("%s Again in %.1f s.", reason, wait)
        tries += 1
        await sleep(wait)


async def restart_when_gone(executor: Executor, guard: Guard, *, on_gone: Callable[[], None]) -> None:
    """Wait until it is gone, give up what ran on it, start it again; return when it is back."""
    reason = await executor.until_gone()
    log.warning("%s Releasing what it ran, and starting Ray again.", reason)
    on_gone()
    async with guard():
        await executor.abandon()
    # What may be wrong with it now was not when it started first.
    await start(executor, guard, waits_out=(OSError, Misconfigured))
    log.info("Ray is back: %s", executor.address)
