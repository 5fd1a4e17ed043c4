"""Slots that follow the cluster, and what is asked of it when more waits than there is room for.

Nothing is claimed before there is room, so rows stay READY while a node is on its way: cancel, pause and priority work
on them, and any supervisor may take them. What the cluster is asked for is calls that do nothing: while they wait there
for a place, they are the demand that makes it grow, and when one gets a place there may be room. They end with us.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Protocol

from anyio import Event, create_task_group, move_on_after, sleep

from django_ray_worker.core.claim import Backlogged
from django_ray_worker.core.tries import backoff, is_news
from django_ray_worker.database.errors import DatabaseError, is_transient, one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from django_ray_worker.database.store import Store

__all__ = ["MOST_PLACES", "Demand"]

log = logging.getLogger("django_ray.claimer")

MOST_PLACES = 1000  # That are asked for at a time.
PAUSE_SECONDS = 1.0  # Between two looks how much waits.
LONGEST_PAUSE_SECONDS = 30.0  # While what is asked for gets places that were there already: the backlog moves.


# Queues of ours, and for how many executions of them more slots would help; None is all of them, and for any number.
type Part = tuple[Sequence[str] | None, int | None]


class Places(Protocol):
    """Where executions run."""

    @property
    def cpus(self) -> int:
        """How many it can run at a time."""
        ...

    @property
    def wanted(self) -> int:
        """How many of those that it was asked for it has no room for yet."""
        ...

    def want(self, places: int) -> None:
        """Have it asked for room for so many more."""
        ...

    async def until_resized(self) -> None:
        """Return when it can run another number of them."""
        ...


class Demand:
    """Of one supervisor whose slots follow its cluster."""

    def __init__(
        self,
        work: Store,
        places: Places,
        *,
        most: int | None,
        on_resized: Callable[[], None],
        listen: Callable[[], Awaitable[None]],
        parts: Callable[[], Sequence[Part]] = lambda: [(None, None)],
    ) -> None:
        self._store = work
        self._places = places
        self._most = most  # Executions at a time; None is as many as the cluster can run.
        self._on_resized = on_resized
        self._parts = parts
        self._listen = listen  # From now on it is told when more comes, and once.
        self._crowded = Event()
        self._calmed = Event()
        self._asked = 0  # For how many places.
        self._cpus = 0  # That there were then.
        self._pause = PAUSE_SECONDS

    def crowd(self) -> None:
        """Take note that there may be more than there is room for."""
        self._crowded.set()

    def calm(self) -> None:
        """Take note that nothing waits."""
        self._calmed.set()
        self._ask_for_none()

    async def run(self) -> None:
        """Follow the cluster, and ask for more, for ever."""
        async with create_task_group() as both:
            both.start_soon(self._follow)
            both.start_soon(self._ask)

    async def _follow(self) -> None:
        while True:
            self._on_resized()
            await self._places.until_resized()
            log.info("The Ray cluster has %d CPUs now.", self._places.cpus)

    async def _ask(self) -> None:
        tries, due = 0, math.inf
        while True:
            with move_on_after(due):
                await self._crowded.wait()
            self._crowded, self._calmed = Event(), Event()
            try:
                waiting = await self._waiting()
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                if is_news(tries):
                    log.warning("How much waits is not known (%s); it is asked again.", one_line(error))
                self._crowded.set()
                await sleep(backoff(tries))
                tries += 1
                continue
            tries = 0
            # Where there is no slot, nobody claims, and so nobody else knows what falls due next.
            due = math.inf if waiting.next_due is None or self._places.cpus else max(PAUSE_SECONDS, waiting.next_due)
            room = MOST_PLACES if self._most is None else max(0, self._most - self._places.cpus)
            places = min(waiting.number, room)
            self._ask_for(places)
            if room:
                await self._listen()
            with move_on_after(self._pause):
                await self._calmed.wait()
                places = 0
                self._ask_for_none()  # it may have become calm while it was counted
            if self._asked < places:
                due = 0.0

    async def _waiting(self) -> Backlogged:
        """Return how much waits for which more slots would help, and when the next falls due."""
        number, next_due = 0, math.inf
        for queues, most in self._parts():
            found = await self._store.waiting(MOST_PLACES, queues)
            number += found.number if most is None else min(found.number, most)
            next_due = min(next_due, math.inf if found.next_due is None else found.next_due)
        return Backlogged(number=number, next_due=None if next_due == math.inf else next_due)

    def _ask_for_none(self) -> None:
        if self._asked:
            self._ask_for(0)

    def _ask_for(self, places: int) -> None:
        """Ask for so many; a few first, and twice as many as long as they wait."""
        cpus = self._places.cpus
        if not places:
            self._asked, self._pause = 0, PAUSE_SECONDS
        elif self._asked and cpus == self._cpus and self._places.wanted < self._asked:
            # Some have got a place although there are no more than before: what is asked for takes from what runs.
            self._asked, self._pause = 1, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        else:
            self._asked, self._pause = max(1, 2 * self._asked), PAUSE_SECONDS
        if places and not self._cpus and not cpus:
            log.info("The Ray cluster has no CPU: this supervisor asks Ray for room for what waits.")
        self._asked, self._cpus = min(self._asked, places), cpus
        self._places.want(self._asked)
