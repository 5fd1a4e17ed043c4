"""django-ray: one supervisor with a Ray of its own, two tasks at a time."""

import os
import sys

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


def worker():
    start = "from django_ray_worker.main import main; main()"
    return [[sys.executable, "-c", start, "--local", "--concurrency", "2"]], SETTINGS
