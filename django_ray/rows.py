"""An execution as those see it that have no model: what a result is made from, and the row as its claim saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Protocol, Self

from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME
from django.tasks.base import DEFAULT_TASK_PRIORITY
from django.utils import timezone

from django_ray.bounds import shown
from django_ray.moments import parsed
from django_ray.serialization import MAX_TRACEBACK, clean_text

__all__ = ["ClaimedRow", "Fence", "Row", "StoredError", "queues_of", "supervisors_of"]


class Row(Protocol):
    """What a result is made from: a RayTaskExecution, or the payload of a claim in a Ray worker."""

    task_id: Any
    state: str
    backend: str
    queue_name: str
    priority: int
    run_after: datetime | None
    enqueued_at: datetime
    started_at: datetime | None
    last_attempted_at: datetime | None
    finished_at: datetime | None
    args: list[Any]
    kwargs: dict[str, Any]
    result: Any
    errors: list[dict[str, Any]]
    worker_ids: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredError:
    """An element of a row's errors. Whoever writes SQL may have put anything there; what is missing is empty."""

    exception_class_path: str
    message: str
    traceback: str
    attempt: str  # Its number; empty when that is not known.
    worker_id: str
    at: datetime | None

    @classmethod
    def all_of(cls, errors: Any) -> list[Self]:
        """Return what a row's errors say, the oldest first."""
        return [cls.of(element) for element in errors] if isinstance(errors, list) else [cls.of(errors)]

    @classmethod
    def of(cls, element: Any) -> Self:
        """Return what an element says."""
        said: dict[str, Any] = element if isinstance(element, dict) else {"message": element}
        return cls(
            exception_class_path=_text(said.get("exception_class_path")) or "builtins.Exception",
            message=_text(said.get("message")),
            traceback=_text(said.get("traceback")),
            attempt=_text(said.get("attempt")),
            worker_id=_text(said.get("worker_id")),
            at=parsed(said.get("at")),
        )


def supervisors_of(worker_ids: Any) -> list[str]:
    """Return a row's worker_ids, the oldest first."""
    return _texts(worker_ids)


def queues_of(queues: Any) -> list[str]:
    """Return the names in a supervisor's queues."""
    return _texts(queues)


def _texts(value: Any) -> list[str]:
    return [_text(item) for item in value] if isinstance(value, list) else []


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else shown(value)
    return clean_text(text, MAX_TRACEBACK)


@dataclass(slots=True)
class ClaimedRow:
    """The row of a claim; a Row. What a supervisor of another version does not say has a default."""

    task_id: str
    callable_path: str
    worker_ids: list[str]
    attempt_number: int
    state: str = "RUNNING"
    backend: str = DEFAULT_TASK_BACKEND_ALIAS
    queue_name: str = DEFAULT_TASK_QUEUE_NAME
    priority: int = DEFAULT_TASK_PRIORITY
    args: list[Any] = field(default_factory=list[Any])
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    options: dict[str, Any] | None = None
    run_after: datetime | None = None
    enqueued_at: datetime = field(default_factory=timezone.now)
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    failures: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    carrier: dict[str, str] | None = None
    finished_at: datetime | None = None
    result: Any = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Return the row that a claim has put into JSON; ValueError if it lacks what an execution cannot do without.

        Supervisors and Ray nodes of two versions work side by side: what only a newer supervisor says is ignored.
        """
        columns = {name: said[name] for name in _COLUMNS if name in said}
        for name in ("run_after", "enqueued_at", "started_at", "last_attempted_at"):
            if (text := columns.pop(name, None)) is not None:
                columns[name] = parsed(text)
        if lacking := _NEEDED - columns.keys():
            raise ValueError(f"The supervisor that sent this execution does not say its {min(lacking)}.")
        return cls(**columns)


_COLUMNS = tuple(column.name for column in fields(ClaimedRow))
_NEEDED = frozenset({"task_id", "callable_path", "worker_ids", "attempt_number"})


@dataclass(frozen=True, slots=True)
class Fence:
    """What names one attempt."""

    task_id: str
    attempt_number: int
    worker: int  # The RayWorker that owns the row.

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """Return the fence of a claim."""
        return cls(columns["task_id"], columns["attempt_number"], int(columns["worker_ids"][-1]))
