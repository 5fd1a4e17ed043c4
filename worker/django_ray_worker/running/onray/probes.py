"""Calls that do nothing, as many as places are wanted. While they wait, they are the demand that an autoscaler reads.

They belong to this driver and end with it, so what several supervisors ask for adds up, and a dead one leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import ray

from django_ray_worker.running.onray import functions

__all__ = ["Probes"]


class Probes:
    """Of one driver."""

    def __init__(self, *, on_placed: Callable[[], None], on_change: Callable[[], None]) -> None:
        self._on_placed = on_placed
        self._on_change = on_change  # Another number of them waits.
        self._pending: dict[Any, None] = {}  # References, in the order of their submission.
        self._avoided: tuple[str, ...] = ()  # Nodes where they are not to go.

    def __len__(self) -> int:
        return len(self._pending)

    def want(self, number: int, avoided: tuple[str, ...]) -> None:
        """Have so many wait, for a place on another node than these."""
        if avoided != self._avoided:
            self.want(0, self._avoided)
            self._avoided = avoided
        if len(self._pending) != number:
            self._on_change()
        while len(self._pending) > number:
            ref, _ = self._pending.popitem()
            ray.cancel(ref)
        while len(self._pending) < number:
            ref = functions.probe(avoided)
            self._pending[ref] = None
            ref.future().add_done_callback(partial(_in_loop, asyncio.get_running_loop(), partial(self._has_ended, ref)))

    def forget(self) -> None:
        """Have none: the cluster is left."""
        self._pending.clear()

    def _has_ended(self, ref: Any) -> None:
        """Take note that one has got a place: there may be room."""
        if self._pending.pop(ref, self) is None:
            self._on_change()
            self._on_placed()


def _in_loop(loop: asyncio.AbstractEventLoop, what: Callable[[], None], _: object) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(what)
