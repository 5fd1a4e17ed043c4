"""The history on the page of an execution, as far as its row tells."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django_ray.models import RayTaskExecution, State

__all__ = ["history"]


def history(row: RayTaskExecution) -> list[dict[str, Any]]:
    """Return what is known to have happened to an execution, in order."""
    events: list[dict[str, Any]] = [{"at": row.enqueued_at, "what": "Enqueued"}]
    if row.run_after and row.run_after > row.enqueued_at:
        events.append({"at": row.run_after, "what": "Due"})
    if row.started_at and row.started_at != row.last_attempted_at:
        events.append({"at": row.started_at, "what": "First attempt started", "worker": row.worker_ids[0]})
    for error in row.errors:
        at = datetime.fromisoformat(error["at"])
        if error["exception_class_path"] != "django_ray.exceptions.TaskCancelled":
            events.append(
                {"at": at, "what": f"Attempt {error['attempt']} failed", "error": error, "worker": error["worker_id"]}
            )
    if row.last_attempted_at and row.state != State.READY:
        what = f"Attempt {len(row.worker_ids)} started"
        events.append({"at": row.last_attempted_at, "what": what, "worker": row.worker_ids[-1]})
    if row.cancel_requested_at:
        events.append({"at": row.cancel_requested_at, "what": "Cancelling was asked for"})
    if row.finished_at:
        events.append({"at": row.finished_at, "what": State(row.state).label, "state": row.state.lower()})
    events.sort(key=lambda event: event["at"])
    if failures := [event for event in events if "error" in event]:
        failures[-1]["is_last"] = True
    return events
