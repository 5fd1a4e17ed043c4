"""What comes back from a call, as outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from django_ray_worker.core.outcome import Error, Missing, Outcome, Raised, Refused, Returned

if TYPE_CHECKING:
    from django_ray.runtime.call import Report
    from django_ray.runtime.entrypoint import Envelope

__all__ = ["Answer", "NoAnswer", "answer_of", "missing", "outcome_of", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcomes of the first claims of a call, in order; the others were not started, or the first one stopped."""

    outcomes: list[Outcome]
    seconds: list[float]  # How long each took.
    outputs: list[str]  # What each wrote, and what the one wrote that was stopped.
    is_interrupted: bool = False  # The last of these was stopped by an interrupt, unless it had returned.
    settled: frozenset[int] = frozenset()  # Which of these are recorded already, and not ours any more.
    has_stopped: bool = False  # The first of the others was stopped.
    is_rest_ready: bool = False  # Those not started are READY already, and not ours any more.

    def without_stopped(self) -> Answer:
        """Return the answer without the one that we stopped: only who stopped it knows what that means."""
        if not self.is_interrupted or not self.outcomes or isinstance(self.outcomes[-1], Returned):
            return self
        return replace(self, outcomes=self.outcomes[:-1], seconds=self.seconds[:-1], has_stopped=True)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The call ended without a word of its own; the outcome is that of a claim that was alone in it."""

    outcome: Outcome


def answer_of(report: Report) -> Answer:
    """Return what a report says."""
    return Answer(
        outcomes=[outcome_of(envelope) for envelope in report["envelopes"]],
        seconds=report["seconds"],
        outputs=[envelope["output"] for envelope in report["envelopes"]],
        is_interrupted=report["is_interrupted"],
        settled=frozenset(report["settled"]),
        is_rest_ready=report["is_rest_ready"],
    )


def outcome_of(envelope: Envelope) -> Outcome:
    """Return what an envelope says."""
    if envelope["kind"] == "returned":
        return Returned(envelope["result"])
    error = Error(
        exception_class_path=envelope["exception_class_path"],
        message=envelope["message"],
        traceback=envelope["traceback"],
        mro=tuple(envelope["mro"]),
    )
    match envelope["kind"]:
        case "raised":
            return Raised(error)
        case "refused":
            return Refused(error)
        case "missing":
            return Missing(error)


def refused(reason: str) -> Refused:
    """Return the outcome of an execution that cannot be run at all."""
    return Refused(_refusal(reason))


def missing(reason: str) -> Missing:
    """Return the outcome of an execution that asks for what the code here does not know."""
    return Missing(_refusal(reason))


def _refusal(reason: str) -> Error:
    path = "django_ray.exceptions.TaskRefused"
    return Error(exception_class_path=path, message=reason, traceback=f"{path}: {reason}\n", mro=(path,))
