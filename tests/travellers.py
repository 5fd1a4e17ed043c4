"""What travels from an enqueue to its body, as CONTEXT names it, and tasks that look at what has arrived."""

import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import translation

from django_ray import Backoff, task
from django_ray.runtime.distributed import parallel_map

tenant = ContextVar("tenant", default="nobody")
HAPPENED = []  # In this process.


class Tenant:
    """As a tenant of django-tenants: an attribute of the connection's wrapper, and here a variable, too."""

    made = 0

    def __init__(self):
        type(self).made += 1

    def capture(self):
        return None if tenant.get() == "nobody" else {"schema": tenant.get()}

    @contextmanager
    def restore(self, value):
        HAPPENED.append(f"restored {value['schema']}")
        token, connection.schema_name = tenant.set(value["schema"]), value["schema"]
        try:
            yield
        finally:
            tenant.reset(token)
            del connection.schema_name
            HAPPENED.append(f"left {value['schema']}")


class Language:
    def capture(self):
        return None if translation.get_language() == "en-us" else translation.get_language()

    @contextmanager
    def restore(self, value):
        HAPPENED.append(f"speaks {value} to {tenant.get()}")
        with translation.override(value):
            yield
        HAPPENED.append("is silent")


class Capricious:
    """Does what it is told."""

    captured = restored = left = None

    def capture(self):
        if isinstance(self.captured, Exception):
            raise self.captured
        return self.captured

    @contextmanager
    def restore(self, value):
        HAPPENED.append("tries")
        if self.restored is not None:
            raise self.restored
        yield
        if self.left is not None:
            raise self.left


class Mute:
    def capture(self): ...


class Difficult:
    def __init__(self):
        raise RuntimeError("Not today.")

    def capture(self): ...

    def restore(self, value): ...


not_a_class = Tenant()


@contextmanager
def tenant_of(name, language="en-us"):
    """Be in a request of a tenant."""
    token = tenant.set(name)
    with translation.override(language):
        yield
    tenant.reset(token)


def arrived():
    return [tenant.get(), translation.get_language(), getattr(connection, "schema_name", None)]


@task
def look():
    HAPPENED.append("looks")
    return arrived()


@task
async def look_later():
    # The connection is that of the thread in which Django's code runs.
    return [*arrived()[:2], await sync_to_async(arrived)()]


@task(backoff=Backoff(base=0))
def fail_and_look(path):
    if not Path(path).exists():
        Path(path).write_text(tenant.get())
        raise ConnectionError("once")
    return arrived()


@task
def look_from_another_process():
    def here(_):
        return [*arrived(), os.getpid()]

    *found, pid = parallel_map(here, [1])[0]
    return [*found, pid != os.getpid()]


@task
def enqueue_look():
    return look.enqueue().id


@task(max_attempts=2, backoff=Backoff(base=0))
def fail():
    raise ValueError("as it shall")
