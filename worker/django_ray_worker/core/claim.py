"""What a supervisor holds after taking an execution: everything needed to run it, and the fence to record it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import override
from uuid import UUID

from django_ray.requirements import TaskOptions

__all__ = [
    "Batch",
    "Claim",
    "Gates",
    "Held",
    "Lanes",
    "MadeWay",
    "Neighbour",
    "Pulse",
    "Reconciled",
    "Recorded",
    "Rescued",
    "Turns",
]


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
    missing_for: float  # Seconds since it first could not be begun; 0 unless that was so the last time.
    waited: float | None  # Seconds from claimable to claimed; None for later attempts.
    # The row as JSON, for the Ray worker, or its fence alone when it is large; the supervisor never looks inside.
    payload: str = field(repr=False)  # It may be long, and holds what is nobody's business who reads logs.
    released: int = 0  # Times that it came back without having ended or been charged.
    lane: str | None = None  # The name of the lane that it was taken from.

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
class Lanes:
    """What a claim says of lanes."""

    more: frozenset[str] = frozenset()  # The tasks of which there may be more than there was room for.
    is_cut: bool = False  # Not all of them were looked into.
    place: tuple[str | None, str | None] = (None, None)  # The queue and the lane after which the next claim goes on.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a claim says of gates."""

    is_used: bool = False  # Something waits behind one.
    has_more: bool = False  # And more of it may start than was taken.
    next_in: float | None = None  # Seconds until something may start that may not before.
    place: tuple[str | None, str | None] = (None, None)  # The queue and the gate after which the next claim goes on.


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Of which queues to claim, where some have quotas: of one priority, from the one that has the fewest here."""

    queues: list[str]
    rooms: dict[str, int]  # How many executions at most, of those with a quota.
    held: dict[str, int]  # How many are here.


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The answer to one claim statement: claims in the order to start them."""

    claims: tuple[Claim, ...]
    has_skipped: bool  # It is short, and rows of our queues are locked by somebody else, and may stay READY.
    next_due: float | None  # Seconds until a row of our queues falls due, by the database's clock; 0 or less is now.
    place: str | None = None  # The queue after which the next claim goes on; None when all were looked into.
    gates: Gates = Gates()
    next_expiry: float | None = None  # Seconds until something ends that has not begun by then; 0 or less is now.
    next_later: float | None = None  # As next_due, for those that are not due yet.
    lanes: Lanes = Lanes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The answer to who ends what has not begun by its time."""

    number: int  # How many have been ended; there may be more.
    next_in: float | None  # Seconds until the next one; None is never.
    was_due: bool  # There was one at least: if none has been ended, it is locked.


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeWay:
    """The answer to who asks to make way at full gates."""

    refused: int  # New ones that were cancelled.
    stopped: int  # Running ones whose cancel was asked for.
    has_skipped: bool  # Somebody else was in the way: ask again.


@dataclass(frozen=True, slots=True)
class Held:
    """What the row says of a claim that we hold."""

    attempt: int
    is_unwanted: bool = False  # Somebody wants it cancelled.
    is_paused: bool = False  # Its queue is.


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The answer to a record that waits for nobody; what is in neither the fence refuses."""

    written: set[UUID]
    locked: set[UUID]  # Still ours, but somebody else has locked their rows.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """The answer to one reconciliation."""

    ours: dict[UUID, Held]  # What the rows say of the executions that we hold.
    unheld: int  # How many others were recorded.
    locked: int  # And how many could not be: somebody else has locked their rows.


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlogged:
    """What waits in our queues."""

    number: int  # Our part of it.
    next_due: float | None  # Seconds until the next scheduled one falls due; None is never.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """What was taken back from one of the dead."""

    rows: int
    locked: int  # Executions that could not be: somebody else has locked their rows.
    is_marked: bool  # As lost; not if somebody else has locked its own row.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The answer to one pulse."""

    is_registered: bool  # Our row is there, and ours.
    is_lost: bool  # A peer took us for dead.
    is_locked: bool  # Somebody has locked our row: the sign of life is not written.
    oldest: float | None  # Seconds that the oldest claimable row of our queues has been waiting.
    running: int  # Rows that run in our name.
    has_unwanted: bool  # Somebody wants one of them cancelled.
    has_overdue: bool  # A schedule is due, or not looked at yet, and nobody has done so.
    problems: int  # Schedules that have one.
    has_gated: bool  # Something waits behind a gate.
    has_impatient: bool  # And some of it does not want to wait if that is full.
    has_expired: bool  # Something has not begun by its time.
    has_late: bool  # In a flow, something was not looked at, since somebody was in the way.


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The supervisor to watch."""

    id: int
    is_frozen: bool  # Its pulse has been missing for three periods.
