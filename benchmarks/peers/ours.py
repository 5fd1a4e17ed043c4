"""django-ray: one supervisor with a Ray of its own, two tasks at a time."""

import asyncio
import io
import os
import random
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import batched
from urllib.parse import quote

import django

SETTINGS = {"DJANGO_SETTINGS_MODULE": "benchmarks.settings"}
os.environ.update(SETTINGS)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.tasks import task_backends  # noqa: E402

from benchmarks import tasks  # noqa: E402
from benchmarks.marks import opened  # noqa: E402
from benchmarks.warm import BATCH_SECONDS, rate_of  # noqa: E402
from django_ray import Flow  # noqa: E402

PATIENCE = 60.0


def prepare():
    call_command("migrate", verbosity=0)


def one_by_one(numbers):
    for number in numbers:
        tasks.mark.enqueue(number)


def bulk(numbers):
    task_backends["default"].enqueue_many([(tasks.mark, (number,), {}) for number in numbers])


def of_kind(kind, numbers):
    """Enqueue tasks of a kind of parts K and W."""
    task, more = {
        "no-op": (tasks.mark, ()),
        "1 kB of arguments, 1 kB of result": (tasks.mark_and_return, ("x" * 1000,)),
        "three retries": (tasks.mark_and_fail, ()),
        "warm": (tasks.mark_warm, ()),
        **{f"batch of {seconds:g} s": (tasks.mark_batch, (seconds,)) for seconds in BATCH_SECONDS},
        "model, built": (tasks.build_and_encode, ()),
        "model, warm": (tasks.encode, ()),
        "model, batch": (tasks.encode_batch, ()),
    }[kind]
    task_backends["default"].enqueue_many([(task, (number, *more), {}) for number in numbers])


def way_back(start, stop, shortest, longest):
    """Enqueue one at a time, at random moments; return the seconds to its body, and to its value, of each."""

    async def sample(number):
        await asyncio.sleep(random.uniform(shortest, longest))
        began = time.time()
        result = await tasks.mark.aenqueue(number)
        await result.await_result(timeout=PATIENCE)
        return opened().at(number) - began, time.time() - began

    async def samples():
        return [await sample(number) for number in range(start, stop)]

    return [*zip(*asyncio.run(samples()), strict=True)]


def waiters(how, start, stop):
    """Have that many wait at once; return the seconds from the last outcome until all have it, and the connections."""
    from django_ray.models import RayQueue, RayTaskExecution

    RayQueue.objects.pause("default")
    calls = [(tasks.mark, (number,), {}) for number in range(start, stop)]
    results = task_backends["default"].enqueue_many(calls)
    before = _connections()
    found = {}

    def look():
        time.sleep(2)  # until all are waiting
        found["connections"] = _connections() - before
        RayQueue.objects.resume("default")

    async def in_one_loop():
        await asyncio.gather(*(result.await_result(timeout=PATIENCE) for result in results))

    looking = threading.Thread(target=look)
    looking.start()
    if how == "one event loop":
        asyncio.run(in_one_loop())
    else:
        with ThreadPoolExecutor(len(results)) as pool:
            list(pool.map(lambda result: result.wait(timeout=PATIENCE), results))
    ended = time.time()
    looking.join()
    last = RayTaskExecution.objects.filter(pk__in=[result.id for result in results]).latest("finished_at").finished_at
    return {"seconds": ended - last.timestamp(), **found}


def chain(start, stop, shortest, longest):
    """Run a chain of steps of random length; return the seconds from the end of each to the body of the next."""
    lengths = [random.uniform(shortest, longest) for _ in range(start, stop)]
    with transaction.atomic():
        result = None
        for number, length in zip(range(start, stop), lengths, strict=True):
            result = tasks.mark_and_sleep.using(after=result).enqueue(number, length)
    result.wait(timeout=sum(lengths) + PATIENCE)
    marks = opened()
    return [
        marks.at(number + 1) - marks.at(number) - length
        for number, length in zip(range(start, stop - 1), lengths[:-1], strict=True)
    ]


def fan_in(start, stop):
    """Run a task that gets the results of all others; return the seconds of the enqueue, and until its body begins."""
    began = time.time()
    with Flow("fan-in"):
        parts = task_backends["default"].enqueue_many(
            [(tasks.mark, (number,), {}) for number in range(start, stop - 1)]
        )
        last = tasks.mark_results.enqueue(stop - 1, parts)
    enqueued = time.time()
    last.wait(timeout=PATIENCE)
    return {"enqueued": enqueued - began, "ended": opened().at(stop - 1) - began}


