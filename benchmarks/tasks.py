"""What is enqueued: a body that does nothing but say when it began, and others that take time, return or fail."""

import time

from django.tasks import task
from django.utils.module_loading import import_string

from benchmarks.marks import mark as mark_now
from django_ray import Backoff, task_options
from django_ray import task as ray_task

MODEL = "benchmarks.model.Model"  # by its path: who enqueues need not import numpy


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


class Bare:
    """What part W makes an actor of, and the worker of its tasks."""

    def mark(self, numbers):
        for number in numbers:
            mark_now(number)

    def mark_and_sleep(self, numbers, seconds):
        self.mark(numbers)
        time.sleep(seconds)


@ray_task(worker=Bare)
def mark_warm(bare, number):
    bare.mark([number])


@ray_task(worker=Bare, batch=64)
def mark_batch(bare, numbers, seconds):
    bare.mark_and_sleep(numbers, seconds[0])
    return [None] * len(numbers)


@task
def build_and_encode(number):
    found = import_string(MODEL)().encode([number])
    mark_now(number)
    return found[0]


@ray_task(worker=MODEL)
def encode(model, number):
    found = model.encode([number])
    mark_now(number)
    return found[0]


@ray_task(worker=MODEL, batch=64)
def encode_batch(model, numbers):
    found = model.encode(numbers)
    for number in numbers:
        mark_now(number)
    return found
