"""Figures of each task: how many ended, failed and were tried again, how long they waited and ran.

They are made of the executions themselves when somebody asks, the newest SAMPLE that ended within the span: so they
cost nothing while nobody looks, and the same beside a million rows. What was pruned is in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django_ray.probing import planned_by_index, select

__all__ = ["MOST_TASKS", "SAMPLE", "Figures", "Tasks", "Usual", "figures", "usual"]

SAMPLE = 20_000  # Executions.
MOST_TASKS = 200
NEWEST = 2000  # Executions that are looked at for what is usual of one task.
FEWEST = 5  # Of fewer nothing can be said.


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one task, in seconds."""

    callable_path: str
    ended: int
    failed: int
    retried: int  # Attempts after the first.
    run_p50: float | None
    run_p95: float | None
    wait_p50: float | None  # From claimable to the first attempt.
    wait_p95: float | None

    @property
    def error_rate(self) -> float:
        """The share that failed for good."""
        return self.failed / self.ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Those that ended in a span."""

    tasks: Sequence[Figures]  # That with the most executions first.
    since: datetime | None  # The first of the sample; None where nothing ended.
    is_sample: bool  # More ended in the span than the sample holds.


# Whatever somebody has written into a row: differences stop at what their type holds.
_FIGURES = """
WITH sample AS MATERIALIZED (
    SELECT
        callable_path, state, finished_at, greatest(jsonb_array_length(worker_ids) - 1, 0) AS again,
        CASE WHEN isfinite(last_attempted_at) THEN greatest(
            extract(epoch FROM finished_at) - extract(epoch FROM last_attempted_at), 0
        )::float8 END AS ran,
        CASE WHEN isfinite(started_at) AND isfinite(greatest(enqueued_at, run_after)) THEN greatest(
            extract(epoch FROM started_at) - extract(epoch FROM greatest(enqueued_at, run_after)), 0
        )::float8 END AS waited
    FROM django_ray_execution
    WHERE finished_at IS NOT NULL AND finished_at > statement_timestamp() - %(span)s::interval
        AND finished_at <= statement_timestamp() + interval '1 minute'
    ORDER BY finished_at DESC
    LIMIT %(sample)s
)
SELECT
    callable_path, count(*) AS ended, count(*) FILTER (WHERE state = 'FAILED') AS failed, sum(again)::bigint AS retried,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY ran) AS run_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY ran) AS run_p95,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) AS wait_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY waited) AS wait_p95,
    min(finished_at) AS first_at, (SELECT count(*) FROM sample) AS sampled
FROM sample GROUP BY callable_path ORDER BY count(*) DESC, callable_path LIMIT %(most)s
"""


def figures(database: str, span: timedelta) -> Tasks:
    """Return those of what ended in a database within a span, up to now."""
    with planned_by_index(database):
        rows = select(database, _FIGURES, span=span, sample=SAMPLE, most=MOST_TASKS)
    first = [row.pop("first_at") for row in rows]
    sampled: list[Any] = [row.pop("sampled") for row in rows]
    return Tasks(
        tasks=[Figures(**row) for row in rows],
        since=min(first, default=None),
        is_sample=bool(sampled) and sampled[0] >= SAMPLE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """How long the bodies of a task take that end well, in seconds."""

    median: float
    most: float  # For 95 % of them.


_USUAL = """
SELECT
    percentile_cont(0.5) WITHIN GROUP (ORDER BY ran) AS median,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY ran) AS most
FROM (
    SELECT callable_path, state, greatest(
        extract(epoch FROM finished_at) - extract(epoch FROM last_attempted_at), 0
    )::float8 AS ran
    FROM django_ray_execution WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT %(newest)s
) AS newest
WHERE callable_path = %(path)s AND state = 'SUCCESSFUL' AND ran < 'Infinity'
HAVING count(*) >= %(fewest)s
"""


def usual(database: str, callable_path: str) -> Usual | None:
    """Return it, as far as the newest executions of all tasks tell; None where they do not."""
    with planned_by_index(database):
        rows = select(database, _USUAL, newest=NEWEST, path=callable_path, fewest=FEWEST)
    return Usual(**rows[0]) if rows else None
