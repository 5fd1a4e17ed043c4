"""Claim + Outcome -> Verdict: what becomes of the execution. Pure: no clock, no settings, no random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from django_ray_worker.core.claim import Claim
from django_ray_worker.core.outcome import (
    Cancelled,
    Error,
    Interrupted,
    Lost,
    Missing,
    Outcome,
    Raised,
    Refused,
    Returned,
    TimedOut,
    Unplaced,
    Unstarted,
)

__all__ = ["CANCELLED", "Cancel", "Fail", "Postpone", "Release", "Retry", "Succeed", "Verdict", "decide"]


# Seconds until what no node can run is claimed again: doubling, and not longer than who adds a node would wait.
FIRST_UNPLACED = 15.0
LONGEST_UNPLACED = 600.0
# Seconds until what no code here knows is claimed again: as long as it has been so already, within these bounds.
SHORTEST_POSTPONED = 1.0
LONGEST_POSTPONED = 30.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Postpone:
    """READY again after so many seconds, as if it had not been claimed: its code may be on its way."""

    error: Error
    after: float


type Verdict = Succeed | Retry | Fail | Cancel | Release | Postpone


def decide(claim: Claim, outcome: Outcome, chance: float) -> Verdict:
    """Return what becomes of the execution; chance in 0..1 is the jitter of its backoff."""
    match outcome:
        case Returned(result):
            return Succeed(result=result)
        case Raised(error):
            return _failed(claim, error, chance)
        case TimedOut(seconds):
            return _failed(claim, _error("TaskTimeout", f"The attempt ran longer than {seconds:g} s."), chance)
        case Refused(error):
            return Fail(error=error, failures=1)
        case Missing(error):
            return _missing(claim, error, chance)
        case Cancelled():
            return Cancel(error=CANCELLED)
        case Lost(reason):
            return _lost(claim, reason)
        case Interrupted():
            return Release()
        case Unstarted():
            return Release(has_begun=False)
        case Unplaced():
            after = min(LONGEST_UNPLACED, FIRST_UNPLACED * 2.0 ** min(claim.attempt - 1, 10))
            return Release(after=after, has_begun=False)
        case _:
            assert_never(outcome)


def _failed(claim: Claim, error: Error, chance: float) -> Verdict:
    policy, failures = claim.options.retry, claim.failures + 1
    if policy.retries_failure(failures, error.mro):
        return Retry(error=error, after=policy.backoff.seconds(failures, chance), failures=1)
    return Fail(error=error, failures=1)


def _missing(claim: Claim, error: Error, chance: float) -> Verdict:
    if claim.missing_for >= claim.options.retry.import_grace:
        return Fail(error=error, failures=1)
    wait = min(LONGEST_POSTPONED, max(SHORTEST_POSTPONED, claim.missing_for))
    # A wide jitter: a supervisor with other code is to have its turn.
    return Postpone(error=error, after=wait * (0.5 + chance))


def _lost(claim: Claim, reason: str) -> Verdict:
    losses = claim.losses + 1
    error = _error("TaskLost", reason)
    if claim.options.retry.retries_loss(losses):
        return Retry(error=error, after=0, losses=1)
    # A task that kills its process every time must end somewhere.
    return Fail(error=error, losses=1)


def _error(name: str, message: str) -> Error:
    path = f"django_ray.exceptions.{name}"
    return Error(
        exception_class_path=path,
        message=message,
        traceback=f"{path}: {message}\n",
        mro=(path, "builtins.Exception", "builtins.BaseException", "builtins.object"),
    )


CANCELLED = _error("TaskCancelled", "The execution was cancelled.")
