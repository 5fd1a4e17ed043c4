"""What a task requires of its supervisor and of Ray, checked where it is said.

Said as keyword arguments of @task, of using() and of task_options(), and per queue in OPTIONS["QUEUE_DEFAULTS"]; stored
in the row's options as {"retry": {...}, "ray": {...}} and beside these two; read by the supervisor. Each is one line of
Requirements, from which the arguments, their types, the fields of a RayTask and the row follow. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, Literal, Self, TypedDict, cast, get_type_hints

from django_ray import readers
from django_ray.bounds import MOST_QUANTITY, shown
from django_ray.rate import By, Rate, Unique, WhenFull
from django_ray.readers import whole
from django_ray.retry import Backoff, RetryPolicy
from django_ray.serialization import encode, jsonable

__all__ = ["MOST_OPTIONS", "REQUIREMENTS", "ExceptionClass", "Place", "Requirements", "TaskOptions", "stored", "whole"]

MOST_BATCH = 10_000  # Executions: the claims of a call travel together.
MOST_SHAPE = 100  # Characters of what an execution asks Ray for; more is a hash of it.
MOST_OPTIONS = 65_536  # Bytes of a row's options: each supervisor reads them with each claim.

type ExceptionClass = type[BaseException] | str


@dataclass(frozen=True, slots=True)
class Place:
    """Where the row's options hold a requirement, and what checks it."""

    # Ray's .options(), the fields of RetryPolicy, beside these two; or what admission.py makes columns of.
    part: Literal["ray", "retry", "", "admission"]
    reader: Callable[[Any], Any]  # Returns what is stored; TypeError or ValueError.
    key: str | None = None  # Its name there, if it has another one than here.
    stored_reader: Callable[[Any], Any] | None = None  # Checks what is stored, if reader does not take that.


class Requirements(TypedDict, total=False):
    """The keyword arguments; None, or none at all, means "as configured"."""

    num_cpus: Annotated[float | None, Place("ray", readers.quantity)]  # 1 unless said otherwise.
    num_gpus: Annotated[float | None, Place("ray", readers.gpus)]
    # Bytes that Ray reserves when it places the task; no limit on what it uses.
    memory: Annotated[int | None, Place("ray", partial(whole, 1, most=MOST_QUANTITY))]
    # Ray's custom resources.
    resources: Annotated[Mapping[str, float] | None, Place("ray", readers.resources)]
    accelerator_type: Annotated[str | None, Place("ray", readers.text)]
    label_selector: Annotated[Mapping[str, str] | None, Place("ray", readers.labels)]
    runtime_env: Annotated[Mapping[str, Any] | None, Place("ray", readers.texts)]
    # A new Ray worker process for each attempt: Ray counts the calls of a process, and 0 is no limit.
    fresh_process: Annotated[bool | None, Place("ray", readers.flag, "max_calls", partial(whole, 0))]
    timeout: Annotated[float | None, Place("", readers.timeout)]  # Seconds that an attempt may run.
    # Seconds that it may run without a sign of life, which is a call of context.progress().
    stall_timeout: Annotated[float | None, Place("", readers.timeout)]
    max_attempts: Annotated[int | None, Place("retry", partial(whole, 1))]
    backoff: Annotated[Backoff | Mapping[str, float] | None, Place("retry", readers.backoff_fields)]
    # Only these classes and what derives from them.
    retry_on: Annotated[Sequence[ExceptionClass] | None, Place("retry", readers.classes)]
    # Never these; they win over retry_on.
    no_retry_on: Annotated[Sequence[ExceptionClass] | None, Place("retry", readers.classes)]
    # A class that is built once in a process which stays: the body gets the instance.
    worker: Annotated[type | str | None, Place("", readers.worker)]
    batch: Annotated[int | None, Place("", partial(whole, 1, most=MOST_BATCH))]  # Executions that share a call.
    batch_wait: Annotated[float | None, Place("", readers.seconds)]  # Seconds that the first of them waits for more.
    batch_by: Annotated[By | None, Place("admission", readers.by)]  # What those that share one have in common.
    # Processes of a worker: at least, once there is one, and at most.
    replicas: Annotated[int | Sequence[int] | None, Place("", readers.replicas)]
    idle: Annotated[float | None, Place("", readers.seconds)]  # Seconds without a call after which one ends.
    # Of the executions that it waits for: that they succeed, or that they end.
    needs: Annotated[readers.Needs | None, Place("", readers.needs)]
    # One at a time that is equal: until it has ended, until it starts, or until it starts and the latest one counts.
    unique: Annotated[Unique | None, Place("admission", readers.unique)]
    unique_by: Annotated[By | None, Place("admission", readers.by)]  # What makes it equal; all arguments.
    limit: Annotated[
        int | None, Place("admission", partial(whole, 1))
    ]  # Executions behind its gate that may run at a time.
    limit_by: Annotated[By | None, Place("admission", readers.by)]  # A gate for each of these; one for all.
    gate: Annotated[str | None, Place("admission", readers.gate)]  # The name of its gate; the path of the task.
    rate: Annotated[Rate | Mapping[str, Any] | None, Place("admission", readers.rate)]  # How often one may start there.
    # What becomes of it when as many run as may.
    when_full: Annotated[WhenFull | None, Place("admission", readers.when_full)]
    # From when it may start, until it must have begun; a number is seconds.
    expires: Annotated[timedelta | float | None, Place("admission", readers.period)]


