"""What comes back from a call, as outcomes. A Ray node may have older or newer code than its supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from django_ray_worker.core.outcome import (
    Error,
    Interrupted,
    Missing,
    Outcome,
    Raised,
    Refused,
    Returned,
    Stalled,
    TimedOut,
    Unprepared,
)

__all__ = ["Answer", "NoAnswer", "answer_of", "missing", "outcome_of", "refused", "unprepared"]


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
    locked: frozenset[int] = frozenset()  # Which of the call's claims are ours all the same, and not started.

    def without_stopped(self) -> Answer:
        """Return the answer without the one that we stopped: only who stopped it knows what that means."""
        if not self._ends_stopped:
            return self
        return replace(self, outcomes=self.outcomes[:-1], seconds=self.seconds[:-1], has_stopped=True)

    def with_stopped_as(self, outcome: Outcome) -> Answer:
        """Return the answer with this outcome of the one that we stopped."""
        return replace(self, outcomes=[*self.outcomes[:-1], outcome]) if self._ends_stopped else self

    @property
    def _ends_stopped(self) -> bool:
        return self.is_interrupted and bool(self.outcomes) and not isinstance(self.outcomes[-1], Returned)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The call ended without a word of its own; the outcome is that of a claim that was alone in it."""

    outcome: Outcome


def answer_of(report: Any) -> Answer:
    """Return what a Report says, also one of another version: what it does not say is as if nothing had happened."""
    said: dict[str, Any] = report if isinstance(report, dict) else {}
    envelopes: list[dict[str, Any]] = [one if isinstance(one, dict) else {} for one in said.get("envelopes", ())]
    outcomes = [outcome_of(envelope, is_unprepared=said.get("is_unprepared", False)) for envelope in envelopes]
    if (overran := said.get("overran")) is not None and outcomes and not isinstance(outcomes[-1], Returned):
        outcomes[-1] = Stalled(overran) if said.get("has_stalled") else TimedOut(overran)
    seconds = [*said.get("seconds", ()), *[0.0] * len(envelopes)]
    return Answer(
        outcomes=outcomes,
        seconds=seconds[: len(envelopes)],
        outputs=[envelope.get("output", "") for envelope in envelopes],
        is_interrupted=said.get("is_interrupted", False),
        settled=frozenset(said.get("settled", ())),
        is_rest_ready=said.get("is_rest_ready", False),
        locked=frozenset(said.get("locked", ())),
    )


def outcome_of(envelope: Mapping[str, Any], *, is_unprepared: bool = False) -> Outcome:
    """Return what an Envelope says, also one of another version: what is not understood is not known here."""
    match envelope:
        case {"kind": "returned", "result": str(result)}:
            return Returned(result)
        case {"kind": "raised"}:
            return Raised(_error(envelope))
        case {"kind": "refused"}:
            return Refused(_error(envelope))
        case {"kind": "interrupted"}:
            return Interrupted()
        case {"kind": "missing"}:
            return Unprepared(_error(envelope)) if is_unprepared else Missing(_error(envelope))
        case _:
            return missing(f"A Ray worker of another version answers {envelope.get('kind')!r}, which is not understood")


def _error(envelope: Mapping[str, Any]) -> Error:
    return Error(
        exception_class_path=envelope.get("exception_class_path", "builtins.Exception"),
        message=envelope.get("message", ""),
        traceback=envelope.get("traceback", ""),
        mro=tuple(envelope.get("mro", ())),
    )


def refused(reason: str) -> Refused:
    """Return the outcome of an execution that cannot be run at all."""
    return Refused(_refusal(reason))


def missing(reason: str) -> Missing:
    """Return the outcome of an execution that asks for what the code here does not know."""
    return Missing(_refusal(reason))


def unprepared(reason: str) -> Unprepared:
    """Return the outcome of an execution for which no process could be made ready."""
    return Unprepared(_refusal(reason, "Unprepared"))


def _refusal(reason: str, name: str = "TaskRefused") -> Error:
    path = f"django_ray.exceptions.{name}"
    return Error(exception_class_path=path, message=reason, traceback=f"{path}: {reason}\n", mro=(path,))
