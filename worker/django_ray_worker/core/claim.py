"""What a supervisor holds after taking an execution: everything needed to run it, and the fence to record it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import override
from uuid import UUID

from django_ray.requirements import TaskOptions

__all__ = ["Batch", "Claim", "Held", "Pulse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One attempt of one execution. task_id, attempt and worker are the fence of every record."""

    task_id: UUID
    attempt: int
    worker: int  # The RayWorker that owns the row.
    queue_name: str
    callable_path: str
    options: TaskOptions  # The backend's own where the row's do not fit.
    unfit: str  # Why the row's options cannot be used; empty when they can.
    failures: int  # Before this attempt.
    losses: int
    missing_for: float  # Seconds since a supervisor first found no code for it; 0 unless that was the last attempt.
    waited: float | None  # Seconds from claimable to claimed; None for later attempts.
    payload: str  # The row as JSON, for the Ray worker; the supervisor never looks inside.

    @override
    def __str__(self) -> str:
        return f"{self.callable_path} {self.task_id}"

    @property
    def log_fields(self) -> dict[str, str | int]:
        """What a log record about it carries, for machines."""
        return {
            "task_id": str(self.task_id),
            "attempt": self.attempt,
            "queue": self.queue_name,
            "task": self.callable_path,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The answer to one claim statement: claims in the order to start them."""

    claims: tuple[Claim, ...]
    has_skipped: bool  # Rows of our queues are locked by somebody else, and may stay READY.
    next_due: float | None  # Seconds until a row of our queues falls due, by the database's clock; 0 or less is now.


@dataclass(frozen=True, slots=True)
class Held:
    """What the row says of a claim that we hold."""

    attempt: int
    is_unwanted: bool = False  # Somebody wants it cancelled.
    is_paused: bool = False  # Its queue is.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The answer to one pulse."""

    is_lost: bool  # A peer took us for dead.
    oldest: float | None  # Seconds that the oldest claimable row of our queues has been waiting.
    running: int  # Rows that run in our name.
    has_unwanted: bool  # Somebody wants one of them cancelled.
