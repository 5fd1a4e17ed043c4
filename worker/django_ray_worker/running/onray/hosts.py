"""The hosts of the cluster, asked which process runs an attempt: rarely, when one does not end by itself.

On the host of a Ray that was started here it is looked by ourselves; else a small call goes to each node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from anyio import Lock, create_task_group, current_time, move_on_after
from ray import exceptions

from django_ray.runtime import mark
from django_ray.runtime.snapshot import Snapshot, snapshot
from django_ray_worker.running.onray import functions
from django_ray_worker.running.onray.awaited import attempts_of
from django_ray_worker.running.onray.questions import ask

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.running.onray.cluster import Cluster

__all__ = ["Hosts"]

FRESH_SECONDS = 1.0  # That what was found counts: many may ask at a time.
REPLY_SECONDS = 10.0  # That a node gets: it may have to start a process for it.


class Hosts:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._looking = Lock()
        self._looked = -FRESH_SECONDS
        self._running: dict[mark.Attempt, mark.Running] = {}  # What ran then, and since when.

    async def find(self, claims: Sequence[Claim]) -> mark.Running | None:
        """Return since when the body of one of these has been running, and quiet; None when none is found."""
        async with self._looking:
            if current_time() - self._looked > FRESH_SECONDS:
                self._running = {attempt: since for reply in await self._look() for attempt, since in reply}
                self._looked = current_time()
        later = current_time() - self._looked
        found = [self._running[attempt] for attempt in attempts_of(claims) if attempt in self._running]
        if not found:
            return None
        ran, quiet = max(found)
        return ran + later, quiet + later

    async def places(self) -> dict[mark.Attempt, str]:
        """Return which node runs which attempt now, of those nodes that reply in time."""
        replies = await self._ask_nodes(lambda node: functions.placing(node).remote(node))
        return {attempt: node for node, reply in replies.items() for attempt in reply}

    async def kill(self, claims: Sequence[Claim]) -> None:
        """End the process that runs one of these, whatever it does."""
        attempts = attempts_of(claims)
        if self._cluster.is_here:
            await ask(lambda: mark.kill(attempts))
        else:
            await self._ask_nodes(lambda node: functions.killing(node).remote(attempts))

    async def interrupt(self, claims: Sequence[Claim]) -> None:
        """Ask the body of these to end."""
        attempts = attempts_of(claims)
        if self._cluster.is_here:
            await ask(lambda: mark.interrupt(attempts))
        else:
            await self._ask_nodes(lambda node: functions.interrupting(node).remote(attempts))

    async def snapshot(self, claims: Sequence[Claim]) -> Snapshot | None:
        """Return what the body of one of these does now; None when none is found."""
        attempts = attempts_of(claims)
        if self._cluster.is_here:
            return await ask(lambda: snapshot(attempts))
        replies = await self._ask_nodes(lambda node: functions.looking(node).remote(attempts))
        return next((reply for reply in replies.values() if reply is not None), None)

    async def _look(self) -> list[list[tuple[mark.Attempt, mark.Running]]]:
        if self._cluster.is_here:
            return [await ask(mark.running)]
        return list((await self._ask_nodes(lambda node: functions.finding(node).remote())).values())

    async def _ask_nodes(self, question: Callable[[str], Any]) -> dict[str, Any]:
        """Return what the nodes reply that reply in time."""
        await self._cluster.look()
        replies: dict[str, Any] = {}

        async def ask_node(node: str) -> None:
            with suppress(exceptions.RayError):  # it is gone, or its code is of before
                replies[node] = await question(node)

        with move_on_after(REPLY_SECONDS, shield=True):
            async with create_task_group() as asking:
                for node in self._cluster.nodes.answering:
                    asking.start_soon(ask_node, node)
        return replies
