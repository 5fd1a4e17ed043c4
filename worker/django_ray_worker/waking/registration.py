"""The row of a supervisor: written before its first session, and ended when it leaves nothing behind."""

from __future__ import annotations

import logging
import os
import platform
from typing import TYPE_CHECKING

from anyio import sleep

import django_ray
from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_transient, one_line

if TYPE_CHECKING:
    from django_ray_worker.database.store import Store

__all__ = ["register", "sign_off"]

log = logging.getLogger("django_ray.supervisor")


async def register(work: Store, *, slots: int, ray_address: str, pulse: float) -> int:
    """Insert our row, however long that takes, and return its id; one whose reply is lost is found dead by the next."""
    tries = 0
    while True:
        try:
            return await work.register(
                hostname=platform.node(),
                pid=os.getpid(),
                concurrency=slots,
                ray_address=ray_address,
                version=django_ray.__version__,
                pulse=pulse,
            )
        except DatabaseError as error:
            if not is_transient(error):
                raise
            if is_news(tries):
                log.warning("Waiting for the database (%s).", one_line(error))
        await sleep(backoff(tries))
        tries += 1


async def sign_off(work: Store, worker: int) -> None:
    """Say that this supervisor ended by itself; one that cannot is found dead."""
    try:
        await work.sign_off(worker)
    except DatabaseError as error:
        log.warning("Could not sign off (%s).", one_line(error))
