"""How gates stand now: what waits behind them and runs, since when, and what holds there. For who shows them.

Gates need no row, and there may be one for each customer: so it is looked at WALKED of a backend, in the order of their
names, from a prefix on, and at a bounded number of rows of each. Those behind which most waits come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from django_ray.gates import RayGate
from django_ray.probing import planned_by_index, select

__all__ = ["FEW", "MOST_SHOWN", "WALKED", "Standing", "gates_standing", "oldest_behind_gates"]

WALKED = 500  # Gates of a backend that are looked at.
MOST_SHOWN = 300  # Of these, and of overrides.
FEW = 100  # What waits behind each is counted up to; behind the first of them, up to MOST.
MOST = 1000
_COUNTED = 50
_LARGEST = "\U0010ffff"  # No name is above it.


FIRST_GATE = '"'  # What comes before it in the order of names is a lane.


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One gate, or the override of one where nothing is."""

    backend: str
    name: str
    waiting: int  # Up to MOST + 1, or FEW + 1.
    running: int  # Up to MOST + 1.
    oldest: float | None  # Seconds since the oldest that waits could have started; None when nothing waits.
    limit: int | None  # That holds; None is none.
    seconds: float | None  # From one start to the next; None is no rate.
    next_in: float | None  # Seconds until the next start, as far as the rate says; less than 0 is since.
    row: RayGate | None  # Its own, which may override something.
    family: RayGate | None  # That of the name with a star.

    @property
    def is_cut(self) -> bool:
        """Whether more may wait than was counted."""
        return self.waiting in {FEW + 1, MOST + 1}

    @property
    def override(self) -> RayGate | None:
        """The row that says something else than the code, the own one first."""
        return next((row for row in (self.row, self.family) if row is not None and row.overrides), None)


def gates_standing(alias: str, backends: Sequence[str], prefix: str = "") -> list[Standing]:
    """Return the gates of backends whose names begin with a prefix: where most waits, and what is overridden.

    Lanes are no gates; their names begin with an exclamation mark, and come before these.
    """
    lowest = prefix or FIRST_GATE
    found: list[Standing] = []
    for backend in backends:
        with planned_by_index(alias):
            live = select(
                alias, _LIVE, backend=backend, lowest=lowest, highest=prefix + _LARGEST, walked=WALKED,
                shown=MOST_SHOWN, few=FEW, most=MOST, counted=_COUNTED,
            )  # fmt: skip
        names = [one["name"] for one in live]
        rows = _rows(alias, backend, names, lowest)
        found += [_standing(backend, one, rows) for one in live]
        idle = [
            name for name, row in rows.items() if row.overrides and name.startswith(prefix) and name not in set(names)
        ]
        found += [_standing(backend, _idle(rows[name]), rows) for name in sorted(idle)]
    return found


def _rows(alias: str, backend: str, names: Sequence[str], prefix: str) -> dict[str, RayGate]:
    """Return the rows that these names may have, and other overrides."""
    families = [_family(name) for name in names]
    gates: Any = RayGate._base_manager.using(alias).filter(backend=backend)  # noqa: SLF001
    rows: dict[str, RayGate] = {row.name: row for row in gates.filter(name__in={*names, *families})}
    overrides = gates.filter(Q(limit__isnull=False) | Q(rate_count__isnull=False), name__gte=prefix)
    return rows | {row.name: row for row in overrides.order_by("name")[:MOST_SHOWN]}


def _idle(row: RayGate) -> dict[str, Any]:
    """Return how a gate stands behind which nothing is, as far as its override says."""
    seconds = row.rate_per / row.rate_count if row.rate_per and row.rate_count else None
    said = {"name": row.name, "limit": row.limit, "seconds": seconds}
    return {**said, "waiting": 0, "running": 0, "oldest": None, "next_in": None}


def _standing(backend: str, said: dict[str, Any], rows: dict[str, RayGate]) -> Standing:
    name = said["name"]
    return Standing(backend=backend, **said, row=rows.get(name), family=rows.get(_family(name)))


def _family(name: str) -> str:
    return f"{name.partition(':')[0]}:*"


