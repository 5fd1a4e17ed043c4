"""Enqueues and cancels, at random, from one thread, through everything that happens to the database.

It knows which enqueues were committed: the connection that breaks in the middle leaves that open, and then the row is
looked for by its key, the first argument of every task.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction

from django_ray.models import RayTaskExecution
from tests.chaos import tasks
from tests.chaos.postgres import Postgres

__all__ = ["Customer", "Order"]

KINDS = {
    "quick": 35,
    "slow": 20,
    "atomic": 20,
    "gated": 15,
    "failing": 8,
    "flaky": 10,
    "cancelled": 5,
    "later": 7,
    "rolled back": 4,
}
MOST_DELAY = 3.0  # Seconds until one that is due later is due, and until something is cancelled.
CANCEL_SHARE = 0.04  # Of what is not meant to be cancelled.
BURST_SHARE, BURST = 0.03, 10


@dataclass(frozen=True)
class Order:
    """One enqueue that was committed."""

    key: str
    kind: str
    result: Any


class Customer:
    """A context manager: it enqueues within."""

    def __init__(
        self, postgres: Postgres, chance: random.Random, *, per_second: float, kinds: Mapping[str, int] = KINDS
    ) -> None:
        self._postgres = postgres
        self._chance = chance
        self._per_second = per_second
        self._kinds = kinds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="customer", daemon=True)
        self._numbers = itertools.count(1)
        self._to_cancel: list[tuple[float, str]] = []
        self.orders: dict[str, Order] = {}
        self.cancels: dict[str, bool] = {}  # What cancel() returned, by key; absent is that it was never answered.
        self.cancel_asked: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what is under way: the last answer is looked up, the last cancels are sent."""
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._chance.expovariate(self._per_second)):
                for _ in range(BURST if self._chance.random() < BURST_SHARE else 1):
                    self._order()
                self._cancel(until=time.monotonic())
            while self._to_cancel:
                self._cancel(until=float("inf"))
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self.error = error
        finally:
            connection.close()

    def _order(self) -> None:
        kind = self._chance.choices(list(self._kinds), self._kinds.values())[0]
        key = f"{kind.replace(' ', '-')}-{next(self._numbers)}"
        delay = self._chance.uniform(0, MOST_DELAY)
        wants_cancel = kind == "cancelled" or self._chance.random() < CANCEL_SHARE
        seconds = self._chance.uniform(0.1, 2)
        try:
            match kind:
                case "rolled back":
                    with transaction.atomic():
                        tasks.quick.enqueue(key)
                        transaction.set_rollback(True)
                    return
                case "slow":
                    result = tasks.slow.enqueue(key, seconds)
                case "atomic":
                    result = tasks.atomic.enqueue(key, seconds / 4)
                case "gated":
                    result = tasks.gated.enqueue(key, f"gate {self._chance.randrange(3)}", seconds / 4)
                case "later":
                    result = tasks.quick.using(run_after=timedelta(seconds=delay)).enqueue(key)
                case _:
                    result = getattr(tasks, kind).enqueue(key)
        except DatabaseError:
            connection.close()
            if kind == "rolled back":
                return
            result = self._look_up(key)
            self.counts["enqueues of unknown outcome"] += 1
            if result is None:
                return
            self.counts["of these committed"] += 1
        self.orders[key] = Order(key, kind, result)
        if wants_cancel:
            heapq.heappush(self._to_cancel, (time.monotonic() + delay, key))

    def _look_up(self, key: str) -> Any:
        """Return the result of an enqueue whose answer never came, None if it was not committed."""
        while True:
            self._postgres.up.wait()
            try:
                row = RayTaskExecution.objects.filter(args__0=key).first()
                return row and tasks.quick.get_backend().get_result(row.task_id)
            except DatabaseError:
                connection.close()
                time.sleep(0.1)

    def _cancel(self, until: float) -> None:
        while self._to_cancel and self._to_cancel[0][0] <= until:
            _, key = heapq.heappop(self._to_cancel)
            self.cancel_asked.add(key)
            try:
                self.cancels[key] = self.orders[key].result.cancel()
            except DatabaseError:
                connection.close()
                self._postgres.up.wait()
                heapq.heappush(self._to_cancel, (time.monotonic() + 0.2, key))
                return
