"""django-ray: one supervisor with a Ray of its own, two tasks at a time."""

import io
import os
import statistics
import sys
import time

import django

SETTINGS = {"DJANGO_SETTINGS_MODULE": "benchmarks.settings"}
os.environ.update(SETTINGS)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.tasks import task_backends  # noqa: E402

from benchmarks import tasks  # noqa: E402


def prepare():
    call_command("migrate", verbosity=0)


def one_by_one(numbers):
    for number in numbers:
        tasks.mark.enqueue(number)


def bulk(numbers):
    task_backends["default"].enqueue_many([(tasks.mark, (number,), {}) for number in numbers])


def pages():
    """Return the median milliseconds of each page."""
    from django.contrib.auth.models import User
    from django.test import Client
    from django.urls import reverse

    from django_ray.models import RayTaskExecution

    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    failed = RayTaskExecution.objects.filter(state="FAILED").order_by("-finished_at")[0]
    listing = reverse("admin:django_ray_raytaskexecution_changelist")
    looks = {
        "executions": lambda: client.get(listing),
        "executions, FAILED": lambda: client.get(f"{listing}?state=FAILED"),
        "executions of a queue": lambda: client.get(f"{listing}?queue_name=queue3"),
        "a search that finds nothing": lambda: client.get(f"{listing}?q=nowhere"),
        "one execution": lambda: client.get(reverse("admin:django_ray_raytaskexecution_change", args=[failed.pk])),
        "live page": lambda: client.get(reverse("admin:django_ray_rayqueue_changelist")),
        "supervisors": lambda: client.get(reverse("admin:django_ray_rayworker_changelist")),
        "django_ray_status": lambda: call_command("django_ray_status", stdout=io.StringIO()),
    }
    figures = {}
    for name, look in looks.items():
        look()
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            look()
            seconds.append(time.perf_counter() - began)
        figures[f"{name}, ms"] = statistics.median(seconds) * 1000
    return figures


def worker():
    start = "from django_ray_worker.main import main; main()"
    return [[sys.executable, "-c", start, "--local", "--concurrency", "2"]], SETTINGS
