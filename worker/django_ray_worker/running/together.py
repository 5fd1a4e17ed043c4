"""One call of executions that share a body, or a place of their own: each has an end of its own.

As with any call, each claim is reported exactly once, unless this process dies; and being cancelled is being
interrupted. A member that somebody cancels loses its result; when all are unwanted, the body is stopped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anyio import CancelScope, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from django_ray_worker.core.outcome import (
    Cancelled,
    Interrupted,
    Lost,
    Missing,
    Outcome,
    OutOfMemory,
    Returned,
    Stalled,
    TimedOut,
    Unprepared,
    Unstarted,
)
from django_ray_worker.running.answer import Answer, NoAnswer, missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from django_ray_worker.core.claim import Claim
    from django_ray_worker.recording.tally import Tally
    from django_ray_worker.running.call import Reporter
    from django_ray_worker.running.executor import Executor

__all__ = ["Together"]

log = logging.getLogger("django_ray.attempt")


class Together:
    """Claims of one lane on their way to their verdicts, all in one call."""

    def __init__(self, claims: Sequence[Claim], executor: Executor, tally: Tally, report: Reporter) -> None:
        self.claims = claims
        self._executor = executor
        self._tally = tally
        self._report = report
        self._left = list(claims)
        self._unwanted: set[UUID] = set()
        self._scope = CancelScope()
        self._may_run = False  # It was sent, and may have begun.
        self.is_unprepared = False  # It could not be begun here.

    def cancel(self, claim: Claim) -> None:
        """Drop what becomes of one; stop the body when nobody wants any of it."""
        self._unwanted.add(claim.task_id)
        if all(one.task_id in self._unwanted for one in self._left):
            self._scope.cancel()

    def disown(self, claim: Claim) -> None:
        """Stop one that is not ours any more, where it is alone: its outcome would be refused."""
        if len(self.claims) == 1:
            self.cancel(claim)

    async def run(self) -> None:
        """Run to the verdicts and report them."""
        try:
            await checkpoint_if_cancelled()
            await self._run()
        except get_cancelled_exc_class():
            self._report_left(Interrupted() if self._may_run else Unstarted())
            raise
        except Exception as error:
            # No execution may stop the supervisor; the loss limit ends one that always does this.
            failed = ", ".join(map(str, self._left or self.claims))
            log.exception("The executor failed at %s.", failed)
            self._report_left(Lost(f"The executor failed: {type(error).__qualname__}: {error}"))

    async def _run(self) -> None:
        for claim in [claim for claim in self._left if claim.unfit]:
            self._end(claim, missing(claim.unfit))
        if not self._left:
            return
        answer: Answer | NoAnswer = NoAnswer(Interrupted())
        if not self._executor.is_usable:
            answer = NoAnswer(Unstarted())
        elif not all(one.task_id in self._unwanted for one in self._left):
            self._may_run = True
            with CancelScope() as self._scope:
                answer = await self._executor.run(tuple(self._left))
        if isinstance(answer, Answer):
            self._take(answer)
            self._report_left(Interrupted())
        else:
            self.is_unprepared = isinstance(answer.outcome, Unprepared)
            self._report_left(answer.outcome if len(self._left) == 1 else _of_several(answer.outcome))

    def _take(self, answer: Answer) -> None:
        for index, (claim, outcome) in enumerate(zip(list(self._left), answer.outcomes, strict=False)):
            self.is_unprepared |= isinstance(outcome, Unprepared)
            if not isinstance(outcome, Missing | Unprepared):
                self._tally.ran(claim, answer.seconds[index])
            if index in answer.settled:
                self._left.remove(claim)
                self._tally.settled(claim)
            else:
                self._end(claim, outcome, answer.outputs[index])

    def _end(self, claim: Claim, outcome: Outcome, output: str = "") -> None:
        self._left.remove(claim)
        # Who was cancelled alone may have been faster; of several, nobody waits for what the others do.
        is_dropped = claim.task_id in self._unwanted and not (isinstance(outcome, Returned) and len(self.claims) == 1)
        self._report(claim, Cancelled() if is_dropped else outcome, output)

    def _report_left(self, outcome: Outcome) -> None:
        for claim in list(self._left):
            self._end(claim, outcome)


def _of_several(outcome: Outcome) -> Outcome:
    """Return what becomes of each, where nobody knows whose fault it was: it comes back, and alone."""
    return Interrupted() if isinstance(outcome, Lost | OutOfMemory | TimedOut | Stalled) else outcome
