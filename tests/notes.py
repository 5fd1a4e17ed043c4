"""Tasks that save metadata."""

import time
from pathlib import Path

from django.contrib.auth.models import User
from django.db import connection

from django_ray import Backoff, current, task


@task(takes_context=True)
def note(context, key, value):
    """Return what was there, and what is saved."""
    before = {**context.metadata}
    context.metadata[key] = value
    context.save_metadata()
    return [before, context.metadata, {**context.task_result.metadata}]


@task(takes_context=True)
async def note_later(context, key, value):
    context.metadata[key] = value
    await context.asave_metadata()
    return context.metadata


@task(takes_context=True)
def scribble(context):
    """Save nothing."""
    context.metadata.setdefault("list", []).append(1)
    return context.metadata


@task(takes_context=True, backoff=Backoff(base=0))
def count_up(context):
    """Each attempt goes on where the one before was."""
    context.metadata["steps"] = context.metadata.get("steps", 0) + 1
    context.save_metadata()
    if context.metadata["steps"] < 3:
        raise ConnectionError("not yet")
    return context.metadata["steps"]


@task(takes_context=True)
def note_what_is_no_json(context):
    context.metadata["tags"] = {1}
    context.save_metadata()


@task(atomic=True)
def note_in_a_transaction(path):
    User.objects.create(username="uncommitted")
    current().metadata["step"] = "half, and not committed"
    current().save_metadata()
    while not Path(path).exists():
        time.sleep(0.01)
    raise ValueError("rolled back")


@task(takes_context=True)
def note_when_taken_away(context):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_ray_execution SET attempt_number = attempt_number + 1 WHERE task_id = %s",
            [context.task_result.id],
        )
    context.metadata["late"] = True
    context.save_metadata()
