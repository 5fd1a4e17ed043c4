"""TASKS[alias]["OPTIONS"], parsed once into one frozen value.

Every message names the setting, the value and the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from django_ray.retry import Backoff, RetryPolicy

__all__ = ["Options", "TaskOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a backend was configured with."""

    ray_address: str | None = None  # RAY_ADDRESS: the cluster to join; None starts Ray on this host.
    ray_runtime_env: Mapping[str, Any] = field(default_factory=dict[str, Any])  # RAY_RUNTIME_ENV: for a cluster.
    concurrency: int | None = None  # CONCURRENCY: executions at a time; None is the CPUs that Ray reports.
    grace: float = 30.0  # GRACE: seconds that running tasks get to finish when the supervisor stops.
    max_result_bytes: int = 8_000_000  # MAX_RESULT_BYTES: of the JSON of one result.
    retry: RetryPolicy = field(
        default_factory=RetryPolicy
    )  # MAX_ATTEMPTS, BACKOFF, MAX_LOSSES: unless the task says otherwise.

    @classmethod
    def parse(cls, alias: str, raw: Any) -> Self:
        """Read the OPTIONS of TASKS[alias]; ValueError says what to change."""
        setting = f'TASKS["{alias}"]["OPTIONS"]'
        if not isinstance(raw, Mapping):
            raise ValueError(f"{setting} must be a dictionary, not {raw!r}.")  # noqa: TRY004 - one kind of error
        given: Mapping[Any, Any] = raw
        for key in given:
            if key not in _READERS:
                near = difflib.get_close_matches(str(key).upper(), _READERS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_READERS)}."
                raise ValueError(f"{setting} has the unknown key {key!r}: {hint}")
        values: dict[str, Any] = {}
        policy: dict[str, Any] = {}
        for key, (name, reader) in _READERS.items():
            if key not in given:
                continue
            try:
                value = reader(given[key])
            except (TypeError, ValueError) as error:
                raise ValueError(f'{setting}["{key}"] is {given[key]!r}: {error}') from None
            (policy if name in _POLICY else values)[name] = value
        return cls(**values, retry=RetryPolicy(**policy))


def _address(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('it must be an address such as "ray-head:6379".')
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("it must be a dictionary.")
    return cast("Mapping[str, Any]", value)


def _whole(least: int, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"it must be a whole number of at least {least}.")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError("it must be a number of seconds, 0 or more.")
    return float(value)


def _backoff(value: Any) -> Backoff:
    if isinstance(value, Backoff):
        return value
    if isinstance(value, Mapping):
        return Backoff(**cast("Mapping[str, Any]", value))
    raise TypeError("it must be a django_ray.Backoff or a dictionary of its base, factor, cap and jitter.")


_POLICY = {"max_attempts", "backoff", "max_losses"}
_READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "RAY_ADDRESS": ("ray_address", _address),
    "RAY_RUNTIME_ENV": ("ray_runtime_env", _mapping),
    "CONCURRENCY": ("concurrency", lambda value: _whole(1, value)),
    "GRACE": ("grace", _seconds),
    "MAX_RESULT_BYTES": ("max_result_bytes", lambda value: _whole(1, value)),
    "MAX_ATTEMPTS": ("max_attempts", lambda value: _whole(1, value)),
    "BACKOFF": ("backoff", _backoff),
    "MAX_LOSSES": ("max_losses", lambda value: _whole(0, value)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What one execution asks for: the row's options over the backend's."""

    retry: RetryPolicy
    timeout: float | None  # Seconds that an attempt may run; None is no limit.
    ray: Mapping[str, Any]  # Keyword arguments of Ray's .options().

    @classmethod
    def merge(cls, backend: Options, row: Any) -> Self:
        """Put the options of a row (a JSON object or None) over the backend's; ValueError if they do not fit."""
        if row is None:
            return cls(retry=backend.retry, timeout=None, ray={})
        fields = _object(row, "The options")
        if unknown := fields.keys() - {"retry", "timeout", "ray"}:
            raise ValueError(f"The options have the unknown key {min(unknown)!r}; there are retry, timeout and ray.")
        timeout = fields.get("timeout")
        return cls(
            retry=backend.retry.changed(_object(fields.get("retry", {}), "The option retry")),
            timeout=None if timeout is None else _seconds(timeout),
            ray=_object(fields.get("ray", {}), "The option ray"),
        )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {value!r}.")  # noqa: TRY004 - a stored value
    return cast("dict[str, Any]", value)
