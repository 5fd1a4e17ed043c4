"""Flows, looked at anew: what edges say, what is held, what has failed because of another one. For an operator.

Triggers see to all of it. This is for rows that were written without them: by a restore, by a replica's role, by hand.
Each batch is a transaction of its own, waits for nobody, and changes nothing where all is as it has to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from uuid import UUID

from django.db import transaction

from django_ray.probing import select

__all__ = ["Repair", "repaired"]

BATCH = 500

type _Step = Callable[[str, UUID], tuple[Repair, UUID | None]]  # What a batch was, and after which id the next begins.


@dataclass(slots=True)
class Repair:
    """What was looked at, and what was changed."""

    upstreams: int = 0  # Looked at.
    marked: int = 0  # Upstreams that did not say that they are.
    edges: int = 0  # Met now, or not met any more, or looked at late.
    deleted: int = 0  # Edges of downstreams that are gone.
    held: int = 0  # Executions that wait now.
    freed: int = 0  # Those that may start now, as far as it depends on others.
    failed: int = 0  # Those that have failed now, because of another one.
    locked: int = 0  # What somebody has locked: executions, or batches of upstreams. Supervisors look at the latter.

    @property
    def changed(self) -> int:
        """How many rows were written."""
        return self.marked + self.edges + self.deleted + self.held + self.freed + self.failed

    def add(self, other: Repair) -> None:
        """Add what another batch was."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


def repaired(alias: str) -> Repair:
    """Have everything in a database that depends on others be what it has to be; return what that has changed."""
    all_of_it = Repair()
    steps: tuple[_Step, ...] = (_hold, _settle, _free)
    for step in steps:
        last: UUID | None = UUID(int=0)
        while last is not None:
            # Durable: what has been written is told by the number of the transaction.
            with transaction.atomic(using=alias, durable=True):
                batch, last = step(alias, last)
            all_of_it.add(batch)
    return all_of_it


def _hold(alias: str, last: UUID) -> tuple[Repair, UUID | None]:
    """Have executions be held that have an edge that is not met: the trigger does it."""
    ids = _ids(alias, _UNMET, last)
    if not ids:
        return Repair(), None
    (wanted,) = select(alias, _TO_HOLD, ids=ids)
    held = len(select(alias, _HOLD, ids=ids))
    return Repair(held=held, locked=wanted["number"] - held), ids[-1]


# One probe of an index for each.
_UNMET = """
WITH RECURSIVE walk(id, number) AS (
    SELECT (
        SELECT downstream_id FROM django_ray_edge WHERE NOT met AND downstream_id > %(last)s
        ORDER BY downstream_id LIMIT 1
    ), 1
    UNION ALL
    SELECT (
        SELECT downstream_id FROM django_ray_edge WHERE NOT met AND downstream_id > walk.id
        ORDER BY downstream_id LIMIT 1
    ), number + 1
    FROM walk WHERE walk.id IS NOT NULL AND number < %(most)s
)
SELECT id FROM walk WHERE id IS NOT NULL ORDER BY number
"""
_TO_HOLD = """
SELECT count(*) AS number FROM django_ray_execution
WHERE task_id = ANY (%(ids)s::uuid[]) AND needs IS NOT NULL
    AND (state = 'READY' OR state = 'WAITING' AND gate IS NOT NULL)
"""
_HOLD = """
UPDATE django_ray_execution SET state = 'READY' WHERE task_id = ANY (ARRAY(
    SELECT task_id FROM django_ray_execution
    WHERE task_id = ANY (%(ids)s::uuid[]) AND needs IS NOT NULL
        AND (state = 'READY' OR state = 'WAITING' AND gate IS NOT NULL)
    ORDER BY task_id FOR NO KEY UPDATE SKIP LOCKED
)) RETURNING 1 AS one
"""


