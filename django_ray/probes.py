"""What keeps an execution from running, as far as rows tell: one probe of an index for each question, up to MOST rows.

The questions are those of why.py. A role that may not see a table is not asked for it: see Sight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from django_ray.gates import RayGate
from django_ray.probing import select

__all__ = [
    "MOST",
    "MOST_RUNNING",
    "Gate",
    "Lock",
    "Sight",
    "before_behind_gate",
    "before_in_queue",
    "gate_of",
    "is_alone",
    "lock_of",
    "running_of",
    "sight_of",
    "unmet_of",
    "without_session",
]

MOST = 1000  # What is counted up to; one more says "more than".
MOST_RUNNING = 10_000  # That run behind a gate, or in the names of supervisors.
_MOST_SESSIONS = 20  # Supervisors of whom it is looked whether they are here.


@dataclass(frozen=True, slots=True)
class Sight:
    """What our role may look at."""

    queues: bool
    supervisors: bool
    gates: bool
    sessions: bool
    edges: bool


def sight_of(alias: str) -> Sight:
    """Return what our role may look at."""
    (row,) = select(alias, _SIGHT)
    return Sight(**row)


_SIGHT = """
SELECT
    has_table_privilege('django_ray_queue', 'SELECT') AS queues,
    has_table_privilege('django_ray_worker', 'SELECT') AS supervisors,
    has_table_privilege('django_ray_gate', 'SELECT')
        AND has_function_privilege('django_ray_gate_rule(text, text, jsonb)', 'EXECUTE')
        AND has_function_privilege('django_ray_number(jsonb, float8, float8)', 'EXECUTE') AS gates,
    has_function_privilege('django_ray_session(int)', 'EXECUTE') AS sessions,
    has_table_privilege('django_ray_edge', 'SELECT') AS edges
"""


@dataclass(frozen=True, slots=True)
class Lock:
    """Of a row, by another transaction."""

    pid: int | None  # Of its process on the server; None is a prepared transaction.


def lock_of(alias: str, task_id: Any) -> Lock | None:
    """Return who has locked the row. To ask locks nothing: no claim passes it over because of that."""
    rows = select(alias, _LOCK, task_id=task_id)
    return Lock(**rows[0]) if rows else None


_LOCK = """
SELECT pid FROM pg_locks
WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted AND pid IS DISTINCT FROM pg_backend_pid()
    AND transactionid = (SELECT xmax FROM django_ray_execution WHERE task_id = %(task_id)s)
LIMIT 1
"""


def unmet_of(alias: str, task_id: Any) -> tuple[int, Any]:
    """Return how many executions it still waits for, and the first of them; none if that has gone."""
    (row,) = select(alias, _UNMET, task_id=task_id, most=MOST)
    if row["first"] is None:
        return row["number"], None
    (first,) = select(alias, _FIRST, task_id=row["first"]) or (None,)
    return row["number"], None if first is None else SimpleNamespace(**first)


_UNMET = """
SELECT count(*) AS number, min(upstream_id::text)::uuid AS first FROM (
    SELECT upstream_id FROM django_ray_edge WHERE downstream_id = %(task_id)s AND NOT met
    ORDER BY downstream_id, upstream_id LIMIT %(most)s
) AS edge
"""
_FIRST = "SELECT task_id, callable_path, state FROM django_ray_execution WHERE task_id = %(task_id)s"


def before_in_queue(alias: str, row: Any) -> int:
    """Return how many claimable executions of its queue come before it: by priority, then by age."""
    return _number(alias, _BEFORE_IN_QUEUE, row)


# The first of the queue, as they are claimed. The id is no condition: its own index leads past all that has ended.
_BEFORE_IN_QUEUE = """
SELECT count(*) AS number FROM (
    SELECT priority, task_id FROM django_ray_execution
    WHERE backend = %(backend)s AND queue_name = %(queue)s AND state = 'READY' AND due_at IS NULL
    ORDER BY backend, queue_name, priority DESC, task_id
    LIMIT %(most)s + 1
) AS first
WHERE priority > %(priority)s OR priority = %(priority)s AND task_id < %(task_id)s
"""


def before_behind_gate(alias: str, row: Any) -> int:
    """Return how many of its queue come before it at its gate: by priority, then by age."""
    return _number(alias, _BEFORE_BEHIND_GATE, row)


# An index leads to each priority that there is, 201 at most, and from there to the gate. Gate and id are compared as
# one, or the planner would take the order of the ids, or an index in which the other queues of the gate stand as well.
_BEFORE_BEHIND_GATE = """
WITH RECURSIVE class(priority) AS (
    (SELECT priority FROM django_ray_execution
     WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT priority FROM django_ray_execution
            WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND priority < class.priority
            ORDER BY priority DESC LIMIT 1)
    FROM class WHERE class.priority > %(priority)s
)
SELECT count(*) AS number FROM (
    SELECT FROM class CROSS JOIN LATERAL (
        SELECT FROM django_ray_execution AS other
        WHERE backend = %(backend)s AND state = 'WAITING' AND other.priority = class.priority
            AND gate IS NOT NULL AND queue_name = %(queue)s
            AND (gate, task_id) >= (%(gate)s, '00000000-0000-0000-0000-000000000000')
            AND (gate, task_id) < (%(gate)s, CASE
                WHEN class.priority > %(priority)s THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE %(task_id)s
            END)
        ORDER BY gate, task_id LIMIT %(most)s + 1
    ) AS one
    WHERE class.priority >= %(priority)s
    LIMIT %(most)s + 1
) AS before
"""


def _number(alias: str, sql: str, row: Any) -> int:
    (found,) = select(
        alias, sql, backend=row.backend, queue=row.queue_name, priority=row.priority, gate=row.gate, task_id=row.pk,
        most=MOST,
    )  # fmt: skip
    return int(found["number"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What holds at a gate now."""

    limit: int | None
    running: int
    seconds: float | None  # From one start to the next; None is no rate.
    next_in: float | None  # Seconds until the next one may start, as far as the rate says.
    closed_by: RayGate | None = None  # Whose row says the limit, if not the code.


