"""The history on the page of an execution, as far as its row tells."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from django_ray.models import RayTaskExecution, State
from django_ray.rows import StoredError, supervisors_of

__all__ = ["history"]


def history(row: RayTaskExecution) -> list[dict[str, Any]]:
    """Return what is known to have happened to an execution, in order; what an error does not tell is left out."""
    supervisors = supervisors_of(row.worker_ids) or [""]
    events: list[dict[str, Any]] = [{"at": row.tick, "what": _("Due by its schedule")}] if row.tick else []
    events.append({"at": row.enqueued_at, "what": _("Enqueued")})
    if row.run_after and row.run_after > row.enqueued_at:
        events.append({"at": row.run_after, "what": _("Due")})
    if row.started_at and row.started_at != row.last_attempted_at:
        events.append({"at": row.started_at, "what": _("First attempt started"), "worker": supervisors[0]})
    for error in StoredError.all_of(row.errors):
        if error.exception_class_path != "django_ray.exceptions.TaskCancelled":
            what = _("Attempt %(number)s failed") if error.attempt else _("An attempt failed")
            # Without a time of its own it stands where it was written: after what came before it.
            at = error.at or events[-1]["at"]
            events.append(
                {"at": at, "what": what % {"number": error.attempt}, "error": error, "worker": error.worker_id}
            )
    if row.last_attempted_at and row.state != State.READY:
        what = _("Attempt %(number)s started") % {"number": len(row.worker_ids)}
        events.append({"at": row.last_attempted_at, "what": what, "worker": supervisors[-1]})
    if row.cancel_requested_at:
        events.append({"at": row.cancel_requested_at, "what": _("Cancelling was asked for")})
    if row.finished_at:
        events.append({"at": row.finished_at, "what": State(row.state).label, "state": row.state.lower()})
    events.sort(key=lambda event: event["at"])
    if failures := [event for event in events if "error" in event]:
        failures[-1]["is_last"] = True
    return events
