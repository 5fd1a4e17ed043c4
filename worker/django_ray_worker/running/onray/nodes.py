"""The nodes of a cluster: what each has, and whether it answers.

A host that freezes, or whose network swallows everything, tells nobody, and Ray itself notices after minutes. So there
is the pulse of a node: a connection to its raylet, which greets whoever connects. It costs no process and no call of
Ray's. A node that says nothing to four pulses is silent until it answers one: what it has does not count meanwhile, and
no call is to go there. One that is gone from the list while it says nothing is kept in mind, because calls that were
sent there may hang all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from anyio import create_task_group, current_time, move_on_after

from django_ray_worker.running.onray.node import draining
from django_ray_worker.running.onray.sockets import Address, reacts

__all__ = ["Listed", "Nodes", "listed"]

log = logging.getLogger("django_ray.executor")

PULSE_SECONDS = 5.0  # Between two pulses, and that a node gets to answer one.
MOST_MISSED = 4  # Pulses without an answer, and a node is silent.
FORGET_SECONDS = 900.0  # That a silent node is kept in mind when it is gone; Ray's calls to it hang for less.


@dataclass(frozen=True, slots=True)
class Listed:
    """A node as the head lists it."""

    node: str
    address: Address  # Of its raylet.
    resources: Mapping[str, float]  # In all, by Ray's names; of one that drains, none.


@dataclass(slots=True)
class _Node:
    listed: Listed
    missed: int = 0  # Pulses, one after the other: a time in which we stood still ourselves counts as one at most.
    gone_at: float | None = None  # Since when it is not listed any more.

    @property
    def is_forgotten(self) -> bool:
        """Tell whether it is gone, and nothing hangs on it."""
        return self.gone_at is not None and (not self.missed or current_time() - self.gone_at > FORGET_SECONDS)


@dataclass(slots=True)
class Nodes:
    """Of one cluster."""

    on_change: Callable[[], None]  # There is more, or less.
    resources: dict[str, float] = field(default_factory=dict)  # Of those that answer, by Ray's names.
    silent: tuple[str, ...] = ()
    _nodes: dict[str, _Node] = field(default_factory=dict)

    @property
    def answering(self) -> list[str]:
        """Those that are listed, and not silent."""
        return [name for name, node in self._nodes.items() if node.gone_at is None and name not in self.silent]

    def take(self, nodes: Sequence[Listed]) -> None:
        """Take over what the head lists."""
        lives = {one.node: one for one in nodes}
        for name, one in lives.items():
            self._nodes.setdefault(name, _Node(one)).listed = one
        for name, node in self._nodes.items():
            if name in lives:
                node.gone_at = None
            elif node.gone_at is None:
                node.gone_at = current_time()
        self._count()

    async def pulse(self) -> None:
        """Ask each of them for a sign of life, and see which are silent."""
        async with create_task_group() as asking:
            for node in self._nodes.values():
                asking.start_soon(_ask, node)
        self._count()

    def _count(self) -> None:
        self._nodes = {name: node for name, node in self._nodes.items() if not node.is_forgotten}
        silent = {name: node for name, node in self._nodes.items() if node.missed >= MOST_MISSED}
        for name in silent.keys() - set(self.silent):
            log.warning(
                "The node %s of the Ray cluster (%s) has not answered for %g s: what runs there is given up, and "
                "nothing is sent there until it answers.",
                name, silent[name].listed.address, MOST_MISSED * PULSE_SECONDS,
            )  # fmt: skip
        for name in set(self.silent) - silent.keys():
            log.info("The node %s of the Ray cluster %s.", name, "answers again" if name in self._nodes else "is gone")
        self.silent = tuple(sorted(silent))
        before, self.resources = self.resources, {}
        for name in self.answering:
            for resource, number in self._nodes[name].listed.resources.items():
                self.resources[resource] = self.resources.get(resource, 0) + number
        if self.resources != before:
            self.on_change()


async def _ask(node: _Node) -> None:
    with move_on_after(PULSE_SECONDS):
        if await reacts(node.listed.address):
            node.missed = 0
            return
    node.missed += 1


def listed() -> list[Listed]:
    """Ask the head which nodes live. Ray gives those that drain nothing more to run."""
    nodes: Any = ray.nodes
    away = draining()
    return [
        Listed(
            node["NodeID"],
            f"{_bracketed(node['NodeManagerAddress'])}:{node['NodeManagerPort']}",
            {} if node["NodeID"] in away else node["Resources"],
        )
        for node in nodes()
        if node["Alive"]
    ]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
