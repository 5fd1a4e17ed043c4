"""What happened to one attempt. Facts only: what follows from them is policy's."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Cancelled",
    "Error",
    "Gone",
    "Interrupted",
    "Lost",
    "Missing",
    "OutOfMemory",
    "Outcome",
    "Raised",
    "Refused",
    "Returned",
    "Stalled",
    "TimedOut",
    "Unplaced",
    "Unprepared",
    "Unstarted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """One entry of the row's errors, and the bases of its class for the retry policy."""

    exception_class_path: str
    message: str
    traceback: str
    mro: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Returned:
    """The body returned; result is its JSON text."""

    result: str


@dataclass(frozen=True, slots=True)
class Raised:
    """The body raised."""

    error: Error


@dataclass(frozen=True, slots=True)
class Refused:
    """The execution cannot run, or its result cannot be stored; another attempt would end the same."""

    error: Error


@dataclass(frozen=True, slots=True)
class Missing:
    """It was not begun: the code here does not know its task, or what it asks for. Newer code may."""

    error: Error


@dataclass(frozen=True, slots=True)
class Unprepared:
    """It was not begun: no process could be made ready for it where it was to run. Elsewhere one may be, or later."""

    error: Error


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The body was stopped at its timeout."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """The body was stopped because it had given no sign of life for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The body was stopped because somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The process that ran the attempt died."""

    reason: str


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """Its process was ended because the memory of its node was used up, by whomever."""

    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Its node, or all of Ray, went away under it, for whatever reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The attempt was cut short through no fault of its own: its supervisor stopped, or another was meant."""


@dataclass(frozen=True, slots=True)
class Unstarted:
    """It was claimed, and its body was never begun: as if it had not been claimed."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """It was not begun: no node has what it asks for, and enough others wait for one."""


type Outcome = (
    Returned
    | Raised
    | Refused
    | Missing
    | Unprepared
    | TimedOut
    | Stalled
    | Cancelled
    | Lost
    | OutOfMemory
    | Gone
    | Interrupted
    | Unstarted
    | Unplaced
)
