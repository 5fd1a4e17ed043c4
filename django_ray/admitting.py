"""What the row of an enqueue says of its admission: a key, a gate with its rule, and how long it may wait.

The arguments are bound by the signature, so that positional and named calls are equal. What is made here goes into
columns, from where PostgreSQL and the supervisors take it: they need no code of the project for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from django_ray.rate import By
from django_ray.serialization import jsonable
from django_ray.signature import bound, parameters

if TYPE_CHECKING:
    from django.tasks import Task

    from django_ray.admission import Admission

__all__ = ["admitted", "check_names"]

MOST_VALUE = 150  # Characters of what the executions behind a gate have in common; more is a hash of it.


def check_names(admission: Admission, task: Task[..., Any]) -> None:
    """Raise ValueError for parameters that the function of a task does not have."""
    known = parameters(task)
    for what in ("unique_by", "limit_by", "batch_by"):
        chosen = getattr(admission, what)
        if known is None or chosen is None or callable(chosen):
            continue
        for name in chosen:
            if name not in known:
                raise ValueError(
                    f"The task {task.name!r}: {what} names {name!r}, which is no parameter of its function; there "
                    f"are {', '.join(known) or 'none'}."
                )


def admitted(
    admission: Admission, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an enqueue with these arguments says of it: what django_ray_enqueue_admitted() takes.

    ValueError and TypeError when a function of the arguments gives what JSON cannot hold; whatever it raises.
    """
    row: dict[str, Any] = {}
    if admission.unique:
        said = _canonical(_value(task, admission.unique_by, args, kwargs, "unique_by"))
        digest = sha256(f"{task.module_path}\n{said}".encode()).hexdigest()
        row["unique"] = f"{_HELD[admission.unique]}:{digest[:48]}"
    if admission.has_gate:
        row["gate"] = admission.gate or task.module_path[-200:]
        if admission.limit_by is not None:
            row["gate"] += f":{_text(_value(task, admission.limit_by, args, kwargs, 'limit_by'))}"
        rule: dict[str, Any] = {} if admission.limit is None else {"limit": admission.limit}
        if admission.rate is not None:
            rule |= admission.rate.rule
        if admission.when_full != "wait":
            rule["full"] = admission.when_full
        row["rule"] = rule
    elif admission.lane is not None:
        # Nobody is let through there but for the lane: supervisors that know of none leave it alone.
        row["gate"] = f"!{task.module_path[-200:]} {admission.lane}".rstrip()
        row["rule"] = {"limit": 0, "lane": True}
        if admission.batch_by is not None:
            row["gate"] += f":{_text(_value(task, admission.batch_by, args, kwargs, 'batch_by'))}"
    if admission.expires is not None:
        row["expires"] = f"{admission.expires:.6f} seconds"
    return row


def _value(task: Task[..., Any], chosen: By | None, args: Sequence[Any], kwargs: Mapping[str, Any], what: str) -> Any:
    if callable(chosen):
        return jsonable(chosen(*args, **kwargs), f"what {what} of the task {task.name!r} returns")
    values = bound(task, args, kwargs)
    if values is None:  # a builtin that does not tell its parameters
        return [list(args), dict(kwargs)]
    if chosen is None:
        return sorted(values.items())
    return values[chosen[0]] if len(chosen) == 1 else [values[name] for name in chosen]


_HELD = {True: "u", "queued": "q", "replace": "r"}


def _canonical(value: Any) -> str:
    """Return the JSON of a value, which equal ones have in common.

    What is no JSON is what a parameter is by default: NUL, which no argument has, and no address of an object.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=lambda default: f"\0{type(default).__name__}")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else _canonical(value)
    if not text or len(text) > MOST_VALUE:
        return sha256(text.encode()).hexdigest()[:48]
    return text
