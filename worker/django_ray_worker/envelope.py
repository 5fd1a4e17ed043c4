"""What comes back from invoke(), as an Outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django_ray_worker.outcome import Error, Outcome, Raised, Refused, Returned

if TYPE_CHECKING:
    from django_ray.runtime.entrypoint import Envelope

__all__ = ["outcome_of", "refused"]


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
    return Raised(error) if envelope["kind"] == "raised" else Refused(error)


def refused(reason: str) -> Refused:
    """Return the outcome of an execution that cannot be run at all."""
    path = "django_ray.exceptions.TaskRefused"
    return Refused(Error(exception_class_path=path, message=reason, traceback=f"{path}: {reason}\n", mro=(path,)))
