"""Enqueues, cancels and retries, at random, from one thread, through everything that happens to the database.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from django.db import DatabaseError, connection, transaction

from django_ray import Flow
from django_ray.models import RayTaskExecution
from tests.chaos import graphs, tasks
from tests.chaos.postgres import Postgres

__all__ = ["Customer", "Order"]

KINDS = {
    "quick": 35,
    "slow": 20,
    "atomic": 20,
    "gated": 15,
    "warm": 12,
    "batched": 15,
    "failing": 8,
    "flaky": 10,
    "cancelled": 5,
    "later": 7,
    "rolled back": 4,
    "flows": 8,
}
MOST_DELAY = 3.0  # Seconds until one that is due later is due, and until something is cancelled.
CANCEL_SHARE = 0.04  # Of what is not meant to be cancelled.
BURST_SHARE, BURST = 0.03, 10
FLOW_CANCEL_SHARE, FLOW_RETRY_SHARE = 0.15, 0.6  # Of flows. Some of them are both, in either order.
MOST_RETRY_DELAY = 8.0


@dataclass(frozen=True)
class Order:
    """One enqueue that was committed."""

    key: str
    kind: str
    result: Any
    member: graphs.Member | None = None  # Of a flow.


@dataclass(frozen=True)
class Verb:
    """What is to be done to an execution or a flow, and the keys of all that this may concern."""

    name: Literal["cancel", "retry"]
    of: Any  # What has these methods.
    keys: tuple[str, ...]
    tries: int = (
        40  # While nothing of it has failed yet that a retry could take; until the end, when it is the last one.
    )


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
        self._to_do: list[tuple[float, int, Verb]] = []  # When, in which order of equal ones, and what.
        self.orders: dict[str, Order] = {}
        self.cancels: dict[str, bool] = {}  # What cancel() returned, by key; absent is that it was never answered.
        self.cancel_asked: set[str] = set()
        self.retry_asked: set[str] = set()
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
                self._do(until=time.monotonic())
            while self._to_do:
                self._do(until=float("inf"))
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self.error = error
        finally:
            connection.close()

    def _order(self) -> None:
        kind = self._chance.choices(list(self._kinds), self._kinds.values())[0]
        key = f"{kind.replace(' ', '-')}-{next(self._numbers)}"
        if kind == "flows":
            self._order_flow(key)
            return
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
                case "warm":
                    result = tasks.warm.enqueue(key, seconds / 4)
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
            self._plan(delay, Verb("cancel", result, (key,)))

    def _order_flow(self, key: str) -> None:
        members = graphs.graph(key, self._chance)
        keys = tuple(member.key for member in members)
        try:
            flow, results = graphs.enqueue(members)
        except DatabaseError:
            connection.close()
            self.counts["enqueues of unknown outcome"] += 1
            # All of it is there, or none: what is missing of it will be found to be lost.
            results = {key: result for key in keys if (result := self._look_up(key)) is not None}
            if not results:
                return
            self.counts["of these committed"] += 1
            flow = self._flow_of(next(iter(results.values())).id)
        for member in members:
            self.orders[member.key] = Order(member.key, "flows", results.get(member.key), member)
        self.counts["flows"] += 1
        if self._chance.random() < FLOW_CANCEL_SHARE:
            self._plan(self._chance.uniform(0, MOST_DELAY), Verb("cancel", flow, keys))
        if self._chance.random() < FLOW_RETRY_SHARE:
            self._plan(self._chance.uniform(0, MOST_RETRY_DELAY), Verb("retry", flow, keys))
        for member in members:
            if member.fate.startswith("fails") and member.key in results and self._chance.random() < FLOW_RETRY_SHARE:
                one = RayTaskExecution.objects.filter(pk=results[member.key].id)
                self._plan(self._chance.uniform(0, MOST_RETRY_DELAY), Verb("retry", one, (member.key,)))

    def _look_up(self, key: str) -> Any:
        """Return the result of an enqueue whose answer never came, None if it was not committed."""
        return self._insist(
            lambda: (
                (row := RayTaskExecution.objects.filter(args__0=key).first())
                and tasks.quick.get_backend().get_result(row.task_id)
            )
        )

    def _flow_of(self, task_id: str) -> Flow:
        return self._insist(lambda: Flow.get(RayTaskExecution.objects.get(pk=task_id).flow_id))

    def _insist(self, question: Callable[[], Any]) -> Any:
        while True:
            self._postgres.up.wait()
            try:
                return question()
            except DatabaseError:
                connection.close()
                time.sleep(0.1)

    def _plan(self, seconds: float, verb: Verb) -> None:
        heapq.heappush(self._to_do, (time.monotonic() + seconds, next(self._numbers), verb))

    def _do(self, until: float) -> None:
        while self._to_do and self._to_do[0][0] <= until:
            _, _, verb = heapq.heappop(self._to_do)
            (self.cancel_asked if verb.name == "cancel" else self.retry_asked).update(verb.keys)
            try:
                answer = getattr(verb.of, verb.name)()
            except DatabaseError:
                connection.close()
                self._postgres.up.wait()
                self._plan(0.2, verb)
                return
            if isinstance(answer, bool):
                self.cancels[verb.keys[0]] = answer
            else:
                self.counts[f"executions of flows that a {verb.name} took"] += answer
                if verb.name == "retry" and not answer and verb.tries > 1 and not self._stopping.is_set():
                    self._plan(MOST_DELAY, replace(verb, tries=verb.tries - 1))
