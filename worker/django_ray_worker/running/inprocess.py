"""--sync: a second executor of the same shape. The body runs in a thread of this process, one at a time.

For debugging: no Ray, breakpoints work. A thread cannot be stopped: a cancelled body is left alone, and runs on until
it returns or the process ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from anyio import CancelScope, create_task_group, current_time, sleep, sleep_forever, to_thread

from django_ray.clock import seconds as clock
from django_ray.runtime.entrypoint import Envelope, envelope_of, invoke
from django_ray.runtime.limits import Limits
from django_ray.runtime.preparation import settle_in
from django_ray.runtime.snapshot import Snapshot, told_here
from django_ray_worker.core.outcome import Stalled, TimedOut
from django_ray_worker.running.answer import Answer, NoAnswer, outcome_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django_ray_worker.core.claim import Claim

__all__ = ["InProcessExecutor"]


class InProcessExecutor:
    """Runs claims here."""

    address = "none: tasks run in this process"
    cpus = 1

    resources = None
    replicas: Mapping[str, int] = MappingProxyType({})
    wanted = 0
    is_usable = True
    is_stuck = False
    most_per_call = 1

    def places(self, claim: Claim) -> int:  # noqa: ARG002
        """There is one thread."""
        return 1

    def grow(self, claim: Claim) -> None:
        """There is never more."""

    def lacks(self, claim: Claim) -> dict[str, float]:  # noqa: ARG002
        """There is one process, and it is here."""
        return {}

    async def look(self) -> None:
        """There is never more."""

    def glance(self) -> None:
        """There is never more."""

    async def until_resized(self) -> None:
        """Never return."""
        await sleep_forever()

    async def until_changed(self) -> None:
        """Never return."""
        await sleep_forever()

    def want(self, places: int) -> None:
        """There is never more."""

    async def until_gone(self) -> str:
        """Never return: it ends with us."""
        await sleep_forever()
        raise AssertionError

    async def abandon(self) -> None:
        """Nothing to abandon."""

    async def start(self) -> None:
        """Nothing to start but to make this process a place for bodies."""
        await to_thread.run_sync(settle_in)  # Django asks for a thread

    async def close(self) -> None:
        """Nothing to close."""

    async def run(self, claims: Sequence[Claim]) -> Answer | NoAnswer:
        """Run them in a thread, one after the other."""
        if len(claims) == 1:
            return await self._run(claims[0])
        answers = [await self._run(claim) for claim in claims]
        return Answer(
            outcomes=[one.outcomes[0] if isinstance(one, Answer) else one.outcome for one in answers],
            seconds=[one.seconds[0] if isinstance(one, Answer) else 0.0 for one in answers],
            outputs=[one.outputs[0] if isinstance(one, Answer) else "" for one in answers],
            settled=frozenset(index for index, one in enumerate(answers) if isinstance(one, Answer) and one.settled),
        )

    async def snapshot(self, claims: Sequence[Claim]) -> Snapshot | None:  # noqa: ARG002
        """There is one body at a time."""
        return told_here()

    async def _run(self, claim: Claim) -> Answer | NoAnswer:
        began, limits = current_time(), Limits(claim.options.timeout, claim.options.stall_timeout)
        limits.begin()
        async with create_task_group() as race:
            race.start_soon(_watch, limits, race.cancel_scope)
            envelope = await to_thread.run_sync(_invoke, claim.payload, limits, abandon_on_cancel=True)
            race.cancel_scope.cancel()
            return Answer(
                outcomes=[outcome_of(envelope)],
                seconds=[current_time() - began],
                outputs=[envelope["output"]],
                settled=frozenset({0} if envelope.get("is_settled") else ()),
            )
        assert limits.overrun is not None  # noqa: S101
        seconds, has_stalled = limits.overrun
        return NoAnswer(Stalled(seconds) if has_stalled else TimedOut(seconds))


async def _watch(limits: Limits, running: CancelScope) -> None:
    """Cancel what runs when it has overrun its limits."""
    while limits.due() < math.inf:
        if limits.overrun is not None:
            running.cancel()
            return
        await sleep(max(0, limits.due() - clock()))


def _invoke(payload: str, limits: Limits) -> Envelope:
    try:
        return invoke(payload, limits=limits)
    except BaseException as error:  # noqa: BLE001 - what would end a Ray worker is no stop of ours
        return envelope_of("raised", error)
