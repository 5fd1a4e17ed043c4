"""The process that keeps a Ray for supervisors that come and go (--reload): it starts one, says where, and ends it.

It ends when the process that has started it does, or when its Ray is gone. No signal concerns it: a terminal sends them
to everybody, and what runs has its grace first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import anyio
from anyio import create_task_group

from django_ray_worker import logs
from django_ray_worker.core.exceptions import Misconfigured, Stuck
from django_ray_worker.running.onray.environment import prepare_environment
from django_ray_worker.watcher import SOCKET, Kept

__all__ = ["main"]

LIMIT = "RAY_num_workers_soft_limit"
SPARE = 2  # Processes beyond Ray's own limit, one for each CPU: one waits for the next supervisor.


def main() -> None:
    """Be that process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    cpus, log_level, log_format = sys.argv[1:]
    if log_format == "json":
        logs.write_objects()
    logs.configure(log_level, log_format)
    os.environ.setdefault(LIMIT, str((int(cpus) or os.cpu_count() or 1) + SPARE))
    prepare_environment(cluster=None)
    anyio.run(partial(_keep, int(cpus) or None, socket.socket(fileno=int(os.environ.pop(SOCKET)))))
    logging.shutdown()
    os._exit(0)  # a thread may hang inside Ray


async def _keep(cpus: int | None, watching: socket.socket) -> None:
    from django_ray_worker.running.onray.cluster import Cluster
    from django_ray_worker.running.onray.local import LocalRay

    reader, writer = await asyncio.open_connection(sock=watching)
    local = LocalRay(cpus, {}, log_to_driver=False)  # the supervisors show it
    cluster = Cluster(local)

    async def end_with_who_watches() -> None:
        await reader.read()
        tasks.cancel_scope.cancel()

    try:
        async with create_task_group() as tasks:
            tasks.start_soon(end_with_who_watches)
            reply = await _reply(cluster)
            writer.write(json.dumps(reply).encode() + b"\n")
            if cluster.address:
                await cluster.until_gone()
            tasks.cancel_scope.cancel()
    finally:
        await cluster.close()
        writer.close()


async def _reply(cluster: Any) -> dict[str, Any]:
    """Start it, and return what its drivers are to be told."""
    try:
        await cluster.start()
    except Misconfigured as error:
        return {"misconfigured": str(error)}
    except (OSError, Stuck) as error:
        return {"failed": str(error)}
    return asdict(Kept(cluster.address, str(cluster.folder.path), os.getpid()))
