"""path("metrics/tasks", django_ray.views.metrics): the queues, for Prometheus. Needs no prometheus_client.

It says nothing but names of queues and numbers, to whoever may reach it, also where LoginRequiredMiddleware asks all
others who they are: Prometheus cannot log in.
"""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_ray.status import MOST, queues

__all__ = ["metrics"]

_GAUGES = {
    "depth": "Claimable executions, counted up to 10001.",
    "scheduled": "Executions for later, counted up to 10001.",
    "blocked": "Executions for which something else has to happen first, counted up to 10001.",
    "running": "Executions that run.",
    "oldest_wait_seconds": "How long the oldest claimable execution has been waiting.",
    "paused": "1 when the queue is paused.",
}


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view
    """Show each queue of each backend of ours, in the text format of Prometheus."""
    rows = [
        (
            f'{{backend="{_escaped(queue.backend)}",queue="{_escaped(queue.name)}"}}',
            (
                min(queue.waiting, MOST + 1), queue.scheduled, queue.blocked, queue.running, queue.oldest or 0.0,
                int(queue.paused_at is not None),
            ),
        )
        for queue in queues()
    ]  # fmt: skip
    lines: list[str] = []
    for index, (name, what) in enumerate(_GAUGES.items()):
        lines += [f"# HELP django_ray_queue_{name} {what}", f"# TYPE django_ray_queue_{name} gauge"]
        lines += [f"django_ray_queue_{name}{labels} {values[index]}" for labels, values in rows]
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
