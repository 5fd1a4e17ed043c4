"""What flows hold, for who shows them: how many executions in which state, which ones, and what they wait for.

Whatever a flow holds, a look at it has a bound: what is counted and read is by index, and up to a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django_ray.flows import FlowProgress
from django_ray.folding import Member
from django_ray.probing import planned_by_index, select

__all__ = [
    "BY_INTEREST", "MOST", "MOST_IN_LISTS", "edges_of", "flows_with", "is_cut", "late_edges", "members_of",
    "neighbours_of", "progress_of", "strangers",
]  # fmt: skip

MOST = 10_000  # Executions of a flow that are counted in one state; one more says "more than".
MOST_IN_LISTS = 1000  # The same where many flows are listed.
MOST_LATE = 1000
MOST_PATH = 300  # Characters.
BY_INTEREST = ("FAILED", "RUNNING", "READY", "WAITING", "CANCELLED", "SUCCESSFUL")
_FIELDS: Mapping[str, str] = {
    "WAITING": "blocked", "READY": "ready", "RUNNING": "running", "SUCCESSFUL": "successful", "FAILED": "failed",
    "CANCELLED": "cancelled",
}  # fmt: skip


def progress_of(alias: str, flows: Iterable[UUID], most: int = MOST) -> dict[UUID, FlowProgress]:
    """Return how many executions of each are in which state, each number up to most + 1."""
    ids = list(flows)
    found: dict[UUID, dict[str, int]] = {one: {} for one in ids}
    if ids:
        with planned_by_index(alias):
            for row in select(alias, _PROGRESS, flows=ids, states=list(_FIELDS), most=most):
                found[row["id"]][_FIELDS[row["state"]]] = row["number"]
    return {one: FlowProgress(**numbers) for one, numbers in found.items()}


_PROGRESS = """
SELECT flow.id, kind.state, counted.number
FROM unnest(%(flows)s::uuid[]) AS flow(id) CROSS JOIN unnest(%(states)s::text[]) AS kind(state)
CROSS JOIN LATERAL (
    SELECT count(*) AS number FROM (
        SELECT FROM django_ray_execution AS execution
        WHERE execution.flow_id = flow.id AND execution.state = kind.state LIMIT %(most)s + 1
    ) AS member
) AS counted
"""


def is_cut(progress: FlowProgress, most: int = MOST) -> bool:
    """Tell whether there are more than were counted."""
    return any(getattr(progress, name) > most for name in _FIELDS.values())


def flows_with(alias: str, states: Sequence[str], newest: int, most: int) -> list[UUID]:
    """Return those of the newest flows that hold an execution in one of these states, up to most."""
    with planned_by_index(alias):
        return [row["id"] for row in select(alias, _WITH, states=list(states), newest=newest, most=most)]


_WITH = """
SELECT id FROM (SELECT id FROM django_ray_flow ORDER BY id DESC LIMIT %(newest)s) AS flow
WHERE EXISTS (
    SELECT FROM unnest(%(states)s::text[]) AS kind(state) CROSS JOIN LATERAL (
        SELECT FROM django_ray_execution AS execution
        WHERE execution.flow_id = flow.id AND execution.state = kind.state LIMIT 1
    ) AS member
)
LIMIT %(most)s
"""


def members_of(alias: str, flow: UUID, most: int) -> list[Member]:
    """Return the executions of a flow, up to most: those first that somebody may want to see first."""
    with planned_by_index(alias):
        rows = select(alias, _MEMBERS, flow=flow, states=list(BY_INTEREST), most=most)
    return [_member(row) for row in rows]


# Compared as a whole, or the planner would take the order of the ids, and read past all that is in other states. Of a
# parent only a text is known: whoever writes SQL may have put anything there.
_MEMBERS = f"""
SELECT member.* FROM unnest(%(states)s::text[]) WITH ORDINALITY AS kind(state, place) CROSS JOIN LATERAL (
    SELECT
        task_id AS id, left(callable_path, {MOST_PATH}) AS path, execution.state, needs,
        left(carrier #>> '{{flow,parent}}', 36) AS parent
    FROM django_ray_execution AS execution
    WHERE flow_id IS NOT NULL
        AND (flow_id, execution.state, task_id) >= (%(flow)s, kind.state, '00000000-0000-0000-0000-000000000000')
        AND (flow_id, execution.state, task_id) <= (%(flow)s, kind.state, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY flow_id, execution.state, task_id LIMIT %(most)s
) AS member
LIMIT %(most)s
"""  # noqa: S608 - a constant


def edges_of(alias: str, downstreams: Iterable[str], most: int) -> list[tuple[str, str, bool]]:
    """Return what these executions wait for: upstream, downstream, met; up to most."""
    with planned_by_index(alias):
        rows = select(alias, _EDGES, ids=[UUID(one) for one in downstreams], most=most)
    return [(str(row["upstream_id"]), str(row["downstream_id"]), row["met"]) for row in rows]


_EDGES = """
SELECT edge.* FROM unnest(%(ids)s::uuid[]) AS one(id) CROSS JOIN LATERAL (
    SELECT upstream_id, downstream_id, met FROM django_ray_edge WHERE downstream_id = one.id
    ORDER BY downstream_id, place LIMIT %(most)s
) AS edge
LIMIT %(most)s
"""


def strangers(alias: str, ids: Iterable[str]) -> list[Member]:
    """Return executions that others wait for from without; some may be gone."""
    rows = select(alias, _STRANGERS, ids=[UUID(one) for one in ids])
    return [_member(row, is_outside=True) for row in rows]


_STRANGERS = f"""
SELECT task_id AS id, left(callable_path, {MOST_PATH}) AS path, state, needs
FROM django_ray_execution WHERE task_id = ANY (%(ids)s)
"""  # noqa: S608 - a constant


def neighbours_of(alias: str, task_id: UUID, most: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what an execution waits for, and what waits for it: up to most of each, and one more if there are more."""
    with planned_by_index(alias):
        upstreams = select(alias, _UPSTREAMS, task_id=task_id, most=most)
        downstreams = select(alias, _DOWNSTREAMS, task_id=task_id, most=most)
    return upstreams, downstreams


_UPSTREAMS = f"""
SELECT edge.upstream_id AS id, edge.met, left(execution.callable_path, {MOST_PATH}) AS path, execution.state
FROM (
    SELECT upstream_id, downstream_id, place, met FROM django_ray_edge WHERE downstream_id = %(task_id)s
    ORDER BY downstream_id, place LIMIT %(most)s + 1
) AS edge LEFT JOIN django_ray_execution AS execution ON execution.task_id = edge.upstream_id
"""  # noqa: S608 - a constant
_DOWNSTREAMS = f"""
SELECT edge.downstream_id AS id, edge.met, left(execution.callable_path, {MOST_PATH}) AS path, execution.state
FROM (
    SELECT upstream_id, downstream_id, met FROM django_ray_edge WHERE upstream_id = %(task_id)s
    ORDER BY upstream_id, downstream_id LIMIT %(most)s + 1
) AS edge LEFT JOIN django_ray_execution AS execution ON execution.task_id = edge.downstream_id
"""  # noqa: S608 - a constant


def late_edges(alias: str, backends: Sequence[str]) -> dict[str, int]:
    """Return how many edges somebody is in the way of, by backend, among the first MOST_LATE."""
    with planned_by_index(alias):
        rows = select(alias, _LATE, most=MOST_LATE)
    late = {row["backend"]: row["number"] for row in rows}
    return {backend: late.get(backend, 0) for backend in backends}


_LATE = """
SELECT backend, count(*) AS number FROM (
    SELECT downstream_id FROM django_ray_edge WHERE is_late ORDER BY downstream_id, upstream_id LIMIT %(most)s + 1
) AS late JOIN django_ray_execution ON task_id = downstream_id
GROUP BY backend
"""


def _member(row: dict[str, Any], *, is_outside: bool = False) -> Member:
    said: dict[str, Any] = {**row, "id": str(row["id"])}
    return Member(**said, is_outside=is_outside)
