"""The customer of the node test: one thread that keeps a number of short tasks unfinished until it is stopped."""

from __future__ import annotations

import random
import threading
from typing import Self

from django.db import connection

from django_ray.models import RayTaskExecution
from tests.chaos.customer import Order
from tests.nodes import tasks

__all__ = ["Load"]

UNFINISHED = 20  # Several times what the cluster runs at once.
SECONDS = (0.2, 2.0)  # That a task takes.


class Load:
    """What was enqueued, as the audit of tests.chaos wants it; a context manager that enqueues within."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.cancel_asked: frozenset[str] = frozenset()
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what ended the thread, if something did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(0.1):
                for _ in range(UNFINISHED - RayTaskExecution.objects.filter(finished_at=None).count()):
                    self._order()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        finally:
            connection.close()

    def _order(self) -> None:
        key = f"work-{len(self.orders) + 1}"
        self.orders[key] = Order(key, "work", tasks.work.enqueue(key, random.uniform(*SECONDS)))
