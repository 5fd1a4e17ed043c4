"""Why an execution has not ended: one sentence, from its row, its queue and the supervisors that serve it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import DatabaseError
from django.db.models.functions import Now

from django_ray.retry import FREE_RELEASES
from django_ray.tables import Tables, execution_model

__all__ = ["why"]

_MOST = 1000  # Supervisors that are looked at.


def why(task_id: UUID) -> str:
    """Return the end of a sentence that says what it is waiting for; empty when it has ended or is gone."""
    from django_ray.models import State

    with Tables() as tables:
        rows: Any = execution_model()._base_manager.using(tables.alias)  # noqa: SLF001
        row = rows.annotate(now=Now()).filter(pk=task_id).first()
        if row is None:
            return ""
        if row.state == State.RUNNING:
            return f"attempt {len(row.worker_ids)} runs since {_ago(row.now - row.last_attempted_at)}"
        if row.state == State.WAITING:
            return "it is blocked: something else has to happen first"
        try:
            return _why_ready(row, tables.alias) if row.state == State.READY else ""
        except DatabaseError:  # a role that enqueues and reads results need not see queues and supervisors
            return ""


def _why_ready(row: Any, alias: str) -> str:
    from django_ray.models import RayQueue, RayWorker

    queue = RayQueue._base_manager.using(alias).filter(  # noqa: SLF001
        backend=row.backend, name=row.queue_name, paused_at__isnull=False
    )
    if (paused := queue.first()) is not None:
        return f"its queue {row.queue_name!r} is paused since {_ago(row.now - paused.paused_at)}: resume it"
    living = RayWorker._base_manager.using(alias).filter(  # noqa: SLF001
        backend=row.backend, stopped_at=None, lost_at=None
    )
    supervisors: list[Any] = list(living.order_by("-pulse_at")[:_MOST])
    serving = [one for one in supervisors if one.queues is None or row.queue_name in one.queues]
    if not serving:
        others = f"; {len(supervisors)} serve other queues" if supervisors else ""
        return (
            f"no supervisor serves the queue {row.queue_name!r} of backend {row.backend!r}{others}: start "
            "django-ray-listen"
        )
    latest = serving[0]
    if latest.pulse and row.now - latest.pulse_at > timedelta(seconds=3 * latest.pulse):
        silent = _ago(row.now - latest.pulse_at)
        return f"supervisor {latest.pk} serves its queue, and has been silent for {silent}: start django-ray-listen"
    if row.missing_since is not None:
        return (
            f"who took it could not begin it for {_ago(row.now - row.missing_since)}, and says why in the log of "
            "django-ray-listen: if its code is unknown there, restart it, or use --reload"
        )
    if row.due_at is not None and row.due_at > row.now:
        due = f"due in {_ago(row.due_at - row.now)}"
        if row.released > FREE_RELEASES:
            return f"it has come back {row.released} times without having ended, and is {due}"
        return f"the next attempt is {due}" if row.failures or row.losses else f"it is {due}"
    return "it waits for a free slot"


def _ago(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    return f"{seconds} s" if seconds < 120 else str(timedelta(seconds=seconds))  # noqa: PLR2004
