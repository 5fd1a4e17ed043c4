"""One attempt: run the claim, ask the policy, hand the verdict to the recorder.

Whatever happens to it, an attempt reports exactly once, unless this process dies. Being cancelled is being interrupted:
the work is stopped on the executor first, and the execution released.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Protocol

from anyio import CancelScope, get_cancelled_exc_class, move_on_after

from django_ray_worker.envelope import refused
from django_ray_worker.outcome import Cancelled, Interrupted, Lost, Outcome, TimedOut
from django_ray_worker.policy import Fail, Retry, Verdict, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray_worker.claim import Claim

__all__ = ["Attempt", "Executor", "abandoned", "released"]

log = logging.getLogger("django_ray.attempt")


class Executor(Protocol):
    """Where claims run: on Ray, or in this process."""

    def can_place(self, claim: Claim) -> bool:
        """Tell whether there is, in all, what the claim asks for."""
        ...

    async def run(self, claim: Claim) -> Outcome:
        """Run the claim. When cancelled: stop the work first; return its outcome if it was faster, else raise."""
        ...


class Attempt:
    """One claim on its way to its verdict."""

    def __init__(self, claim: Claim, executor: Executor, report: Callable[[Claim, Verdict], None]) -> None:
        self.claim = claim
        self._executor = executor
        self._report = report
        self._wanted = CancelScope()

    def cancel(self) -> None:
        """Stop the body; the verdict is Cancel, unless the body is faster."""
        self._wanted.cancel()

    async def run(self) -> None:
        """Run to the verdict and report it."""
        try:
            outcome = await self._outcome()
        except get_cancelled_exc_class():
            self._report(self.claim, _decide(self.claim, Interrupted()))
            raise
        self._report(self.claim, _decide(self.claim, outcome))

    async def _outcome(self) -> Outcome:
        if self.claim.unfit:
            return refused(self.claim.unfit)
        timeout = self.claim.options.timeout
        try:
            with self._wanted:
                with move_on_after(timeout):
                    return await self._executor.run(self.claim)
                return TimedOut(timeout or 0)
        except Exception as error:
            # No single execution may stop the supervisor; the loss limit ends one that always does this.
            log.exception("The executor failed at %s %s.", self.claim.callable_path, self.claim.task_id)
            return Lost(f"The executor failed: {type(error).__qualname__}: {error}")
        return Cancelled()


def abandoned(claim: Claim) -> Verdict:
    """Return the verdict on an attempt whose supervisor died."""
    return _decide(claim, Lost(f"The supervisor {claim.worker} that ran the attempt died."))


def released(claim: Claim) -> Verdict:
    """Return the verdict on a claim that never reached us."""
    return _decide(claim, Interrupted())


def _decide(claim: Claim, outcome: Outcome) -> Verdict:
    verdict = decide(claim, outcome, random.random())  # noqa: S311 - the jitter of a backoff
    match verdict:
        case Retry(error=error, after=after):
            log.warning(
                "Attempt %d of %s %s failed, again in %.1f s: %s: %s",
                claim.attempt, claim.callable_path, claim.task_id, after, error.exception_class_path, error.message,
            )  # fmt: skip
        case Fail(error=error):
            log.error(
                "%s %s failed at attempt %d:\n%s",
                claim.callable_path,
                claim.task_id,
                claim.attempt,
                error.traceback,
            )
        case _:
            log.debug("Attempt %d of %s %s: %s", claim.attempt, claim.callable_path, claim.task_id, verdict)
    return verdict
