"""django-tasks-db: two db_worker with its default interval of a second, persistent connections. Results are kept.

It has no call for many tasks at once; they are enqueued one by one in one transaction.
"""

import os
import sys

import dj_database_url
import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        DATABASES={"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=None)},
        INSTALLED_APPS=["django_tasks_db"],
        TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["default"]}},
        USE_TZ=True,
    )
    django.setup()

from django.core.management import call_command, execute_from_command_line
from django.db import transaction
from django.tasks import task

from benchmarks.marks import mark as mark_now


@task
def mark(number):
    mark_now(number)


def prepare():
    call_command("migrate", verbosity=0)


def one_by_one(numbers):
    for number in numbers:
        mark.enqueue(number)


def bulk(numbers):
    with transaction.atomic():
        one_by_one(numbers)


def manage():
    execute_from_command_line(["manage.py", "db_worker", "--verbosity=0"])


def worker():
    return [[sys.executable, "-c", "from benchmarks.peers.django_tasks_db import manage; manage()"]] * 2, {}
