"""path("metrics/tasks", django_ray.views.metrics): the queues, for Prometheus. Needs no prometheus_client.

What it costs depends on the number of queues, not of executions: counts end at a limit, and every other figure is a few
probes of an index. It says nothing but names of queues and numbers, to whoever may reach it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from django.conf import settings
from django.db import connections, router, transaction
from django.http import HttpRequest, HttpResponse
from django.tasks import task_backends
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_ray.backends import RayTaskBackend

__all__ = ["metrics"]

MOST_COUNTED = 10_001  # More is only many.

# In the transaction of the figures: whatever the statistics say, they are probes of an index.
_PLAN = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
    set_config('jit', 'off', true)
"""
_FIGURES = """
WITH running AS MATERIALIZED (
    SELECT backend, queue_name AS name, count(*) AS number FROM django_ray_execution
    WHERE state = 'RUNNING' GROUP BY backend, queue_name
), queue AS MATERIALIZED (
    SELECT backend COLLATE "C" AS backend, name COLLATE "C" AS name
    FROM unnest(%(backends)s::text[], %(queues)s::text[]) AS configured(backend, name)
    UNION
    SELECT backend COLLATE "C", filled COLLATE "C"
    FROM unnest(%(any)s::text[]) AS backend CROSS JOIN LATERAL django_ray_filled_queues(backend) AS filled
    UNION
    SELECT backend, name FROM running
    UNION
    SELECT backend, name FROM django_ray_queue WHERE paused_at IS NOT NULL
)
SELECT
    queue.backend,
    queue.name,
    (
        SELECT count(*) FROM (
            SELECT FROM django_ray_execution
            WHERE backend = queue.backend AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
            LIMIT %(most)s
        ) AS ready
    ) + (
        SELECT count(*) FROM (
            SELECT FROM django_ray_execution
            WHERE backend = queue.backend AND queue_name = queue.name AND state = 'READY'
                AND due_at <= statement_timestamp()
            LIMIT %(most)s
        ) AS due
    ) AS depth,
    (
        SELECT count(*) FROM (
            SELECT FROM django_ray_execution
            WHERE backend = queue.backend AND queue_name = queue.name AND state = 'READY'
                AND due_at > statement_timestamp()
            LIMIT %(most)s
        ) AS later
    ) AS scheduled,
    coalesce((
        SELECT number FROM running WHERE running.backend = queue.backend AND running.name = queue.name
    ), 0) AS running,
    coalesce(extract(epoch FROM statement_timestamp() - django_ray_oldest(queue.backend, ARRAY[queue.name])), 0)::float8
        AS oldest,
    EXISTS (
        SELECT FROM django_ray_queue AS paused
        WHERE paused.backend = queue.backend AND paused.name = queue.name AND paused_at IS NOT NULL
    )::int AS paused
FROM queue
ORDER BY queue.backend, queue.name
"""


class QueueFigures(NamedTuple):
    """One queue, now."""

    backend: str
    queue: str
    depth: int  # Claimable executions, counted up to MOST_COUNTED.
    scheduled: int  # For later, retries included; counted up to MOST_COUNTED.
    running: int
    oldest: float  # Seconds that the oldest claimable one has been waiting; 0 without one, and while it is paused.
    paused: int  # 1 when it is.


_GAUGES = {
    "depth": "Claimable executions, counted up to 10001.",
    "scheduled": "Executions for later, counted up to 10001.",
    "running": "Executions that run.",
    "oldest_wait_seconds": "How long the oldest claimable execution has been waiting.",
    "paused": "1 when the queue is paused.",
}


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view
    """Show each queue of each backend of ours, in the text format of Prometheus."""
    figures = queue_figures()
    lines: list[str] = []
    labels = [f'{{backend="{_escaped(row.backend)}",queue="{_escaped(row.queue)}"}}' for row in figures]
    for index, (name, what) in enumerate(_GAUGES.items()):
        lines += [f"# HELP django_ray_queue_{name} {what}", f"# TYPE django_ray_queue_{name} gauge"]
        values = [row[2 + index] for row in figures]
        lines += [f"django_ray_queue_{name}{of} {value}" for of, value in zip(labels, values, strict=True)]
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def queue_figures() -> list[QueueFigures]:
    """Return the queues that are configured, and whatever else holds something or is paused."""
    from django_ray.models import RayTaskExecution

    backends = [task_backends[alias] for alias in settings.TASKS]
    ours = [backend for backend in backends if isinstance(backend, RayTaskBackend)]
    configured = [(backend.alias, queue) for backend in ours for queue in sorted(backend.queues)]
    parameters: dict[str, Any] = {
        "backends": [alias for alias, _ in configured],
        "queues": [queue for _, queue in configured],
        "any": [backend.alias for backend in ours if not backend.queues],
        "most": MOST_COUNTED,
    }
    database = router.db_for_write(RayTaskExecution)
    with transaction.atomic(using=database), connections[database].cursor() as cursor:
        cursor.execute(_PLAN)
        cursor.execute(_FIGURES, parameters)
        rows = [QueueFigures(*row) for row in cursor.fetchall()]
        transaction.set_rollback(True, using=database)  # the settings of the plan end here, in a caller's block too
    aliases = {backend.alias for backend in ours}
    return [row._replace(depth=min(row.depth, MOST_COUNTED)) for row in rows if row.backend in aliases]


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
