"""django-ray: Django's Tasks framework on Ray, kept in PostgreSQL, driven by events.

This package is what a web process needs to enqueue tasks and read results. It imports Django, and what reads cron.
"""

from django_ray.context import RayTaskContext, current
from django_ray.flows import Flow, FlowProgress
from django_ray.rate import Rate
from django_ray.results import value_of
from django_ray.retry import Backoff
from django_ray.schedules import schedule
from django_ray.tasks import task, task_options

__all__ = [
    "Backoff", "Flow", "FlowProgress", "Rate", "RayTaskContext", "__version__", "current", "schedule", "task",
    "task_options", "value_of",
]  # fmt: skip

__version__ = "0.2.0.dev0"