def gate_of(alias: str, row: Any, sight: Sight) -> Gate:
    """Return what holds at the gate of an execution; what only it says, where our role sees no gates."""
    if sight.gates:
        (rule,) = select(alias, _RULE, backend=row.backend, gate=row.gate, task_id=row.pk)
    else:
        limit = row.gate_rule.get("limit") if isinstance(row.gate_rule, dict) else None
        rule = {"most": limit if isinstance(limit, int) else None, "seconds": None, "next_in": None}
    # Of a lane the limit is 0, so that nobody takes it for a gate.
    most = None if row.gate.startswith("!") else rule["most"]
    (running,) = select(alias, _RUNNING_THERE, backend=row.backend, gate=row.gate, most=most)
    return Gate(
        limit=rule["most"],
        running=running["number"],
        seconds=rule["seconds"],
        next_in=rule["next_in"],
        closed_by=_override(alias, row) if sight.gates else None,
    )


def _override(alias: str, row: Any) -> RayGate | None:
    family = f"{row.gate.split(':')[0]}:*"
    gates: Any = RayGate._base_manager.using(alias).filter(backend=row.backend, limit__isnull=False)  # noqa: SLF001
    rows: dict[str, RayGate] = {one.name: one for one in gates.filter(name__in=[row.gate, family])}
    return rows.get(row.gate) or rows.get(family)


_RULE = """
SELECT most, seconds, extract(epoch FROM next_at - clock_timestamp())::float8 AS next_in
FROM django_ray_execution, django_ray_gate_rule(%(backend)s, %(gate)s, gate_rule) WHERE task_id = %(task_id)s
"""
_RUNNING_THERE = f"""
SELECT count(*) AS number FROM (
    SELECT FROM django_ray_execution WHERE backend = %(backend)s AND gate = %(gate)s AND state = 'RUNNING'
    LIMIT least(%(most)s::int, {MOST_RUNNING + 1})
) AS running
"""  # noqa: S608 - a constant


def is_alone(alias: str, row: Any) -> bool:
    """Tell whether nothing waits behind another gate of its backend."""
    (found,) = select(alias, _OTHERS, backend=row.backend, gate=row.gate)
    return not found["others"]


_OTHERS = """
SELECT (
    SELECT gate FROM django_ray_execution WHERE backend = %(backend)s AND gate < %(gate)s AND state = 'WAITING'
    ORDER BY gate DESC LIMIT 1
) IS NOT NULL OR (
    SELECT gate FROM django_ray_execution WHERE backend = %(backend)s AND gate > %(gate)s AND state = 'WAITING'
    ORDER BY gate LIMIT 1
) IS NOT NULL AS others
"""


def running_of(alias: str, supervisors: Sequence[int]) -> int:
    """Return how many executions run in the names of supervisors."""
    (found,) = select(alias, _RUNNING_OF, ids=list(supervisors), most=MOST_RUNNING)
    return int(found["number"])


_RUNNING_OF = """
SELECT count(*) AS number FROM (
    SELECT FROM django_ray_execution WHERE state = 'RUNNING' AND claimed_by_id = ANY (%(ids)s) LIMIT %(most)s
) AS running
"""


def without_session(alias: str, supervisors: Sequence[int]) -> set[int]:
    """Return those of the first few that have no session: they are connecting again, or dead and not found yet."""
    rows = select(
        alias,
        "SELECT id FROM unnest(%(ids)s::int[]) AS id WHERE django_ray_session(id) IS NULL",
        ids=list(supervisors[:_MOST_SESSIONS]),
    )
    return {row["id"] for row in rows}
