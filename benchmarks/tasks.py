"""What is enqueued: a body that does nothing but say when it began, and one that takes its time."""

import time

from django.tasks import task

from benchmarks.marks import mark as mark_now


@task
def mark(number):
    mark_now(number)


@task
def mark_and_sleep(number, seconds):
    mark_now(number)
    time.sleep(seconds)


@task
def mark_and_sleep_too(number, seconds):
    mark_now(number)
    time.sleep(seconds)
