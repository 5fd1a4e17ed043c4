"""Where an execution stands, in the words of the pages: a state, and of READY and WAITING what has to happen first.

READY is claimable, or due later for one of several reasons; WAITING is behind a gate, in a lane, or for others. People
ask for these one by one, so each has a name, and a condition that finds its rows.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Q
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from django_ray.models import RayQueue, State

__all__ = ["READY", "SITUATIONS", "Situation", "paused_queues", "rows_in", "situation"]


class Situation(NamedTuple):
    """One of them."""

    name: str  # In addresses.
    label: str | Promise
    style: str  # A class of the pages: dr-ready, for instance.


WAITING = Situation("waiting", _("Waiting"), "ready")
SCHEDULED = Situation("scheduled", _("Scheduled"), "scheduled")
RETRYING = Situation("retrying", _("Retrying"), "retrying")
UNKNOWN = Situation("unknown", _("Code unknown"), "retrying")
PAUSED = Situation("paused", _("Queue paused"), "paused")
GATED = Situation("gate", _("Behind a gate"), "ready")
IN_LANE = Situation("lane", _("Waits for a place"), "ready")
HELD = Situation("held", _("Waits for others"), "ready")

READY = (WAITING, PAUSED, SCHEDULED, RETRYING, UNKNOWN)
SITUATIONS = (*READY, GATED, IN_LANE, HELD)


def situation(row: Any, now: datetime, paused: Collection[tuple[str, str]]) -> Situation:
    """Return where it stands; paused has the backends and names of queues."""
    match row.state:
        case State.WAITING if row.gate is not None:
            return IN_LANE if row.gate.startswith("!") else GATED
        case State.WAITING if row.needs is not None:
            return HELD
        case State.READY:
            return _of_ready(row, now, paused)
        case state:
            return Situation(state.lower(), State(state).label, state.lower())


def _of_ready(row: Any, now: datetime, paused: Collection[tuple[str, str]]) -> Situation:
    if row.missing_since is not None:
        return UNKNOWN
    if row.due_at is not None and row.due_at > now:
        return RETRYING if row.worker_ids else SCHEDULED
    return PAUSED if (row.backend, row.queue_name) in paused else WAITING


def rows_in(name: str, now: datetime, database: str) -> Q | None:
    """Return the condition of the rows in a situation of READY or WAITING; None when there is no such situation."""
    later, known = Q(due_at__gt=now), Q(missing_since=None)
    paused = _of_queues(paused_queues(database))
    is_due = Q(state=State.READY) & ~later & known
    conditions = {
        "waiting": is_due & ~paused,
        "paused": is_due & paused,
        "scheduled": Q(state=State.READY, worker_ids=[]) & later & known,
        "retrying": Q(state=State.READY) & ~Q(worker_ids=[]) & later & known,
        "unknown": Q(state=State.READY, missing_since__isnull=False),
        "gate": Q(state=State.WAITING, gate__isnull=False) & ~Q(gate__startswith="!"),
        "lane": Q(state=State.WAITING, gate__startswith="!"),
        "held": Q(state=State.WAITING, gate=None, needs__isnull=False),
    }
    return conditions.get(name)


def paused_queues(database: str) -> set[tuple[str, str]]:
    """Return the backends and names of the queues that are paused."""
    paused = RayQueue.objects.using(database).filter(paused_at__isnull=False)
    return set(paused.values_list("backend", "name"))


def _of_queues(queues: Collection[tuple[str, str]]) -> Q:
    found = Q(pk__in=[])
    for backend, name in queues:
        found |= Q(backend=backend, queue_name=name)
    return found