def _settle(alias: str, last: UUID) -> tuple[Repair, UUID | None]:
    """Settle what is downstream of upstreams, as their ends would."""
    ids = _ids(alias, _UPSTREAMS, last)
    if not ids:
        return Repair(), None
    batch = Repair(upstreams=len(ids), marked=len(select(alias, _MARK, ids=ids)))
    (reach,) = select(alias, _REACH, ids=ids)  # before: what has changed is not in reach any more
    before = {row["task_id"]: row["what"] for row in select(alias, _STATES, ids=reach["ids"])}
    (settled,) = select(alias, "SELECT django_ray_settle(%(ids)s::uuid[]) AS has_locked", ids=ids)
    batch.locked = int(settled["has_locked"])
    (written,) = select(alias, _EDGES, ids=ids)
    batch.edges = written["number"]
    for row in select(alias, _STATES, ids=reach["ids"]):
        if (what := row["what"]) != before.get(row["task_id"]):
            setattr(batch, what, getattr(batch, what) + 1)
    batch.deleted = len(select(alias, _DELETE, ids=ids))
    return batch, ids[-1]


_UPSTREAMS = """
WITH RECURSIVE walk(id, number) AS (
    SELECT (SELECT upstream_id FROM django_ray_edge WHERE upstream_id > %(last)s ORDER BY upstream_id LIMIT 1), 1
    UNION ALL
    SELECT (
        SELECT upstream_id FROM django_ray_edge WHERE upstream_id > walk.id ORDER BY upstream_id LIMIT 1
    ), number + 1
    FROM walk WHERE walk.id IS NOT NULL AND number < %(most)s
)
SELECT id FROM walk WHERE id IS NOT NULL ORDER BY number
"""
_MARK = """
UPDATE django_ray_execution SET is_upstream = true WHERE task_id = ANY (ARRAY(
    SELECT task_id FROM django_ray_execution WHERE task_id = ANY (%(ids)s::uuid[]) AND NOT is_upstream
    ORDER BY task_id FOR NO KEY UPDATE SKIP LOCKED
)) RETURNING 1 AS one
"""
_REACH = "SELECT coalesce(array_agg(DISTINCT task_id), '{}') AS ids FROM django_ray_reach(%(ids)s::uuid[], '{}')"
_EDGES = """
SELECT count(*) AS number FROM django_ray_edge
WHERE upstream_id = ANY (%(ids)s::uuid[]) AND xmin = pg_current_xact_id()::xid
"""
_STATES = """
SELECT task_id, CASE
    WHEN state = 'FAILED' THEN 'failed' WHEN state = 'WAITING' AND gate IS NULL THEN 'held' ELSE 'freed'
END AS what
FROM django_ray_execution WHERE task_id = ANY (%(ids)s::uuid[])
"""
_DELETE = """
DELETE FROM django_ray_edge AS edge
WHERE upstream_id = ANY (%(ids)s::uuid[])
    AND NOT EXISTS (SELECT FROM django_ray_execution WHERE task_id = edge.downstream_id)
RETURNING 1 AS one
"""


def _free(alias: str, last: UUID) -> tuple[Repair, UUID | None]:
    """Have executions start that are held without a reason."""
    rows = select(alias, _FREE, last=last, most=BATCH)
    return Repair(freed=len(rows)), max((row["task_id"] for row in rows), default=None)


_FREE = """
UPDATE django_ray_execution
SET state = 'READY', due_at = CASE WHEN run_after > statement_timestamp() THEN run_after END
WHERE task_id = ANY (ARRAY(
    SELECT task_id FROM django_ray_execution AS execution
    WHERE state = 'WAITING' AND gate IS NULL AND needs IS NOT NULL AND task_id > %(last)s
        AND NOT EXISTS (SELECT FROM django_ray_edge WHERE downstream_id = execution.task_id AND NOT met)
    ORDER BY task_id LIMIT %(most)s FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING task_id
"""


def _ids(alias: str, sql: str, last: UUID) -> list[UUID]:
    return [row["id"] for row in select(alias, sql, last=last, most=BATCH)]
