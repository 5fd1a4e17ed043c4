"""The tasks of the soak. What they do is written down outside of the system that is tested: in a ledger of plain files.

Each body appends `key attempt started|ended pid time` to a file of its process in the folder CHAOS_LEDGER, one write
per line, so that a line is whole or absent however the process ends.
"""

import os
import signal
import time
from pathlib import Path

from django.db import connection, transaction
from django.tasks import task

from django_ray import task_options

__all__ = [
    "ANY_ATTEMPT", "MOST_AT_A_GATE", "atomic", "batched", "callback", "cancelled", "failing", "flaky", "gated",
    "is_poison", "member", "quick", "slow", "warm",
]  # fmt: skip

MOST_AT_A_GATE = 2
ANY_ATTEMPT = 0  # In the ledger: a body that takes several executions is not told which attempt of each it is.

MOST_SECONDS = 30  # That a task goes on which nobody cancels.


class Meant(Exception):
    """The failure of a task that is there to fail."""


def note(key, attempt, event):
    """Append one line to the ledger; the end is noted before the outcome leaves the process."""
    path = Path(os.environ["CHAOS_LEDGER"]) / f"{os.getpid()}.ledger"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{key} {attempt} {event} {os.getpid()} {time.time():.6f}\n".encode())
    finally:
        os.close(file)


@task(takes_context=True)
def quick(context, key):
    note(key, context.attempt, "started")
    note(key, context.attempt, "ended")
    return key


@task(takes_context=True)
def slow(context, key, seconds):
    note(key, context.attempt, "started")
    time.sleep(seconds)
    note(key, context.attempt, "ended")
    return key


@task(takes_context=True)
@task_options(limit=MOST_AT_A_GATE, limit_by="gate")
def gated(context, key, gate, seconds):
    """Two at a time behind each of a few gates; the audit counts."""
    note(key, context.attempt, "started")
    time.sleep(seconds)
    note(key, context.attempt, "ended")
    return gate


@task(takes_context=True)
@task_options(max_attempts=2)
def failing(context, key):
    note(key, context.attempt, "started")
    raise Meant(key)


@task(takes_context=True, queue_name="other")
def flaky(context, key):
    note(key, context.attempt, "started")
    if context.attempt == 1:
        raise Meant(key)
    note(key, context.attempt, "ended")
    return key


@task(takes_context=True)
@task_options(atomic=True, timeout=20)  # its connection may be forgotten under it
def atomic(context, key, seconds):
    """Its effect is a row, in the transaction in which it ends; the audit counts them.

    Of twenty first attempts one ends its process by itself: before the UPDATE, before the COMMIT, or after it.
    """
    note(key, context.attempt, "started")
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO chaos_effect (key, attempt) VALUES (%s, %s)", [key, context.attempt])
    time.sleep(seconds)
    if context.attempt == 1 and key.endswith(("3", "7")):
        raise Meant(key)
    if context.attempt == 1 and int(key.rpartition("-")[2]) % 20 == 1:
        _die_at(int(key.rpartition("-")[2]) // 20)
    note(key, context.attempt, "ended")
    return key


def _die_at(number):
    if number % 3 == 0:
        transaction.on_commit(_die)
        return

    def dying(execute, sql, params, many, execution):
        ends = sql.startswith('UPDATE "django_ray_execution"')
        if ends and number % 3 == 1:
            _die()
        answer = execute(sql, params, many, execution)
        if ends:
            _die()
        return answer

    connection.execute_wrappers.append(dying)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True, queue_name="other")
def cancelled(context, key):
    note(key, context.attempt, "started")
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.05)  # a body that Ray can interrupt
    note(key, context.attempt, "ended")
    return key


class Ink:
    """What stays in a process; idle for a moment, it ends."""

    def write(self, key, attempt, event):
        note(key, attempt, event)


@task(takes_context=True)
@task_options(worker=Ink, replicas=(0, 2), idle=3)
def warm(context, ink, key, seconds):
    ink.write(key, context.attempt, "started")
    time.sleep(seconds)
    ink.write(key, context.attempt, "ended")
    return key


@task
@task_options(worker=Ink, replicas=(0, 2), idle=3, batch=8, max_attempts=1)
def batched(ink, keys):
    """Up to eight at a time; one in ten of them is poison to the others of its batch."""
    if poison := [key for key in keys if is_poison(key)]:
        raise Meant(poison[0])
    time.sleep(0.1)
    for key in keys:
        ink.write(key, ANY_ATTEMPT, "ended")
    return keys


def is_poison(key):
    return key.endswith("7")


@task(takes_context=True)
@task_options(max_attempts=1)
def member(context, key, values, keys, *, fate, seconds):
    """One of a flow: it gets what its upstreams have returned, their keys."""
    note(key, context.attempt, "started")
    if values != keys:
        raise AssertionError(f"{key} got {values}, not {keys}")
    time.sleep(seconds)
    match fate:
        case "dies once" if context.attempt == 1:
            _die()
        case "fails once" if context.attempt > 1:
            pass
        case "fails" | "fails once":
            note(key, context.attempt, "failed")
            raise Meant(key)
    note(key, context.attempt, "ended")
    return key


@task(takes_context=True)
@task_options(needs="end")
def callback(context, key, results, keys, *, fate, seconds):
    """It runs whatever has become of its upstreams, and again when one that was retried has ended."""
    note(key, context.attempt, "started")
    if (found := [result.args[0] for result in results]) != keys:
        raise AssertionError(f"{key} got the results of {found}, not of {keys}")
    time.sleep(seconds)
    note(key, context.attempt, "ended")
    return key


@task
def tick() -> None:
    """What the schedule enqueues: the rows are its ledger."""
