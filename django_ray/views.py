"""path("metrics/tasks", django_ray.views.metrics): queues and schedules, for Prometheus. Needs no prometheus_client.

task_metrics beside it says of each task what ended within the last hour: a page of its own, since it costs more.

It says nothing but names of queues and schedules and numbers, to whoever may reach it, also where
LoginRequiredMiddleware asks all others who they are: Prometheus cannot log in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_ray.agenda import all_schedules, lag_of, overdue_of
from django_ray.census import late_edges
from django_ray.databases import of_each
from django_ray.figures import figures
from django_ray.status import MOST, Presence, Queue, oldest_gated, presence, queues

__all__ = ["metrics", "task_metrics"]

type Values = Sequence[float | None]  # None is not known.

_GAUGES = {
    "depth": "Claimable executions, counted up to 10001.",
    "scheduled": "Executions for later, counted up to 10001.",
    "blocked": "Executions for which something else has to happen first, counted up to 10001.",
    "gated": "Of the blocked executions, those behind gates, counted up to 10001.",
    "held": "Of the blocked executions, those that wait for others, as far as both were counted.",
    "running": "Executions that run.",
    "oldest_wait_seconds": "How long the oldest claimable execution has been waiting.",
    "paused": "1 when the queue is paused.",
    "served": "1 when a supervisor with a session takes from it.",
}


_SUPERVISORS_GAUGES = {
    "alive": "Supervisors with a session.",
    "silent": "Supervisors without a session that have not said goodbye: connecting again, or dead and not found yet.",
    "lost": "Supervisors that were found dead within the last hour.",
}

_GATES_GAUGES = {
    "oldest_wait_seconds": "How long the oldest execution behind a gate has been waiting, in the first 500 gates.",
}

_FLOWS_GAUGES = {
    "late": "Waits for an execution whose end is looked at late, since somebody had locked who waits; up to 1001.",
}

_SCHEDULE_GAUGES = {
    "lag_seconds": "From the last tick that was fired to its enqueue.",
    "overdue_seconds": "How long the next tick has been waiting for somebody to fire it.",
    "skipped": "Ticks while the run before was unfinished.",
    "lost": "Ticks that were missed, and not made up for.",
    "problem": "1 when it does not fire, or what it enqueues will not run.",
    "paused": "1 when it is paused, or the code declares it no more.",
}


_DATABASE_GAUGES = {
    "up": "1 when the database, in which executions live, answers; of one that does not, nothing else is known.",
}


_TASK_GAUGES = {
    "ended": "Executions that ended within the last hour, of the newest 20000 of all tasks.",
    "failed": "Those of them that failed for good.",
    "retried": "Attempts of them after the first.",
    "run_p50_seconds": "How long their last attempts took, the median.",
    "run_p95_seconds": "The same, the 95th percentile.",
    "wait_p50_seconds": "How long they waited for their first attempt, the median.",
    "wait_p95_seconds": "The same, the 95th percentile.",
}
MOST_MEASURED_TASKS = 100  # Of a database: those with the most executions. Each is seven series.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a database says."""

    queues: Sequence[Queue]
    supervisors: Mapping[str, Presence]
    schedules: Sequence[Any]
    oldest: Mapping[str, float | None]
    late: Mapping[str, int]

    @classmethod
    def of(cls, database: str) -> _Found:
        oldest = oldest_gated(database)
        return cls(
            queues=queues(database),
            supervisors=presence(database),
            schedules=all_schedules(database),
            oldest=oldest,
            late=late_edges(database, list(oldest)),
        )


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view
    """Show each queue of each backend of ours, and the schedules, in the text format of Prometheus."""
    found, unreachable = of_each(_Found.of)
    of_queues = [
        (
            {"backend": queue.backend, "queue": queue.name},
            (
                min(queue.waiting, MOST + 1), queue.scheduled, queue.blocked, queue.gated, queue.held,
                queue.running, queue.oldest or 0.0, int(queue.paused_at is not None), int(queue.is_served),
            ),
        )
        for one in found.values()
        for queue in one.queues
    ]  # fmt: skip
    of_supervisors = [
        ({"backend": alias}, (there.alive, there.silent, there.lost))
        for one in found.values()
        for alias, there in one.supervisors.items()
    ]
    of_schedules = [
        (
            {"backend": row.backend, "schedule": row.name},
            (
                lag_of(row), overdue_of(row) or 0.0, row.skipped, row.lost, int(row.problem is not None),
                int(not row.is_active),
            ),
        )
        for one in found.values()
        for row in one.schedules
    ]  # fmt: skip
    of_gates = [
        ({"backend": alias}, (seconds or 0.0,)) for one in found.values() for alias, seconds in one.oldest.items()
    ]
    of_flows = [({"backend": alias}, (number,)) for one in found.values() for alias, number in one.late.items()]
    of_databases = [({"database": name}, (int(name in found),)) for name in (*found, *unreachable)]
    lines = [
        *_lines("queue", _GAUGES, of_queues),
        *_lines("supervisors", _SUPERVISORS_GAUGES, of_supervisors),
        *_lines("gates", _GATES_GAUGES, of_gates),
        *_lines("flows", _FLOWS_GAUGES, of_flows),
        *_lines("schedule", _SCHEDULE_GAUGES, of_schedules),
        *_lines("database", _DATABASE_GAUGES, of_databases),
    ]
    return _page(lines)


@login_not_required
@never_cache
@require_safe
def task_metrics(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view
    """Show the figures of each task within the last hour, in the text format of Prometheus."""
    found, _ = of_each(lambda database: figures(database, timedelta(hours=1)))
    of_tasks = [
        (
            {"database": database, "task": one.callable_path},
            (one.ended, one.failed, one.retried, one.run_p50, one.run_p95, one.wait_p50, one.wait_p95),
        )
        for database, known in found.items()
        for one in known.tasks[:MOST_MEASURED_TASKS]
    ]
    return _page(_lines("task", _TASK_GAUGES, of_tasks))


def _page(lines: Iterable[str]) -> HttpResponse:
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def _lines(what: str, gauges: Mapping[str, str], rows: Sequence[tuple[Mapping[str, str], Values]]) -> Iterator[str]:
    labelled = [
        (",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()), values) for labels, values in rows
    ]
    for index, (name, help_) in enumerate(gauges.items() if rows else ()):
        yield f"# HELP django_ray_{what}_{name} {help_}"
        yield f"# TYPE django_ray_{what}_{name} gauge"
        for labels, values in labelled:
            if (value := values[index]) is not None:
                yield f"django_ray_{what}_{name}{{{labels}}} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
