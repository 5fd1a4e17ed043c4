"""What somebody has to look at, in sentences: for `django_ray_status --check`, and whoever asks it."""

from __future__ import annotations

from collections.abc import Iterator

from django_ray.status import Status
from django_ray.templatetags.django_ray import count, duration

__all__ = ["alarms"]


def alarms(found: Status, *, oldest: float | None = None) -> Iterator[str]:
    """Yield a sentence for each; oldest is how many seconds an execution may wait that could run."""
    for database, reason in found.unreachable.items():
        yield f"The database {database} cannot be reached: {reason}"
    for queue in found.queues:
        where = f"Queue {queue.name!r} of backend {queue.backend!r}"
        if queue.is_forsaken:
            yield f"{where}: {count(queue.waiting + queue.gated)} wait, and no supervisor serves it."
        elif oldest is not None and (queue.oldest or 0) > oldest:
            yield f"{where}: the oldest execution has been waiting for {duration(queue.oldest)}."
    for one in found.schedules:
        where = f"Schedule {one.row.name!r} of backend {one.row.backend!r}"
        if one.row.problem:
            yield f"{where} does not fire: {one.row.problem}"
        elif one.overdue is not None:
            yield f"{where} is overdue for {duration(one.overdue)}."
