"""An execution as those see it that have no model: what a result is made from, and the row as its claim saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol, Self, cast

from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME
from django.tasks.base import DEFAULT_TASK_PRIORITY
from django.utils import timezone

from django_ray.bounds import shown
from django_ray.moments import parsed
from django_ray.serialization import MAX_TRACEBACK, clean_text

__all__ = ["ClaimedRow", "Fence", "Row", "StoredError", "numbers_of", "queues_of", "supervisors_of"]


_MOST_OF_ANYTHING = 2**62  # A JSON number may be larger than a float.


class Row(Protocol):
    """What a result is made from: a RayTaskExecution, or the payload of a claim in a Ray worker."""

    task_id: Any
    state: str
    backend: str
    queue_name: str
    priority: int
    finished_at: datetime | None
    args: list[Any]
    kwargs: dict[str, Any]
    carrier: Any
    result: Any
    errors: list[dict[str, Any]]
    worker_ids: list[str]

    @property
    def run_after(self) -> datetime | None: ...  # noqa: D102
    @property
    def enqueued_at(self) -> datetime: ...  # noqa: D102
    @property
    def started_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def last_attempted_at(self) -> datetime | None: ...  # noqa: D102


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


def numbers_of(amounts: Any) -> dict[str, float] | None:
    """Return the numbers in what a supervisor says that it has, by their names; None when it says nothing."""
    if not isinstance(amounts, dict):
        return None
    said = cast("dict[str, Any]", amounts)
    return {
        _text(name): max(-_MOST_OF_ANYTHING, min(number, _MOST_OF_ANYTHING))
        for name, number in said.items()
        if isinstance(number, int | float)
    }


def _texts(value: Any) -> list[str]:
    return [_text(item) for item in value] if isinstance(value, list) else []


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else shown(value)
    return clean_text(text, MAX_TRACEBACK)


class ClaimedRow:
    """The row of a claim; a Row. What a supervisor of another version does not say has a default.

    Its moments are read when somebody asks: most bodies do not.
    """

    COLUMNS: ClassVar = (
        "task_id", "callable_path", "worker_ids", "attempt_number", "state", "backend", "queue_name", "priority",
        "args", "kwargs", "options", "run_after", "enqueued_at", "started_at", "last_attempted_at", "failures",
        "errors", "carrier",
    )  # fmt: skip

    __slots__ = (
        "_said", "args", "attempt_number", "backend", "callable_path", "carrier", "errors", "failures", "finished_at",
        "kwargs", "options", "priority", "queue_name", "result", "state", "task_id", "worker_ids",
    )  # fmt: skip

    def __init__(self, said: Mapping[str, Any]) -> None:
        """Take the columns, their moments as text or as such; ValueError if one lacks that no execution can do without.

        Supervisors and Ray nodes of two versions work side by side: what only a newer supervisor says is ignored.
        """
        try:
            self.task_id: str = said["task_id"]
            self.callable_path: str = said["callable_path"]
            self.worker_ids: list[str] = said["worker_ids"]
            self.attempt_number: int = said["attempt_number"]
        except KeyError as error:
            raise ValueError(f"The supervisor that sent this execution does not say its {error.args[0]}.") from None
        say = said.get
        self.state: str = say("state", "RUNNING")
        self.backend: str = say("backend", DEFAULT_TASK_BACKEND_ALIAS)
        self.queue_name: str = say("queue_name", DEFAULT_TASK_QUEUE_NAME)
        self.priority: int = say("priority", DEFAULT_TASK_PRIORITY)
        self.args: list[Any] = say("args", [])
        self.kwargs: dict[str, Any] = say("kwargs", {})
        self.options: dict[str, Any] | None = say("options")
        self.failures: int = say("failures", 0)
        self.errors: list[dict[str, Any]] = say("errors", [])
        self.carrier: dict[str, Any] | None = say("carrier")
        self.finished_at: datetime | None = None
        self.result: Any = None
        self._said = said

    @property
    def run_after(self) -> datetime | None:  # noqa: D102
        return self._moment("run_after")

    @property
    def enqueued_at(self) -> datetime:  # noqa: D102
        return self._moment("enqueued_at") or timezone.now()

    @property
    def started_at(self) -> datetime | None:  # noqa: D102
        return self._moment("started_at")

    @property
    def last_attempted_at(self) -> datetime | None:  # noqa: D102
        return self._moment("last_attempted_at")

    def _moment(self, name: str) -> datetime | None:
        said = self._said.get(name)
        return said if isinstance(said, datetime) else parsed(said)


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

    @classmethod
    def of_row(cls, row: ClaimedRow) -> Self:
        """Return the fence of the row of a claim."""
        return cls(row.task_id, row.attempt_number, int(row.worker_ids[-1]))
