"""An execution as those see it that have no model: what a result is made from, and the row as its claim saw it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

from django.conf import settings
from django.utils import timezone

__all__ = ["ClaimedRow", "Row"]


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


@dataclass(slots=True)
class ClaimedRow:
    """The row of a claim; a Row."""

    task_id: str
    state: str
    backend: str
    queue_name: str
    priority: int
    callable_path: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any] | None
    run_after: datetime | None
    enqueued_at: datetime
    started_at: datetime | None
    last_attempted_at: datetime | None
    attempt_number: int
    failures: int
    worker_ids: list[str]
    errors: list[dict[str, Any]]
    carrier: dict[str, str] | None = None
    finished_at: datetime | None = None
    result: Any = None

    @classmethod
    def of(cls, payload: str) -> Self:
        """Return the row whose JSON this is."""
        columns = json.loads(payload)
        is_aware = settings.USE_TZ
        for name in ("run_after", "enqueued_at", "started_at", "last_attempted_at"):
            if (text := columns[name]) is not None:
                moment = datetime.fromisoformat(text)
                columns[name] = moment if is_aware else timezone.make_naive(moment)
        return cls(**columns)