REQUIREMENTS: Mapping[str, Place] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Requirements, include_extras=True).items()
}


def _stored_in(part: str) -> dict[str, Callable[[Any], Any]]:
    """Return what a part of a row's options may hold, and what checks it."""
    return {
        place.key or name: place.stored_reader or place.reader
        for name, place in REQUIREMENTS.items()
        if place.part == part
    }


_BESIDE = _stored_in("")
# What a row may say to Ray: its other options change what a call returns, or how often it is made.
_OF_RAY = _stored_in("ray")
_KEYS = ("retry", *_BESIDE, "ray")
_AS_SHAPE = str.maketrans({'"': None, ":": "=", " ": None})
# Of these there is not one for each CPU.
_OF_LANES = ("num_gpus", "resources", "accelerator_type", "label_selector")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What one execution requires, all told: the row's options over its queue's defaults over the backend's."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None  # Seconds that an attempt may run; None is no limit.
    stall_timeout: float | None = None  # Seconds that it may run without a sign of life; None is no limit.
    needs: readers.Needs = "success"  # Of what it waits for.
    worker: str | None = None  # The path of the class whose instance the body gets.
    batch: int | None = None  # Executions that share a call; None is a body that takes one.
    batch_wait: float = 0.0  # Seconds.
    replicas: Sequence[int] = (0, 1)  # At least and at most.
    idle: float = 300.0  # Seconds.
    ray: Mapping[str, Any] = field(default_factory=dict[str, Any])  # Keyword arguments of Ray's .options().

    @property
    def has_lane(self) -> bool:
        """Whether it runs in other places than the slots, which are CPUs."""
        return self.worker is not None or self.batch is not None or any(self.ray.get(name) for name in _OF_LANES)

    @property
    def shape(self) -> str:
        """What it asks Ray for, as a text for people that is another one for each; empty for nothing."""
        text = json.dumps(self.ray, sort_keys=True).translate(_AS_SHAPE)[1:-1]
        return text if len(text) <= MOST_SHAPE else sha256(text.encode()).hexdigest()[:16]

    def changed(self, row: Any) -> Self:
        """Put the options of a row (a JSON object or None) over these; ValueError if they do not fit."""
        if row is None:
            return self
        options = _object(row, "The options")
        if unknown := options.keys() - set(_KEYS):
            raise ValueError(f"The options have the unknown key {min(unknown)!r}; there are {', '.join(_KEYS)}.")
        beside = {key: options[key] for key in _BESIDE if options.get(key) is not None}
        ray = _object(options.get("ray", {}), "The option ray")
        return replace(
            self,
            retry=self.retry.changed(_object(options.get("retry", {}), "The option retry")),
            ray={**self.ray, **_checked(ray, _OF_RAY, "The option ray has")},
            **_checked(beside, _BESIDE, "The options have"),
        )


def stored(said: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """Return requirements as the row stores them, None for none; ValueError names the one that cannot work."""
    options: dict[str, dict[str, Any]] = {"retry": {}, "": {}, "ray": {}, "admission": {}}
    for name, value in said.items():
        place = REQUIREMENTS.get(name)
        if place is None:
            raise ValueError(f"{where} has no {name!r}; there are {', '.join(REQUIREMENTS)}.")
        if value is None:
            continue
        try:
            options[place.part][place.key or name] = place.reader(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name} is {shown(value)}: {error}") from None
    del options["admission"]  # of each enqueue
    flat = {**options.pop(""), **{part: values for part, values in options.items() if values}}
    if not flat:
        return None
    plain = cast("dict[str, Any]", jsonable(flat, where))
    if (size := len(encode(plain).encode())) > MOST_OPTIONS:
        raise ValueError(f"{where}: its options are {size:,} bytes of JSON; {MOST_OPTIONS:,} is the most.")
    return plain


def _checked(said: dict[str, Any], known: Mapping[str, Callable[[Any], Any]], where: str) -> dict[str, Any]:
    """Return what a row holds, each value as its reader returns it."""
    checked: dict[str, Any] = {}
    for key, value in said.items():
        if key not in known:
            raise ValueError(f"{where} the unknown key {shown(key)}; there are {', '.join(known)}.")
        try:
            checked[key] = known[key](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} {key} = {shown(value)}: {error}") from None
    return checked


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {shown(value)}.")  # noqa: TRY004 - a stored value
    return cast("dict[str, Any]", value)
