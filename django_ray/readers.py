"""What checks a value that somebody has set, and makes of it what is stored.

TypeError and ValueError say what it must be; whoever asks says where it stands and what it is. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, cast

from django_ray.bounds import LONGEST, LONGEST_IN_WORDS, MOST, MOST_QUANTITY, is_number, is_whole
from django_ray.rate import By, Rate, Unique, WhenFull
from django_ray.retry import Backoff, class_path
from django_ray.serialization import storable

type Needs = Literal["success", "end"]  # Of an execution, those who wait for it.

MOST_REPLICAS = 10_000
MOST_NAME = 100  # Characters of a gate's name, before what its executions have in common.

__all__ = [
    "MOST_NAME",
    "Needs",
    "backoff",
    "backoff_fields",
    "by",
    "classes",
    "flag",
    "gate",
    "gpus",
    "labels",
    "needs",
    "period",
    "quantity",
    "rate",
    "replicas",
    "resources",
    "seconds",
    "text",
    "texts",
    "timeout",
    "unique",
    "when_full",
    "whole",
    "worker",
]


def whole(least: int, value: Any, *, most: int = MOST) -> int:
    """Return a whole number of at least least and at most most."""
    if not is_whole(value, least, most):
        raise ValueError(f"it must be a whole number of at least {least} and at most {most:,}.")
    return cast("int", value)


def quantity(value: Any) -> float:
    """Return how much of a resource."""
    if not is_number(value, 0, MOST_QUANTITY):
        raise ValueError(f"it must be a number of at least 0 and at most {MOST_QUANTITY:,}.")
    return cast("float", value)


def gpus(value: Any) -> float:
    """Return how many GPUs, or which part of one."""
    number = quantity(value)
    if number > 1 and number != int(number):
        raise ValueError("above 1, Ray wants whole GPUs.")
    return number


def resources(value: Any) -> dict[str, float]:
    """Return how much of each of Ray's custom resources."""
    given = texts(value)
    for name, number in given.items():
        if name in {"CPU", "GPU", "memory"}:
            raise ValueError(f"say {name} as num_cpus, num_gpus or memory.")
        quantity(number)
    return given


def texts(value: Any) -> dict[str, Any]:
    """Return a dictionary with texts as keys."""
    if not isinstance(value, Mapping):
        raise TypeError("it must be a dictionary with texts as keys.")
    given = dict(value)
    if not all(isinstance(name, str) and name for name in given):
        raise ValueError("it must be a dictionary with texts as keys.")
    return given


def labels(value: Any) -> dict[str, str]:
    """Return a dictionary of texts."""
    given = texts(value)
    if not all(isinstance(label, str) for label in given.values()):
        raise ValueError("it must be a dictionary of texts.")
    return given


def text(value: Any) -> str:
    """Return a text."""
    if not isinstance(value, str) or not value:
        raise ValueError("it must be a text.")
    return value


def flag(value: Any) -> int:
    """Return 1 for True and 0 for False."""
    if not isinstance(value, bool):
        raise ValueError("it must be True or False.")  # noqa: TRY004 - one kind of error
    return int(value)


def seconds(value: Any) -> float:
    """Return seconds, or none."""
    if not is_number(value, 0, LONGEST):
        raise ValueError(f"it must be a number of seconds, 0 or more and at most {LONGEST_IN_WORDS}.")
    return float(value)


def needs(value: Any) -> Needs:
    """Return what an execution needs of those that it waits for."""
    if value not in ("success", "end"):
        raise ValueError('it must be "success", as it is unless said otherwise, or "end".')
    return value  # type: ignore[no-any-return]


def timeout(value: Any) -> float:
    """Return seconds that may pass."""
    if not is_number(value, 0, LONGEST) or not value:
        raise ValueError(f"it must be a number of seconds above 0 and at most {LONGEST_IN_WORDS}.")
    return float(value)


