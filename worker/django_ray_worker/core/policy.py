"""Claim + Outcome -> Verdict: what becomes of the execution. Pure: no clock, no settings, no random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from django_ray.retry import MOST_RELEASED, pause
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.outcome import (
    Cancelled,
    Error,
    Gone,
    Interrupted,
    Lost,
    Missing,
    Outcome,
    OutOfMemory,
    Raised,
    Refused,
    Returned,
    Stalled,
    TimedOut,
    Unplaced,
    Unprepared,
    Unstarted,
)

__all__ = ["CANCELLED", "Cancel", "Fail", "Postpone", "Release", "Retry", "Succeed", "Verdict", "decide"]


# Seconds until what no node can run is claimed again: doubling, and not longer than who adds a node would wait.
FIRST_UNPLACED = 15.0
LONGEST_UNPLACED = 600.0
# Seconds until what could not be begun here is claimed again: doubling, as long at least as it has been so already.
SHORTEST_POSTPONED = 1.0
LONGEST_POSTPONED = 30.0
LONGEST_JITTER = 1.5  # Times these: a supervisor with other code, or another node, is to have its turn.
ENOUGH_POSTPONED = 10  # Tries, however long the grace.
# Seconds until what was lost for the second time is tried again, four times as many after each further loss; the first
# time it is at once.
FIRST_LOST = 2.0
LONGEST_LOST = 60.0
# Seconds until what was ended for want of memory is tried again: doubling, so that it outlives who used the memory up.
FIRST_OUT_OF_MEMORY = 10.0
LONGEST_OUT_OF_MEMORY = 600.0
FREE_OUT_OF_MEMORY = 3  # Times that cost nothing; then each is a loss.
FREE_GONE = 9  # The same for a node or a Ray that goes away: whatever takes it down each time must end somewhere.


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeed:
    """SUCCESSFUL, with the JSON text of the result."""

    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """READY again after so many seconds, with the error kept."""

    error: Error
    after: float
    failures: int = 0  # 1 when the attempt counts against max_attempts.
    losses: int = 0  # 1 when it counts against max_losses.
    released: int = 0  # As in the row.


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """FAILED for good."""

    error: Error
    failures: int = 0
    losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """CANCELLED, with the error that tells so."""

    error: Error


@dataclass(frozen=True, slots=True)
class Release:
    """READY after so many seconds, nothing charged; and nothing seen of the attempt when its body was never begun."""

    after: float = 0
    has_begun: bool = True
    released: int = 1  # As in the row, with this one.


@dataclass(frozen=True, slots=True, kw_only=True)
class Postpone:
    """READY again after so many seconds, as if it had not been claimed: its code or a process may be on its way."""

    error: Error
    after: float
    released: int = 1  # As in the row.


type Verdict = Succeed | Retry | Fail | Cancel | Release | Postpone


def decide(claim: Claim, outcome: Outcome, chance: float) -> Verdict:
    """Return what becomes of the execution; chance in 0..1 is the jitter of its backoff."""
    times = min(claim.released + 1, MOST_RELEASED)
    match outcome:
        case Returned(result):
            return Succeed(result=result)
        case Raised(error):
            return _failed(claim, error, chance)
        case TimedOut(seconds):
            return _failed(claim, _error("TaskTimeout", f"The attempt ran longer than {seconds:g} s."), chance)
        case Stalled(seconds):
            return _failed(claim, _error("TaskTimeout", STALLED.format(seconds)), chance)
        case Refused(error):
            return Fail(error=error, failures=1)
        case Missing(error) | Unprepared(error):
            return _postponed(claim, error, chance, times)
        case Cancelled():
            return Cancel(error=CANCELLED)
        case Lost(reason):
            return _lost(claim, reason, _after_loss(claim.losses + 1, chance), claim.released)
        case OutOfMemory(reason):
            return _out_of_memory(claim, reason, chance, times)
        case Gone() | Interrupted() | Unstarted() | Unplaced():
            return _released(claim, outcome, times)
        case _:
            assert_never(outcome)


def _failed(claim: Claim, error: Error, chance: float) -> Verdict:
    policy, failures = claim.options.retry, claim.failures + 1
    if policy.retries_failure(failures, error.mro):
        return Retry(error=error, after=policy.backoff.seconds(failures, chance), failures=1, released=claim.released)
    return Fail(error=error, failures=1)


def _postponed(claim: Claim, error: Error, chance: float, times: int) -> Verdict:
    grace = claim.options.retry.import_grace
    # Not after two tries between which it waited in a long queue: after as many as the grace takes at the least.
    if claim.missing_for >= grace and times >= min(ENOUGH_POSTPONED, grace / (LONGEST_POSTPONED * LONGEST_JITTER)):
        return Fail(error=error, failures=1)
    wait = min(LONGEST_POSTPONED, max(SHORTEST_POSTPONED * 2.0 ** min(times - 1, 10), claim.missing_for))
    return Postpone(error=error, after=wait * (LONGEST_JITTER - 1 + chance), released=times)


def _lost(claim: Claim, reason: str, after: float, times: int) -> Verdict:
    error = _error("TaskLost", reason)
    if claim.options.retry.retries_loss(claim.losses + 1):
        return Retry(error=error, after=after, losses=1, released=times)
    # A task that kills its process every time must end somewhere.
    return Fail(error=error, losses=1)


def _released(claim: Claim, outcome: Gone | Interrupted | Unstarted | Unplaced, times: int) -> Verdict:
    match outcome:
        case Gone(reason) if times > FREE_GONE:
            return _lost(claim, reason, pause(times), times)
        case Gone() | Interrupted():
            return Release(after=pause(times), released=times)
        case Unstarted():
            return Release(after=pause(times), released=times, has_begun=False)
        case Unplaced():
            after = min(LONGEST_UNPLACED, FIRST_UNPLACED * 2.0 ** min(times - 1, 10))
            return Release(after=after, released=times, has_begun=False)
        case _:
            assert_never(outcome)


def _after_loss(losses: int, chance: float) -> float:
    if losses == 1:
        return 0
    return min(LONGEST_LOST, FIRST_LOST * 4.0 ** min(losses - 2, 10)) * (0.5 + chance)


def _out_of_memory(claim: Claim, reason: str, chance: float, times: int) -> Verdict:
    # A wide jitter: those that were ended together had better not come back together.
    after = min(LONGEST_OUT_OF_MEMORY, FIRST_OUT_OF_MEMORY * 2.0 ** min(times - 1, 10)) * (0.5 + chance)
    if times > FREE_OUT_OF_MEMORY:
        return _lost(claim, reason, after, times)
    return Retry(error=_error("TaskLost", reason), after=after, released=times)


def _error(name: str, message: str) -> Error:
    path = f"django_ray.exceptions.{name}"
    return Error(
        exception_class_path=path,
        message=message,
        traceback=f"{path}: {message}\n",
        mro=(path, "builtins.Exception", "builtins.BaseException", "builtins.object"),
    )


STALLED = (
    "The attempt has stalled: no progress() for {:g} s. If it was at work, let its body call context.progress() more "
    "often, or raise its stall_timeout."
)
CANCELLED = _error("TaskCancelled", "The execution was cancelled.")
