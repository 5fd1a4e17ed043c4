"""What the shop does in the background. Each task shows one thing."""

import asyncio
import hashlib
import logging
import os
import signal
import socket
import time
from datetime import timedelta
from typing import Any

from django.tasks import TaskContext, default_task_backend, task
from django.utils import timezone

from django_ray import Backoff, Flow, RayTaskContext, schedule, task_options, value_of
from django_ray.runtime.distributed import parallel_map

from .models import Parcel

log = logging.getLogger(__name__)


@task
def greet(name: str) -> str:
    """Be quick."""
    log.info("Greeting %s.", name)
    return f"Hello, {name}!"


@task
def where() -> str:
    """Tell which host of the cluster it runs on."""
    time.sleep(1)
    return socket.gethostname()


@task(queue_name="reports")
def monthly_report(month: int) -> dict[str, int]:
    """Take two seconds, on a queue of its own."""
    time.sleep(2)
    return {"month": month, "pages": 12}


@task(takes_context=True)
@task_options(max_attempts=3, backoff=Backoff(base=0.5))
def charge_card(context: TaskContext, order: int) -> str:
    """Fail at the first attempt, work at the second."""
    if context.attempt == 1:
        raise ConnectionError("The bank did not answer.")
    return f"order {order} paid at attempt {context.attempt}"


@task
@task_options(max_attempts=1)
def ship(order: int) -> None:
    """Fail for good."""
    raise ValueError(f"Order {order} has no address.")


@task(takes_context=True)
@task_options(atomic=True)
def send_parcel(context: RayTaskContext, order: int) -> str:
    """Write to the database exactly once, although its process is killed in the middle of the first attempt."""
    Parcel.objects.create(order=order)
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"order {order} is on its way, in {Parcel.objects.filter(order=order).count()} parcel"


@task(takes_context=True)
def import_catalogue(context: RayTaskContext, pages: int) -> int:
    """Say how far it is, and say more to whoever watches."""
    for page in range(1, pages + 1):
        context.progress(page / pages, f"page {page} of {pages}")
        log.info("Page %d is imported.", page)
        time.sleep(0.3)
    return pages


@task
async def fetch_rates() -> list[float]:
    """Await several things at once."""

    async def rate(currency: int) -> float:
        await asyncio.sleep(0.1)
        return 1 + currency / 10

    return list(await asyncio.gather(*(rate(currency) for currency in range(3))))


@task
def newsletter(readers: list[str]) -> list[str]:
    """Enqueue a task for each reader and return their ids."""
    return [greet.enqueue(reader).id for reader in readers]


@task
def fingerprints(pictures: int) -> list[str]:
    """Spread heavy work over the cluster and wait for it."""

    def fingerprint(picture: int) -> str:
        return hashlib.pbkdf2_hmac("sha256", str(picture).encode(), b"salt", 200_000).hex()[:8]

    return parallel_map(fingerprint, range(pictures))


@task
def import_file(number: int) -> list[str]:
    """Read one of the files of an import."""
    time.sleep(0.1)
    return [f"product {number}-{row}" for row in range(1, 6)]


@task
def merge_files(files: list[list[str]]) -> dict[str, int]:
    """Get what all files have returned, when the last of them is read."""
    return {"files": len(files), "products": sum(map(len, files))}


@task
def mail_report(report: dict[str, int], to: str) -> str:
    """Be the end of it."""
    log.info("Mail to %s: %s.", to, report)
    return f"{to} knows of {report['products']} products from {report['files']} files"


def import_files(number: int) -> Flow:
    """Enqueue a whole import at once: many files, what waits for all of them, and what waits for that."""
    with Flow(f"import of {number} files") as flow:
        files = default_task_backend.enqueue_many([(import_file, [file], {}) for file in range(1, number + 1)])  # type: ignore[attr-defined]
        merged = merge_files.enqueue(value_of(files))
        mail_report.enqueue(value_of(merged), to="ada@example.org")
    return flow


@task(takes_context=True)
@schedule(every=timedelta(seconds=10))
def count_parcels(context: RayTaskContext) -> str:
    """Be enqueued by itself, every ten seconds."""
    return f"{Parcel.objects.count()} parcels at {context.tick or timezone.now():%H:%M:%S}"


# What the page's buttons and the demo enqueue: name -> task, arguments.
SHOWN: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "greet": (greet, ("Ada",)),
    "where": (where, ()),
    "monthly_report": (monthly_report, (7,)),
    "charge_card": (charge_card, (42,)),
    "ship": (ship, (43,)),
    "send_parcel": (send_parcel, (44,)),
    "import_catalogue": (import_catalogue, (10,)),
    "fetch_rates": (fetch_rates, ()),
    "newsletter": (newsletter, (["Grace", "Edsger", "Barbara"],)),
    "fingerprints": (fingerprints, (4,)),
}