def backoff(value: Any) -> Backoff:
    """Return a Backoff, or the one that a mapping of its fields describes."""
    if isinstance(value, Backoff):
        return value
    if isinstance(value, Mapping):
        return Backoff(**cast("Mapping[str, Any]", value))
    raise TypeError("it must be a django_ray.Backoff or a dictionary of its base, factor, cap and jitter.")


def backoff_fields(value: Any) -> dict[str, float]:
    """Return the fields of a Backoff."""
    chosen = backoff(value)
    return {name: getattr(chosen, name) for name in Backoff.__slots__}


def classes(value: Any) -> list[str]:
    """Return the import paths of exception classes."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("it must be a list of exception classes or their import paths.")
    for item in value:
        if isinstance(item, str):
            if "." not in item:
                raise ValueError(f"{item!r} is not an import path: give the class, or 'builtins.{item}'.")
        elif not (isinstance(item, type) and issubclass(item, BaseException)):
            raise TypeError(f"{item!r} is not an exception class.")
    return [class_path(item) for item in value]


def unique(value: Any) -> Unique:
    """Return what is one at a time."""
    if value not in (True, False, "queued", "replace") or (
        isinstance(value, int | float) and not isinstance(value, bool)
    ):
        raise ValueError('it must be True (until it has ended), "queued" (until it starts), or "replace".')
    return cast("Unique", value)


def by(value: Any) -> By:
    """Return names of parameters, or a function of the arguments."""
    if callable(value):
        return cast("By", value)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("it must be the name of a parameter, a list of them, or a function of the arguments.")
    return tuple(names)


def gate(value: Any) -> str:
    """Return the name of a gate."""
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MOST_NAME
        or not storable(value)
        or ":" in value
        or value[0] <= "!"
    ):
        raise ValueError(
            f"it must be a text of 1 to {MOST_NAME} characters without a colon, and not begin with a blank or '!'."
        )
    return value


def rate(value: Any) -> Rate:
    """Return a Rate, or the one that a mapping of its fields describes."""
    if isinstance(value, Mapping):
        return Rate(**cast("Mapping[str, Any]", value))
    if not isinstance(value, Rate):
        raise TypeError("it must be a django_ray.Rate, such as Rate(100, per=timedelta(minutes=1)).")
    return value


def when_full(value: Any) -> WhenFull:
    """Return what becomes of an execution at a full gate."""
    if value not in ("wait", "cancel_new", "cancel_running"):
        raise ValueError('it must be "wait", "cancel_new" or "cancel_running".')
    return cast("WhenFull", value)  # pyright: ignore[reportUnnecessaryCast]


def worker(value: Any) -> str:
    """Return the import path of a class."""
    if isinstance(value, type):
        path = f"{value.__module__}.{value.__qualname__}"
        if "<locals>" in path or value.__module__ == "__main__":
            raise ValueError("it must stand at the level of a module, where a Ray worker can import it.")
        return path
    if not isinstance(value, str) or "." not in value or not all(map(str.isidentifier, value.split("."))):
        raise ValueError('it must be a class, or the import path of one, such as "shop.models.Embedder".')
    return value


def replicas(value: Any) -> list[int]:
    """Return how many processes there are at least and at most; one number is both most and, for 0, least."""
    given: Any = [0, value] if is_whole(value, 1, MOST_REPLICAS) else value
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or len(given) != 2  # noqa: PLR2004
        or not is_whole(given[0], 0, MOST_REPLICAS)
        or not is_whole(given[1], max(1, given[0]), MOST_REPLICAS)
    ):
        raise ValueError(
            f"it must be (least, most), two whole numbers such as (0, 4), or the most alone; {MOST_REPLICAS:,} at most."
        )
    return [*given]


def period(value: Any) -> float:
    """Return the seconds of a timedelta, or that many seconds."""
    return timeout(value.total_seconds() if isinstance(value, timedelta) else value)
