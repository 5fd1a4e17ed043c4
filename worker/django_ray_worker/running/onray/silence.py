"""The watch over nodes that say nothing any more, and over the calls that hang there. Idle, it sends nothing.

Which node a call has come to, Ray does not say, and asking would cost each call something. So nobody asks before a node
is silent. Then the others are asked what they run: what none of them runs twice, and was not sent after the silence had
been noticed, is on the silent node, on its way there, or not begun: it is given up, and runs again somewhere else. So
is what has not begun and avoids a node that answers again: it may wait for want of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio import create_task_group, current_time, sleep, sleep_until

from django_ray_worker.running.onray.nodes import PULSE_SECONDS

if TYPE_CHECKING:
    from django_ray_worker.running.onray.awaited import Awaited, Calls
    from django_ray_worker.running.onray.cluster import Cluster
    from django_ray_worker.running.onray.hosts import Hosts

__all__ = ["Silence"]

LOOKS = 2  # A call is not found between two of its bodies, nor while its answer is on its way.
BETWEEN_SECONDS = 1.0  # Two of them.


class Silence:
    """Of the nodes of one driver's cluster."""

    def __init__(self, cluster: Cluster, hosts: Hosts, calls: Calls, *, on_change: Callable[[], None]) -> None:
        self._cluster = cluster
        self._hosts = hosts
        self._calls = calls
        self._on_change = on_change

    async def watch(self) -> None:
        """Watch, for ever."""
        while True:
            if not self._cluster.nodes.silent:
                await self._calls.until_any()
            again = current_time() + PULSE_SECONDS
            before = self._cluster.resources
            async with create_task_group() as both:
                both.start_soon(self._cluster.look)
                # Where calls are short, their answers are the sign of life.
                if self._cluster.nodes.silent or self._calls.has_run_for(PULSE_SECONDS):
                    both.start_soon(self._cluster.nodes.pulse)
            if self._cluster.resources != before:
                self._on_change()
            await self._give_up()
            await sleep_until(again)

    async def _give_up(self) -> None:
        doubtful = self._calls.of_other(self._cluster.nodes.silent)
        lost = [call for call in doubtful if call.node]
        if sought := [call for call in doubtful if not call.node]:
            lost += await self._seek(sought)
        for call in lost:
            call.give_up("No node of the Ray cluster that answers runs it")

    async def _seek(self, sought: list[Awaited]) -> list[Awaited]:
        """Note where they run; return those that are nowhere."""
        for _ in range(LOOKS):
            places = await self._hosts.places()
            for call in sought:
                call.node = next((places[attempt] for attempt in call.attempts if attempt in places), "")
            for call in sought:
                if not call.node and call.replica is not None:
                    call.node = self._calls.node_of(call.replica)
            sought = [call for call in sought if not call.node]
            if not sought:
                break
            await sleep(BETWEEN_SECONDS)
        return sought