def bare_actor(start, stop, first, last, size):
    """Return the seconds of each call at random moments, and the rates of full batches that are sent two at a time."""
    import ray

    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False, num_cpus=2)
    try:
        worker = ray.remote(tasks.Bare).remote()
        ray.get(worker.mark.remote([]))
        marks, latencies = opened(), []
        for number in range(start, stop):
            time.sleep(random.uniform(0.05, 0.25))
            began = time.time()
            ray.get(worker.mark.remote([number]))
            latencies.append(marks.at(number) - began)
        rates = []
        for seconds in BATCH_SECONDS:
            sent = []
            for batch in batched(range(first, last), size, strict=False):
                sent.append(worker.mark_and_sleep.remote(batch, seconds))
                if len(sent) == 2:
                    ray.get(sent.pop(0))
            ray.get(sent)
            rates.append(rate_of(marks.of(range(first, last)), size))
    finally:
        ray.shutdown()
    return {"latencies": latencies, "rates": rates}


def _connections():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return cursor.fetchone()[0]


def schedule(start, stop):
    """Have the tasks with these numbers enqueued by a schedule, one a second, in a circle."""
    from django_ray.models import RaySchedule

    path = tasks.mark_tick.module_path
    RaySchedule.objects.create(
        name="ticks", callable_path=path, args=[start, stop - start], every=timedelta(seconds=1), overlap="allow"
    )


def ticks(start, stop):
    """Return the seconds from each tick to its enqueue and to its body."""
    from django_ray.models import RaySchedule, RayTaskExecution

    RaySchedule.objects.pause()
    marks, enqueued, begun = opened(), [], []
    rows = RayTaskExecution.objects.filter(schedule__name="ticks").order_by("tick")[: stop - start]
    for row in rows:
        tick = row.tick.timestamp()
        enqueued.append(row.enqueued_at.timestamp() - tick)
        lag = marks.at(start + int(tick) % (stop - start)) - tick
        if lag < (stop - start) / 2:  # else it is the mark of a later one, the next time around
            begun.append(lag)
    return enqueued, begun


# One that finds much, and one that finds nothing, in each place.
SEARCHES = [
    *("task:mark1", "task:nowhere", "args:1", "args:nowhere", "error:m", "error:nowhere", "meta:nowhere"),
    *("queue:queue3", "args:1 error:m queue:queue3"),
]


def _get(client, address):
    assert client.get(address).status_code == 200, address


def pages():
    """Return the median milliseconds of each page."""
    from django.contrib.auth.models import User
    from django.test import Client
    from django.urls import reverse

    from django_ray.models import RayTaskExecution
    from django_ray.situation import SITUATIONS

    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    failed = RayTaskExecution.objects.filter(state="FAILED").order_by("-finished_at")[0]
    listing = reverse("admin:django_ray_raytaskexecution_changelist")
    where = {
        **{
            f"executions, {state}": f"{listing}?state={state}"
            for state in (*(one.name for one in SITUATIONS), "RUNNING", "SUCCESSFUL", "CANCELLED")
        },
        **{f"search for {term}": f"{listing}?q={quote(term)}" for term in SEARCHES},
        **{
            f"figures of each task, {hours} h": f"{reverse('admin:django_ray_tasks')}?hours={hours}"
            for hours in (1, 24, 168)
        },
        "flows": reverse("admin:django_ray_rayflow_changelist"),
        "gates": reverse("admin:django_ray_raygate_changelist"),
        "schedules": reverse("admin:django_ray_rayschedule_changelist"),
    }
    looks = {
        **{name: partial(_get, client, address) for name, address in where.items()},
        "executions": lambda: client.get(listing),
        "executions, FAILED": lambda: client.get(f"{listing}?state=FAILED"),
        "executions of a queue": lambda: client.get(f"{listing}?queue_name=queue3"),
        "a search that finds nothing": lambda: client.get(f"{listing}?q=nowhere"),
        "one execution": lambda: client.get(reverse("admin:django_ray_raytaskexecution_change", args=[failed.pk])),
        "live page": lambda: client.get(reverse("admin:django_ray_rayqueue_changelist")),
        "supervisors": lambda: client.get(reverse("admin:django_ray_rayworker_changelist")),
        "django_ray_status": lambda: call_command("django_ray_status", stdout=io.StringIO()),
    }
    figures = {}
    for name, look in looks.items():
        look()
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            look()
            seconds.append(time.perf_counter() - began)
        figures[f"{name}, ms"] = statistics.median(seconds) * 1000
    return figures


def worker():
    start = "from django_ray_worker.main import main; main()"
    return [[sys.executable, "-c", start, "--local", "--concurrency", "2"]], SETTINGS
