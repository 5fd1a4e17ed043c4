"""The row of a claim, in a Ray worker: what the claim carries, or, where that would be too much, what the row says.

A claim carries what fits. Of others it names the attempt alone, and the row is read here, through the project's own
connection and by the fence: who has lost the attempt meanwhile reads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.db.models import Q
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS

from django_ray.databases import database_of
from django_ray.rows import ClaimedRow, Fence

__all__ = ["claimed_row", "database_of_claim", "fenced"]

_decode = json.JSONDecoder().raw_decode  # without looking for blanks around it


def claimed_row(payload: str) -> ClaimedRow:
    """Return the row of a claim; any error says why it cannot be read."""
    columns, _ = _decode(payload)
    row = ClaimedRow(columns) if "callable_path" in columns else _fetched(columns)
    args: Any = row.args
    kwargs: Any = row.kwargs
    # Whoever wrote them by SQL may have written what Python cannot read.
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ValueError("Its arguments cannot be read: they are nested too deeply, or numbers of too many digits.")  # noqa: TRY004
    return row


def database_of_claim(columns: Mapping[str, Any]) -> str:
    """Return the database in which the row of a claim is. Supervisors of earlier versions do not say the backend."""
    return database_of(columns.get("backend", DEFAULT_TASK_BACKEND_ALIAS))


def fenced(fence: Fence) -> Q:
    """Return what is true of the row as long as the attempt is the supervisor's."""
    return Q(task_id=fence.task_id, attempt_number=fence.attempt_number, claimed_by=fence.worker)


def _fetched(claim: Mapping[str, Any]) -> ClaimedRow:
    from django_ray.models import RayTaskExecution

    rows: Any = RayTaskExecution._base_manager.using(database_of_claim(claim))  # noqa: SLF001
    columns: dict[str, Any] | None = rows.filter(fenced(Fence.of(claim))).values(*ClaimedRow.COLUMNS).first()
    if columns is None:
        raise LookupError("The attempt is not its supervisor's any more.")
    columns["task_id"] = str(columns["task_id"])
    return ClaimedRow(columns)
