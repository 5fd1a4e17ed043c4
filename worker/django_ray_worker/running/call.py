"""One call: one claim, or several short ones, run on the executor, judged by the policy and handed to the recorder.

Whatever happens, each claim of a call is reported exactly once, unless this process dies or the call has settled it in
the Ray worker. Being cancelled is being interrupted: what runs is stopped on the executor first, and its execution
released.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from anyio import CancelScope, current_time, get_cancelled_exc_class, sleep
from anyio.lowlevel import checkpoint_if_cancelled

from django_ray.runtime.call import PATIENCE_SECONDS, REST_SECONDS
from django_ray_worker.core.outcome import (
    Cancelled,
    Interrupted,
    Lost,
    Missing,
    Outcome,
    OutOfMemory,
    Stalled,
    TimedOut,
    Unprepared,
    Unstarted,
)
from django_ray_worker.running.answer import Answer, NoAnswer, missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from django_ray_worker.claiming.pace import Pace
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.recording.tally import Tally
    from django_ray_worker.running.executor import Executor

__all__ = ["Call"]

log = logging.getLogger("django_ray.attempt")


class Reporter(Protocol):
    """Who takes over what became of a claim."""

    def __call__(self, claim: Claim, outcome: Outcome, output: str = "") -> None:
        """Take it over; output is what its body wrote."""
        ...


class Call:
    """Claims of one shape on their way to their verdicts: all of them in one call, or what that leaves in another."""

    def __init__(
        self,
        claims: Sequence[Claim],
        executor: Executor,
        pace: Pace,
        tally: Tally,
        report: Reporter,
    ) -> None:
        self.claims = claims
        self._left = deque(claims)  # In the order in which they run.
        self._executor = executor
        self._pace = pace
        self._tally = tally
        self._report = report
        self._unwanted: set[UUID] = set()
        self._may_run = False  # One of those left may have begun.
        self._is_taken_back = False
        self._scope = CancelScope()

    def cancel(self, claim: Claim) -> None:
        """Stop the body of one; its verdict is Cancel, unless the body is faster."""
        if claim not in self._left:
            return  # it was settled where it ran
        self._unwanted.add(claim.task_id)
        self._scope.deadline = min(self._scope.deadline, current_time() + self._patience)

    def take_back(self) -> None:
        """Stop waiting for a place to run; what is left then is for whoever can run it."""
        self._is_taken_back = True
        self._scope.cancel()

    def disown(self, claim: Claim) -> None:
        """Stop one that is not ours any more: its outcome would be refused. Where several share a call, it soon ends.

        What was settled where it ran is not ours any more either, and has nothing to stop.
        """
        if len(self._left) == 1 and self._left[0] is claim:
            self._unwanted.add(claim.task_id)
            self._scope.cancel()

    @property
    def _patience(self) -> float:
        # We do not know which of several runs. If none of them is long, all have ended soon; if one is, the others have
        # been settled: then whoever is interrupted is the one that we mean.
        return PATIENCE_SECONDS if len(self._left) > 1 else 0

    async def run(self) -> None:
        """Run to the verdicts and report them."""
        try:
            while self._left and not self._is_taken_back:
                await checkpoint_if_cancelled()
                await self._run()
            self._report_left(Unstarted())
        except get_cancelled_exc_class():
            self._report_left(Interrupted() if self._may_run else Unstarted())
            raise
        except Exception as error:
            # No execution may stop the supervisor; the loss limit ends one that always does this.
            fields = self._left[0].log_fields if len(self._left) == 1 else None
            failed = ", ".join(map(str, self._left or self.claims))
            log.exception("The executor failed at %s.", failed, extra=fields)
            self._report_left(Lost(f"The executor failed: {type(error).__qualname__}: {error}"))

    async def _run(self) -> None:
        for claim in [claim for claim in self._left if claim.task_id in self._unwanted]:
            self._left.remove(claim)
            self._report(claim, Cancelled())
        if self._left and self._left[0].unfit:
            self._report_next(missing(self._left[0].unfit))
        elif self._left:
            await self._ask()

    async def _ask(self) -> None:
        is_alone = len(self._left) == 1
        answer: Answer | NoAnswer = NoAnswer(Interrupted())
        self._may_run = True
        asked = tuple(self._left)
        with CancelScope() as self._scope:
            answer = await self._executor.run(asked)
        if isinstance(answer, Answer):
            self._take(answer)
        elif isinstance(answer.outcome, Unprepared):
            await sleep(REST_SECONDS)  # With its slot: who fails at once would get all the work.
            self._give_up(answer.outcome)
        elif isinstance(answer.outcome, Unstarted) or not is_alone:
            self._give_up(answer.outcome)
        elif not self._scope.cancel_called:
            self._report_next(answer.outcome)
        has_stopped = is_alone or (isinstance(answer, Answer) and answer.has_stopped)
        if self._left and self._scope.cancel_called and has_stopped:
            output = answer.outputs[-1] if isinstance(answer, Answer) and answer.has_stopped else ""
            is_unwanted = self._left[0].task_id in self._unwanted
            self._report_next(Cancelled() if is_unwanted else Interrupted(), output)  # or somebody else was meant
        if isinstance(answer, Answer):
            self._may_run = False
            if answer.is_rest_ready:
                self._left = deque(asked[index] for index in sorted(answer.locked))
            elif not (answer.outcomes or answer.is_interrupted or self._scope.cancel_called):
                self._report_left(Unstarted())  # it has nothing to say: another call of these would have nothing either

    def _take(self, answer: Answer) -> None:
        for index, (outcome, seconds) in enumerate(zip(answer.outcomes, answer.seconds, strict=True)):
            if not self._left:
                return
            if isinstance(outcome, Unprepared):
                self._pace.distrust(self._left[0])  # for a while, one at a time: who cannot work shall not take many
            elif not isinstance(outcome, Missing):
                self._pace.observe(self._left[0], seconds)
                self._tally.ran(self._left[0], seconds)
            if index in answer.settled:
                self._tally.settled(self._left.popleft())
            else:
                self._report_next(outcome, answer.outputs[index])

    def _give_up(self, outcome: Outcome) -> None:
        """Release all. How far they came is not known, so nobody is charged; next time each runs alone."""
        if isinstance(outcome, Lost | OutOfMemory | TimedOut | Stalled | Unprepared):
            for claim in self._left:
                self._pace.distrust(claim)
        self._report_left(Interrupted() if isinstance(outcome, Lost | TimedOut | Stalled) else outcome)

    def _report_next(self, outcome: Outcome, output: str = "") -> None:
        self._report(self._left.popleft(), outcome, output)

    def _report_left(self, outcome: Outcome) -> None:
        while self._left:
            unwanted = self._left[0].task_id in self._unwanted
            self._report_next(Cancelled() if unwanted else outcome)
