"""Atomic tasks, and the table in which they write: one row for each execution that has happened."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from django.db import IntegrityError, connection, transaction

from django_ray import Backoff, current, task

CREATE = """
CREATE TABLE ledger (
    task_id uuid NOT NULL, attempt int NOT NULL, note text NOT NULL DEFAULT '',
    CONSTRAINT no_bad_notes CHECK (note <> 'bad'),
    CONSTRAINT one_note UNIQUE (note, task_id) DEFERRABLE INITIALLY DEFERRED
)
"""
DROP = "DROP TABLE IF EXISTS ledger;"
AT_ONCE = Backoff(base=0)


def write(context, note=""):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger (task_id, attempt, note) VALUES (%s, %s, %s)",
            [context.task_result.id, context.attempt, note],
        )


def ask(context):
    """Wait for the server, and write once more."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(3)")
    write(context, "afterwards")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@task(atomic=True, takes_context=True, backoff=AT_ONCE)
def note(context, what="", value=None):
    """Write, and do what is asked for."""
    write(context, what)
    match what:
        case "raise once" if context.attempt == 1:
            raise ValueError("The first attempt fails.")
        case "twice":
            write(context, what)  # refused by the COMMIT
        case "left open":
            transaction.atomic().__enter__()
        case "left open, and raise":
            transaction.atomic().__enter__()
            raise ValueError("With a block open.")
        case "swallowed":
            with suppress(IntegrityError):
                write(context, "bad")
        case "after commit":
            transaction.on_commit(fail)
        case "ask after commit":
            transaction.on_commit(lambda: ask(context))
        case "too large":
            return "x" * 9_000_000
        case "no JSON":
            return {"a\x00b": object()}
    print("written")
    return value


def fail():
    raise ValueError("This one comes after the commit.")


@task(atomic=True, takes_context=True, backoff=AT_ONCE)
def note_and_die(context, moment):
    """Write; the first attempt dies at that moment."""
    write(context, moment)
    if context.attempt > 1:
        return
    if moment == "in the body":
        die()
    if moment == "after commit":
        transaction.on_commit(die)

    def dying(execute, sql, params, many, execution):
        ends = sql.startswith('UPDATE "django_ray_execution"')
        if ends and moment == "before the UPDATE":
            die()
        answer = execute(sql, params, many, execution)
        if ends and moment == "before the COMMIT":
            die()
        return answer

    connection.execute_wrappers.append(dying)


@task(atomic=True, takes_context=True)
def note_and_wait(context, path):
    """Write, say so by a file, and wait for another one."""
    write(context, f"attempt {context.attempt}")
    Path(path).touch()
    while not Path(f"{path}.go").exists():
        time.sleep(0.01)


@task(takes_context=True, backoff=AT_ONCE)
def complete(context, how=""):
    """Complete in a block of its own, and do something before or after it."""
    with context.completing() as done:
        write(current(), how)
        if how == "raise once" and context.attempt == 1:
            raise ValueError("The first attempt fails.")
        if how != "nothing said":
            done({"from": "the block"})
    if how == "raise after it":
        raise ValueError("What comes later changes nothing.")
    if how == "again":
        with context.completing():
            pass
    return "from the body"


@task
def deep():
    return _deep_below()


def _deep_below():
    return [current().attempt, str(current().task_result.id)]


def execute(statements):
    with connection.cursor() as cursor:
        cursor.execute(statements)


def written():
    """What stands in the ledger: which attempts, by execution."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT task_id, attempt FROM ledger ORDER BY task_id, attempt")
        return [(str(task_id), attempt) for task_id, attempt in cursor.fetchall()]
