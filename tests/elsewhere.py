"""Tasks of a backend whose executions live in another database than the project's own rows."""

import time
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from django.db import connections
from django.tasks import task_backends

from django_ray import current, task
from tests.tasks import add

tenant: ContextVar[str] = ContextVar("tenant", default="")


class Tenant:
    """For OPTIONS["CONTEXT"]."""

    def capture(self):
        return tenant.get() or None

    @contextmanager
    def restore(self, value):
        tenant.set(value)
        yield


@task
def note():
    pass


def write(text):
    with connections["tasks2"].cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS ledger2 (note text NOT NULL)")
        cursor.execute("INSERT INTO ledger2 VALUES (%s)", [text])


@task(takes_context=True)
def everything(context, first, text):
    """Do what a body can do that touches the row; return what is seen of it."""
    context.progress(0.5, "half")
    context.metadata["seen"] = len(text)
    context.save_metadata()
    upstreams = [result.id for result in context.upstreams()]
    here = add.using(backend="heavy").enqueue(1, 1)
    there = add.enqueue(1, 1)
    print("a line")
    return {"first": first, "upstreams": upstreams, "tenant": tenant.get(), "enqueued": [here.id, there.id]}


@task(atomic=True)
def write_atomically(text, how=""):
    write(text)
    if how == "raise":
        raise ValueError("rolled back")
    return text


@task(takes_context=True)
def write_completing(context, text):
    with context.completing() as done:
        write(text)
        done(text)


@task
def touch_and_wait(folder):
    """Run until somebody makes the file `go`."""
    Path(folder, "started").touch()
    while not Path(folder, "go").exists():
        current().progress(0.1, "waiting")
        time.sleep(0.05)
    return "went"


@task
def look_for(result_id):
    """Read another result from a body."""
    return task_backends["default"].get_result(result_id).return_value
