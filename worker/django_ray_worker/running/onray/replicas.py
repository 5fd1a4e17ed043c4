"""Replicas of workers: Ray actors, each with one instance of a class, that take calls one after the other.

They belong to this driver and end with it. One is started when the first call comes, more when a batch has waited; one
that has had no call for a while ends, or the node of a GPU would never go away. Where a replica of another class waits
for what one holds that is idle, or has had its turn, that one ends for it: two that share a GPU do not wait for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from anyio import current_time

from django_ray_worker.running.onray import functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray.requirements import TaskOptions

__all__ = ["Replica", "Replicas"]

log = logging.getLogger("django_ray.replicas")

TURN_SECONDS = 10.0  # That one keeps what others wait for.


class Replica:
    """One of them."""

    def __init__(self, pool: _Pool, actor: Any) -> None:
        self.pool = pool
        self.actor = actor
        self.is_ready = False  # It has got its place, and the instance is built, or cannot be.
        self.calls: dict[Any, None] = {}  # That have been sent and not ended, in the order in which they run.
        self.last_run: Any = None  # Of one that has died: the call that it ran then. Those after it had not begun.
        self.since = current_time()  # When it became ready, or was started.
        self.idle_since = current_time()
        self.timer: asyncio.TimerHandle | None = None  # When it is looked whether it has been idle for long.


class _Pool:
    """Those of one class with the same resources."""

    def __init__(self, options: TaskOptions) -> None:
        assert options.worker is not None  # noqa: S101
        self.path = options.worker
        self.ray = options.ray
        self.options = options  # What was said last of how many, and how long.
        self.replicas: list[Replica] = []

    @property
    def most(self) -> int:
        return self.options.replicas[1]


class Replicas:
    """Of one driver."""

    def __init__(
        self,
        total: Callable[[], Mapping[str, float]],
        avoided: Callable[[], tuple[str, ...]],
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._total = total  # What the cluster has in all.
        self._avoided = avoided  # Nodes that are silent.
        self._on_change = on_change  # There is another number of them, or one has become ready.
        self._pools: dict[str, _Pool] = {}
        self._making_room: asyncio.TimerHandle | None = None

    @property
    def figures(self) -> Mapping[str, int]:
        """How many replicas of each worker there are."""
        return {pool.path: len(pool.replicas) for pool in self._pools.values() if pool.replicas}

    def places(self, options: TaskOptions) -> int:
        """Return how many calls may run at a time: one, before there is a replica."""
        return max(1, sum(replica.is_ready for replica in self._pool(options).replicas))

    def grow(self, options: TaskOptions) -> None:
        """Start one more, if there may be, and none is on its way."""
        pool = self._pool(options)
        if len(pool.replicas) < pool.most and all(replica.is_ready for replica in pool.replicas):
            self._start(pool)

    def submit(self, options: TaskOptions, payloads: Sequence[str]) -> tuple[Any, Replica]:
        """Send a call; return its reference, and to which replica. TypeError or ValueError when Ray refuses."""
        pool = self._pool(options)
        while len(pool.replicas) < max(1, pool.options.replicas[0]):
            self._start(pool)
        ready = [replica for replica in pool.replicas if replica.is_ready] or pool.replicas
        chosen = min(ready, key=lambda replica: len(replica.calls))
        ref = chosen.actor.run.remote(list(payloads))
        chosen.calls[ref] = None
        return ref, chosen

    def ended(self, replica: Replica, ref: Any) -> None:
        """Take note that a call has ended."""
        del replica.calls[ref]
        replica.idle_since = current_time()
        if replica.actor is not None and not replica.calls:
            self._mind(replica)

    def died(self, replica: Replica) -> None:
        """Take note that one has ended with what was sent to it."""
        if replica.last_run is None:
            replica.last_run = next(iter(replica.calls), None)
        self.drop(replica)

    def drop(self, replica: Replica) -> None:
        """End one, when what was sent to it has ended."""
        if replica in replica.pool.replicas:
            replica.pool.replicas.remove(replica)
            self._on_change()
        replica.actor = None  # with its last handle an actor ends

    def kill(self, replica: Replica) -> None:
        """End one at once, whatever it does."""
        if (actor := replica.actor) is not None:
            self.died(replica)
            ray.kill(actor)

    def forget(self) -> None:
        """Have none: the cluster is left."""
        for pool in self._pools.values():
            for replica in list(pool.replicas):
                self.drop(replica)
        self._pools.clear()

    def _pool(self, options: TaskOptions) -> _Pool:
        key = json.dumps([options.worker, options.ray], sort_keys=True)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(options)
        pool.options = options
        return pool

    def _start(self, pool: _Pool) -> None:
        replica = Replica(pool, functions.replica(pool.ray, self._avoided()))
        pool.replicas.append(replica)
        self._on_change()
        ready = replica.actor.prepare.remote(pool.path)
        ready.future().add_done_callback(partial(_in_loop, asyncio.get_running_loop(), self._has_prepared, replica))
        log.info("A replica of %s starts: %d of at most %d.", pool.path, len(pool.replicas), pool.most)
        self._make_room()

    def _has_prepared(self, replica: Replica, future: Any) -> None:
        if replica.actor is None or future.cancelled() or future.exception() is not None:
            self.drop(replica)  # its calls say why
            return
        replica.is_ready = True
        replica.since = replica.idle_since = current_time()
        self._on_change()
        if not replica.calls:
            self._mind(replica)

    def _mind(self, replica: Replica) -> None:
        """See to it that one that is idle ends in time."""
        self._make_room()
        if replica.actor is None:
            return
        loop, idle = asyncio.get_running_loop(), replica.pool.options.idle
        # Several tasks may have one worker: what was said last counts, also where it is sooner.
        if replica.timer is not None and replica.timer.when() > loop.time() + idle:
            replica.timer.cancel()
            replica.timer = None
        if replica.timer is None:
            replica.timer = loop.call_later(idle, self._end_idle, replica)

    def _end_idle(self, replica: Replica) -> None:
        replica.timer, pool = None, replica.pool
        if replica.actor is None or replica.calls:
            return  # its end, or that of its last call, looks again
        left = replica.idle_since + pool.options.idle - current_time()
        if left > 0:
            replica.timer = asyncio.get_running_loop().call_later(left, self._end_idle, replica)
        elif self._may_end(pool):
            self.drop(replica)
            log.info("A replica of %s has had no call for %g s, and ends.", pool.path, pool.options.idle)

    @staticmethod
    def _may_end(pool: _Pool) -> bool:
        return len(pool.replicas) > pool.options.replicas[0]

    def _make_room(self) -> None:
        """End what is idle, and has had its turn, where another one waits for what it holds."""
        starting = [one for pool in self._pools.values() for one in pool.replicas if not one.is_ready]
        later = math.inf
        for wanting in starting:
            for name in self._lacking(wanting):
                for replica in self._idle_ones(besides=wanting.pool):
                    has_it = _wants(replica.pool.ray).get(name, 0) > 0
                    held = current_time() - replica.since
                    if has_it and held >= TURN_SECONDS and name in self._lacking(wanting):
                        log.info("A replica of %s ends for one of %s.", replica.pool.path, wanting.pool.path)
                        self.drop(replica)
                    elif has_it:
                        later = min(later, max(1.0, TURN_SECONDS - held))
        if later < math.inf and self._making_room is None:
            self._making_room = asyncio.get_running_loop().call_later(later, self._make_more_room)

    def _make_more_room(self) -> None:
        self._making_room = None
        self._make_room()

    def _lacking(self, wanting: Replica) -> Mapping[str, float]:
        """Return what the cluster has too little of for one that starts, beside those that are there."""
        wants, total = _wants(wanting.pool.ray), self._total()
        held: dict[str, float] = {}
        for pool in self._pools.values():
            for _ in (one for one in pool.replicas if one.is_ready):
                for name, number in _wants(pool.ray).items():
                    held[name] = held.get(name, 0) + number
        return {
            name: number - (total.get(name, 0) - held.get(name, 0))
            for name, number in wants.items()
            if number > total.get(name, 0) - held.get(name, 0)
        }

    def _idle_ones(self, besides: _Pool) -> list[Replica]:
        found = [
            one
            for pool in self._pools.values()
            if pool is not besides and self._may_end(pool)
            for one in pool.replicas
            if one.is_ready and not one.calls
        ]
        return sorted(found, key=lambda one: one.idle_since)


def _wants(options: Mapping[str, Any]) -> dict[str, float]:
    """Return what an actor with these options holds: no CPU unless it is said."""
    plain = {"CPU": options.get("num_cpus", 0), "GPU": options.get("num_gpus", 0), "memory": options.get("memory", 0)}
    return {name: number for name, number in {**plain, **options.get("resources", {})}.items() if number}


def _in_loop(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *args: object) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(what, *args)