# Ordered as an index is, or the planner would take another one, and read past what waits behind other gates.
_LIVE = """
WITH RECURSIVE walk(gate) AS (
    (SELECT gate::text FROM django_ray_execution
     WHERE backend = %(backend)s AND gate >= %(lowest)s AND gate < %(highest)s AND state IN ('WAITING', 'RUNNING')
     ORDER BY gate LIMIT 1)
    UNION ALL
    SELECT (SELECT gate::text FROM django_ray_execution
            WHERE backend = %(backend)s AND gate > walk.gate COLLATE "C" AND gate < %(highest)s
                AND state IN ('WAITING', 'RUNNING')
            ORDER BY gate LIMIT 1)
    FROM walk WHERE walk.gate IS NOT NULL
), few AS MATERIALIZED (
    SELECT
        gate,
        (SELECT count(*) FROM (
            SELECT FROM django_ray_execution AS row
            WHERE backend = %(backend)s AND row.gate >= live.gate COLLATE "C" AND row.gate <= live.gate COLLATE "C"
                AND state = 'WAITING'
            ORDER BY row.gate LIMIT %(few)s + 1
        ) AS waits) AS waiting,
        (SELECT count(*) FROM (
            SELECT FROM django_ray_execution AS row
            WHERE backend = %(backend)s AND row.gate >= live.gate COLLATE "C" AND row.gate <= live.gate COLLATE "C"
                AND state = 'RUNNING'
            ORDER BY row.gate LIMIT %(most)s + 1
        ) AS runs) AS running
    FROM (SELECT gate FROM walk WHERE gate IS NOT NULL LIMIT %(walked)s) AS live
), first AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY waiting DESC, running DESC, gate) AS place FROM few
    ORDER BY place LIMIT %(shown)s
), many AS MATERIALIZED (
    SELECT
        gate, running, place,
        CASE WHEN waiting <= %(few)s OR place > %(counted)s THEN waiting ELSE (
            SELECT count(*) FROM (
                SELECT FROM django_ray_execution AS row
                WHERE backend = %(backend)s AND row.gate >= first.gate COLLATE "C"
                    AND row.gate <= first.gate COLLATE "C" AND state = 'WAITING'
                ORDER BY row.gate LIMIT %(most)s + 1
            ) AS waits
        ) END AS waiting
    FROM first
), part(priority, queue) AS (
    -- Each priority and queue in which something waits behind a gate.
    (SELECT priority, queue_name::text FROM django_ray_execution
     WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL
     ORDER BY priority DESC, queue_name LIMIT 1)
    UNION ALL
    SELECT next.* FROM part CROSS JOIN LATERAL (
        (SELECT priority, queue_name::text FROM django_ray_execution AS row
         WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND row.priority = part.priority
            AND queue_name > part.queue COLLATE "C"
         ORDER BY queue_name, gate, task_id LIMIT 1)
        UNION ALL
        (SELECT priority, queue_name::text FROM django_ray_execution AS row
         WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND row.priority < part.priority
         ORDER BY priority DESC, queue_name LIMIT 1)
        LIMIT 1
    ) AS next
), parts AS MATERIALIZED (
    SELECT * FROM part LIMIT 50
)
SELECT
    many.gate AS name, waiting::int AS waiting, running::int AS running,
    extract(epoch FROM statement_timestamp() - greatest(head.run_after, head.enqueued_at))::float8 AS oldest,
    rule.most AS limit, rule.seconds, extract(epoch FROM rule.next_at - clock_timestamp())::float8 AS next_in
FROM many
LEFT JOIN LATERAL (
    SELECT one.* FROM parts CROSS JOIN LATERAL (
        SELECT task_id, enqueued_at, run_after, gate_rule FROM django_ray_execution AS row
        WHERE backend = %(backend)s AND state = 'WAITING' AND row.priority = parts.priority
            AND queue_name = parts.queue COLLATE "C" AND row.gate >= many.gate COLLATE "C"
            AND row.gate <= many.gate COLLATE "C"
        ORDER BY row.gate, task_id LIMIT 1
    ) AS one
    ORDER BY task_id LIMIT 1
) AS head ON true
LEFT JOIN LATERAL (
    SELECT gate_rule FROM django_ray_execution AS row
    WHERE backend = %(backend)s AND row.gate = many.gate COLLATE "C" AND state = 'RUNNING' AND head.task_id IS NULL
    LIMIT 1
) AS body ON true
CROSS JOIN LATERAL django_ray_gate_rule(%(backend)s, many.gate, coalesce(head.gate_rule, body.gate_rule)) AS rule
ORDER BY place
"""


def oldest_behind_gates(alias: str, backend: str) -> float | None:
    """Return for how many seconds the oldest has waited, behind the gates that are looked at; None for nothing."""
    (found,) = select(alias, _OLDEST, backend=backend, walked=WALKED)
    oldest: float | None = found["oldest"]
    return None if oldest is None else max(0.0, oldest)


_OLDEST = """
WITH RECURSIVE walk(priority, queue, gate, since) AS (
    (SELECT priority, queue_name::text, gate::text, greatest(run_after, enqueued_at) FROM django_ray_execution
     WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL
     ORDER BY priority DESC, queue_name, gate, task_id LIMIT 1)
    UNION ALL
    SELECT next.* FROM walk CROSS JOIN LATERAL (
        (SELECT priority, queue_name::text, gate::text, greatest(run_after, enqueued_at)
         FROM django_ray_execution AS row
         WHERE backend = %(backend)s AND state = 'WAITING' AND row.priority = walk.priority
            AND queue_name = walk.queue COLLATE "C" AND row.gate > walk.gate COLLATE "C"
         ORDER BY row.gate, task_id LIMIT 1)
        UNION ALL
        (SELECT priority, queue_name::text, gate::text, greatest(run_after, enqueued_at)
         FROM django_ray_execution AS row
         WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND row.priority = walk.priority
            AND queue_name > walk.queue COLLATE "C"
         ORDER BY queue_name, row.gate, task_id LIMIT 1)
        UNION ALL
        (SELECT priority, queue_name::text, gate::text, greatest(run_after, enqueued_at)
         FROM django_ray_execution AS row
         WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND row.priority < walk.priority
         ORDER BY priority DESC, queue_name, row.gate, task_id LIMIT 1)
        LIMIT 1
    ) AS next
)
SELECT extract(epoch FROM statement_timestamp() - min(since))::float8 AS oldest
FROM (SELECT since FROM walk LIMIT %(walked)s) AS walk
"""
