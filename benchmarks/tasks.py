"""What is enqueued: a body that does nothing but say when it began, and others that take time, return or fail."""

import time

from django.tasks import task

from benchmarks.marks import mark as mark_now
from django_ray import Backoff, task_options


@task
def mark(number):
    mark_now(number)


@task
def mark_results(number, results):  # noqa: ARG001 - it is what is measured that they are here
    mark_now(number)


@task(takes_context=True)
def mark_tick(context, start, number):
    """As mark, by the second that a schedule was due in."""
    mark_now(start + int(context.tick.timestamp()) % number)


@task
def mark_and_sleep(number, seconds):
    mark_now(number)
    time.sleep(seconds)


@task
def mark_and_sleep_too(number, seconds):
    mark_now(number)
    time.sleep(seconds)


@task
def mark_and_return(number, text):
    mark_now(number)
    return text


@task
@task_options(max_attempts=4, backoff=Backoff(base=0))
def mark_and_fail(number):
    mark_now(number)
    raise ValueError("This one always fails.")
