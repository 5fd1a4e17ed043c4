"""Whether a failed attempt is tried again, and when.

Declared in the web process, stored in the row, read by the supervisor and by the Ray worker. Pure: no clock, no
settings, no random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from django_ray.bounds import LONGEST, LONGEST_IN_WORDS, MOST, MOST_FACTOR, is_number, is_whole, shown

__all__ = ["MOST_RELEASED", "Backoff", "RetryPolicy", "class_path", "pause", "short_class"]

FREE_RELEASES = 5  # Returns without a pause: a slot was not free in time, a queue was paused, and the like.
LONGEST_PAUSE = 60.0
MOST_RELEASED = 1000  # That are counted.


def pause(released: int) -> float:
    """Return the seconds after an execution has come back so many times without having ended or been charged.

    0 for the first five, then 2, 4, 8, at last 60: whatever the reason, it is claimed ten times in its first minute.
    """
    return 0.0 if released <= FREE_RELEASES else min(LONGEST_PAUSE, 2.0 ** min(released - FREE_RELEASES, 10))


def class_path(exception: type[BaseException] | str) -> str:
    """Return the import path by which policies and rows name an exception class."""
    if isinstance(exception, str):
        return exception
    return f"{exception.__module__}.{exception.__qualname__}"


def short_class(path: str | None) -> str:
    """Return the path of a class as people write it: those of Python without their module."""
    return (path or "").removeprefix("builtins.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before the next attempt: base * factor ** (failures - 1) seconds, at most cap."""

    base: float = 60.0  # Seconds after the first failure.
    factor: float = 2.0
    cap: float = 3600.0  # Seconds, jitter included.
    jitter: float = 0.1  # Up to this fraction is added, so that failures of one moment spread out.

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Backoff {field.name} must be a number, not {shown(value)}.")
        for name, least, most, words in (
            ("base", 0, LONGEST, f"seconds of at least 0 and at most {LONGEST_IN_WORDS}"),
            ("factor", 1, MOST_FACTOR, f"at least 1 and at most {MOST_FACTOR:,}: waits do not shrink"),
            ("cap", 0, LONGEST, f"seconds of at least 0 and at most {LONGEST_IN_WORDS}"),
            ("jitter", 0, MOST_FACTOR, f"at least 0 and at most {MOST_FACTOR:,}"),
        ):
            if not is_number(value := getattr(self, name), least, most):
                raise ValueError(f"Backoff {name} must be {words}, not {shown(value)}.")

    def seconds(self, failures: int, chance: float) -> float:
        """Return the wait after that many failures (1 or more), 0 to cap; chance in 0..1 picks the jitter."""
        try:
            factor = float(self.factor) ** (failures - 1)
        except OverflowError:
            factor = math.inf
        # No base is no wait, however often it is multiplied.
        return min(float(self.cap), self.base * factor * (1 + self.jitter * chance)) if self.base else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, when, and for which exceptions an execution is tried again."""

    max_attempts: int = 3  # Failed attempts until it is FAILED; 1 never retries.
    backoff: Backoff = Backoff()
    retry_on: tuple[str, ...] | None = None  # Class paths; None retries everything.
    no_retry_on: tuple[str, ...] = ()  # Class paths; these win.
    max_losses: int = 3  # Retries after a died process; they do not count as attempts.
    import_grace: float = 600.0  # Seconds for which no supervisor may know its code.

    def __post_init__(self) -> None:
        for name, least in (("max_attempts", 1), ("max_losses", 0)):
            if not is_whole(value := getattr(self, name), least):
                raise ValueError(
                    f"{name} must be a whole number of at least {least} and at most {MOST:,}, not {shown(value)}."
                )
        if not is_number(self.import_grace, 0, LONGEST):
            raise ValueError(
                f"import_grace must be a number of seconds, 0 or more and at most {LONGEST_IN_WORDS}, "
                f"not {shown(self.import_grace)}."
            )

    def retries_failure(self, failures: int, mro: Sequence[str]) -> bool:
        """Tell whether to try again after that many failures, the last with a class of these bases."""
        if failures >= self.max_attempts or not set(self.no_retry_on).isdisjoint(mro):
            return False
        return self.retry_on is None or not set(self.retry_on).isdisjoint(mro)

    def retries_loss(self, losses: int) -> bool:
        """Tell whether to try again after that many losses."""
        return losses <= self.max_losses

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return the policy with the fields of a row's options put in; ValueError names what does not fit."""
        known = {field.name for field in fields(self)}
        if unknown := set(changes) - known:
            raise ValueError(f"Unknown retry option {shown(min(unknown))}; there are {', '.join(sorted(known))}.")
        values = dict(changes)
        if "backoff" in values:
            try:
                values["backoff"] = Backoff(**values["backoff"])
            except TypeError as error:
                raise ValueError(f"backoff {shown(values['backoff'])} does not fit: {error}") from None
        for name in ("retry_on", "no_retry_on"):
            if (paths := values.get(name)) is not None:
                if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
                    raise ValueError(f"{name} must be a list of import paths, not {shown(paths)}.")
                values[name] = tuple(paths)
        return replace(self, **values)
