"""Tasks that say how far they are."""

import asyncio
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from django.db import connection

from django_ray import Backoff, current, task


@task(takes_context=True)
def walk(context, number, seconds=0.0):
    for step in range(1, number + 1):
        context.progress(step / number, f"{step} of {number}")
        time.sleep(seconds)
    return number


@task(takes_context=True)
def hurry(context, seconds):
    """As often as it can."""
    end, times = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        times += 1
        context.progress(None, f"{times}")
    return times


@task(atomic=True)
def walk_in_a_transaction(path):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    current().progress(0.5, "half, and not committed")
    while not Path(path).exists():
        time.sleep(0.01)


@task(takes_context=True, backoff=Backoff(base=0))
def stumble(context):
    before = context.task_result.progress
    if context.attempt == 1:
        context.progress(0.25, "a quarter")
        raise ValueError("The first attempt fails.")
    return [before.fraction, before.message, before.attempt]


@task(takes_context=True)
async def walk_later(context):
    context.progress(1)


@task(takes_context=True)
def misstep(context, fraction, message=""):
    context.progress(fraction, message)


@task(takes_context=True)
def tell(context, directory, steps):
    """A step for each file that somebody makes: "1", "2" and so on."""
    for step in range(1, steps + 1):
        while not (Path(directory) / str(step)).exists():
            time.sleep(0.01)
        context.progress(step / steps, f"step {step}")
        print(f"line {step}")
    return steps


@task(takes_context=True)
def tell_at_once(context, number):
    """More lines than one notification holds."""
    context.progress(0)
    for line in range(number):
        print(f"{line} {'é' * 900}")


@task(takes_context=True, max_attempts=1)
def report_until(context, path):
    """The same again and again, until there is a file."""
    while not Path(path).exists():
        context.progress(0.5)
        time.sleep(0.001)
    return "reported"


@task(takes_context=True, max_attempts=1)
def report_and_stop(context, path):
    context.progress(0.5)
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


@task(takes_context=True, max_attempts=1)
async def report_and_stop_later(context, path):
    context.progress(0.5)
    Path(path).touch()  # noqa: ASYNC240 - only once
    await asyncio.sleep(600)


@task(max_attempts=1)
def report_from_below_and_stop(path):
    for _ in range(3):
        current().progress(0.5)
    Path(path).touch()
    threading.Event().wait()


@task(takes_context=True, max_attempts=1)
def report_and_swallow(context, path):
    """A body that does not let itself be ended, and goes on to report."""
    Path(path).write_text(str(os.getpid()))
    with suppress(BaseException):
        time.sleep(600)
    while True:
        context.progress(0.5)
        time.sleep(0.001)


@task(takes_context=True, max_attempts=1)
def report_in_a_thread(context, path):
    """The body waits for the one who works."""

    def work():
        while not Path(path).exists():
            context.progress(0.5)
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return "reported"


@task(takes_context=True, max_attempts=2, backoff=Backoff(base=0))
def stall_once(context):
    if context.attempt == 1:
        time.sleep(600)
    return context.attempt
