"""What becomes of an execution, decided by the policy with a chance of its own, and told to the log."""

from __future__ import annotations

import logging
import random

from django_ray_worker.core.claim import Claim
from django_ray_worker.core.outcome import Gone, Lost, Outcome, Unplaced, Unprepared, Unstarted
from django_ray_worker.core.policy import Fail, Postpone, Release, Retry, Verdict, decide

__all__ = ["abandoned", "judge", "released"]

log = logging.getLogger("django_ray.attempt")

NEWS_SECONDS = 8.0  # What comes back for less has found no free slot in time, a few times: nothing to look into.


def abandoned(claim: Claim) -> Verdict:
    """Return the verdict on an attempt whose supervisor died."""
    return judge(claim, Lost(f"The supervisor {claim.worker} that ran the attempt died."))


def released(claim: Claim) -> Verdict:
    """Return the verdict on a claim that never reached us."""
    return judge(claim, Unstarted())


def judge(claim: Claim, outcome: Outcome) -> Verdict:
    """Return what becomes of the execution, and log what somebody should know."""
    verdict = decide(claim, outcome, random.random())  # noqa: S311 - the jitter of a backoff
    match verdict:
        case Retry(error=error, after=after):
            log.warning(
                "Attempt %d of %s failed, again in %.1f s: %s: %s",
                claim.attempt, claim, after, error.exception_class_path, error.message, extra=_fields(claim, outcome),
            )  # fmt: skip
        case Fail(error=error):
            log.error(
                "%s failed at attempt %d:\n%s",
                claim, claim.attempt, error.traceback, extra=_fields(claim, outcome),
            )  # fmt: skip
        case Postpone(error=error, after=after) if isinstance(outcome, Unprepared):
            log.warning(
                "%s was not begun: %s. Another node may run it, or this one soon: again in %.1f s, for %.0f s in all "
                "(IMPORT_GRACE).",
                claim, error.message.rstrip("."), after, claim.options.retry.import_grace, extra=claim.log_fields,
            )  # fmt: skip
        case Postpone(error=error, after=after):
            log.warning(
                "%s is not known here: %s. If its code is new, restart this supervisor, or use --reload; another one "
                "that knows it may take it: again in %.1f s, for %.0f s in all (IMPORT_GRACE).",
                claim, error.message.rstrip("."), after, claim.options.retry.import_grace, extra=claim.log_fields,
            )  # fmt: skip
        case Release(after=after, released=times) if after >= NEWS_SECONDS and not isinstance(outcome, Unplaced):
            log.warning(
                "%s has come back %d times without having ended (%s): again in %.0f s.",
                claim, times, _why(outcome), after, extra=claim.log_fields,
            )  # fmt: skip
        case _ if log.isEnabledFor(logging.DEBUG):
            log.debug("Attempt %d of %s: %s", claim.attempt, claim, verdict, extra=claim.log_fields)
        case _:
            pass
    return verdict


def _fields(claim: Claim, outcome: Outcome) -> dict[str, str | int]:
    """Return what a record carries: who forwards errors knows by the outcome what the Ray worker has told already."""
    return {**claim.log_fields, "outcome": type(outcome).__name__}


def _why(outcome: Outcome) -> str:
    match outcome:
        case Gone(reason):
            return reason.rstrip(".")
        case Unstarted():
            return "it was not begun here"
        case _:
            return "it was interrupted"
