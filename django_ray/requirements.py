"""What a task requires of its supervisor and of Ray, checked where it is said.

Said as keyword arguments of @task, of using() and of task_options(), and per queue in OPTIONS["QUEUE_DEFAULTS"]; stored
in the row's options as {"retry": {...}, "timeout": seconds, "ray": {...}}; read by the supervisor. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, TypedDict, cast

from django_ray.retry import Backoff, RetryPolicy, class_path
from django_ray.serialization import jsonable

__all__ = ["ExceptionClass", "Requirements", "TaskOptions", "stored", "whole"]

type ExceptionClass = type[BaseException] | str


class Requirements(TypedDict, total=False):
    """The keyword arguments; None, or none at all, means "as configured"."""

    num_cpus: float | None  # 1 unless said otherwise.
    num_gpus: float | None
    memory: int | None  # Bytes that Ray reserves when it places the task; no limit on what it uses.
    resources: Mapping[str, float] | None  # Ray's custom resources.
    accelerator_type: str | None
    label_selector: Mapping[str, str] | None
    runtime_env: Mapping[str, Any] | None
    fresh_process: bool | None  # A new Ray worker process for each attempt.
    timeout: float | None  # Seconds that an attempt may run.
    max_attempts: int | None
    backoff: Backoff | Mapping[str, float] | None
    retry_on: Sequence[ExceptionClass] | None  # Only these classes and what derives from them.
    no_retry_on: Sequence[ExceptionClass] | None  # Never these; they win over retry_on.


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What one execution requires, all told: the row's options over its queue's defaults over the backend's."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None  # Seconds that an attempt may run; None is no limit.
    ray: Mapping[str, Any] = field(default_factory=dict[str, Any])  # Keyword arguments of Ray's .options().

    def changed(self, row: Any) -> Self:
        """Put the options of a row (a JSON object or None) over these; ValueError if they do not fit."""
        if row is None:
            return self
        options = _object(row, "The options")
        if unknown := options.keys() - {"retry", "timeout", "ray"}:
            raise ValueError(f"The options have the unknown key {min(unknown)!r}; there are retry, timeout and ray.")
        timeout = options.get("timeout")
        return replace(
            self,
            retry=self.retry.changed(_object(options.get("retry", {}), "The option retry")),
            timeout=self.timeout if timeout is None else _timeout(timeout),
            ray={**self.ray, **_ray(_object(options.get("ray", {}), "The option ray"))},
        )


def stored(said: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """Return requirements as the row stores them, None for none; ValueError names the one that cannot work."""
    options: dict[str, dict[str, Any]] = {"retry": {}, "": {}, "ray": {}}
    for name, value in said.items():
        if name not in _READERS:
            raise ValueError(f"{where} has no {name!r}; there are {', '.join(_READERS)}.")
        part, key, reader = _READERS[name]
        if value is None:
            continue
        try:
            options[part][key] = reader(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name} is {value!r}: {error}") from None
    flat = {**options.pop(""), **{part: values for part, values in options.items() if values}}
    return cast("dict[str, Any]", jsonable(flat, where)) if flat else None


def whole(least: int, value: Any) -> int:
    """Return value if it is a whole number of at least that much; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"it must be a whole number of at least {least}.")
    return value


def _quantity(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("it must be a number of at least 0.")
    return value


def _gpus(value: Any) -> float:
    number = _quantity(value)
    if number > 1 and number != int(number):
        raise ValueError("above 1, Ray wants whole GPUs.")
    return number


def _resources(value: Any) -> dict[str, float]:
    given = _texts(value)
    for name, number in given.items():
        if name in {"CPU", "GPU", "memory"}:
            raise ValueError(f"say {name} as num_cpus, num_gpus or memory.")
        _quantity(number)
    return given


def _texts(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("it must be a dictionary with texts as keys.")
    given = dict(value)
    if not all(isinstance(name, str) and name for name in given):
        raise ValueError("it must be a dictionary with texts as keys.")
    return given


def _labels(value: Any) -> dict[str, str]:
    given = _texts(value)
    if not all(isinstance(label, str) for label in given.values()):
        raise ValueError("it must be a dictionary of texts.")
    return given


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it must be a text.")
    return value


def _flag(value: Any) -> int:
    if not isinstance(value, bool):
        raise ValueError("it must be True or False.")  # noqa: TRY004 - one kind of error
    return int(value)  # Ray's max_calls; 0 is no limit


def _timeout(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("it must be a number of seconds above 0.")
    return float(value)


def backoff(value: Any) -> Backoff:
    """Return a Backoff, or the one that a mapping of its fields describes."""
    if isinstance(value, Backoff):
        return value
    if isinstance(value, Mapping):
        return Backoff(**cast("Mapping[str, Any]", value))
    raise TypeError("it must be a django_ray.Backoff or a dictionary of its base, factor, cap and jitter.")


def _backoff_fields(value: Any) -> dict[str, float]:
    chosen = backoff(value)
    return {name: getattr(chosen, name) for name in Backoff.__slots__}


def _classes(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("it must be a list of exception classes or their import paths.")
    for item in value:
        if isinstance(item, str):
            if "." not in item:
                raise ValueError(f"{item!r} is not an import path: give the class, or 'builtins.{item}'.")
        elif not (isinstance(item, type) and issubclass(item, BaseException)):
            raise TypeError(f"{item!r} is not an exception class.")
    return [class_path(item) for item in value]


# Argument -> the part of the options that holds it, its name there, and what checks it.
_READERS: Mapping[str, tuple[str, str, Callable[[Any], Any]]] = {
    "num_cpus": ("ray", "num_cpus", _quantity),
    "num_gpus": ("ray", "num_gpus", _gpus),
    "memory": ("ray", "memory", partial(whole, 1)),
    "resources": ("ray", "resources", _resources),
    "accelerator_type": ("ray", "accelerator_type", _text),
    "label_selector": ("ray", "label_selector", _labels),
    "runtime_env": ("ray", "runtime_env", _texts),
    "fresh_process": ("ray", "max_calls", _flag),
    "timeout": ("", "timeout", _timeout),
    "max_attempts": ("retry", "max_attempts", partial(whole, 1)),
    "backoff": ("retry", "backoff", _backoff_fields),
    "retry_on": ("retry", "retry_on", _classes),
    "no_retry_on": ("retry", "no_retry_on", _classes),
}


# What a row may say to Ray: its other options change what a call returns, or how often it is made.
_OF_RAY = {key: reader for part, key, reader in _READERS.values() if part == "ray"} | {"max_calls": partial(whole, 0)}


def _ray(said: dict[str, Any]) -> dict[str, Any]:
    for key, value in said.items():
        if key not in _OF_RAY:
            raise ValueError(f"The option ray has the unknown key {key!r}; there are {', '.join(_OF_RAY)}.")
        try:
            _OF_RAY[key](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"The option ray has {key} = {value!r}: {error}") from None
    return said


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {value!r}.")  # noqa: TRY004 - a stored value
    return cast("dict[str, Any]", value)
