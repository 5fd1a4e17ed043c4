"""(A) Enqueueing: one by one, and in bulk."""

import time

from django.db import connection
from django.tasks import task_backends
from rich.progress import track

from tests import tasks

SINGLE = 3_000
BULK = 20_000


def measure(console):
    connection.ensure_connection()
    figures = {}
    tasks.add.enqueue(0, 0)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in track(range(SINGLE), "enqueue one by one", console=console):
        tasks.add.enqueue(number, 1)
    figures["enqueue() one by one"] = _rate(SINGLE, wall, cpu)
    for size in (1_000, BULK):
        calls = [(tasks.add, (number, 1), {}) for number in range(size)]
        wall, cpu = time.perf_counter(), time.process_time()
        task_backends["default"].enqueue_many(calls)
        figures[f"enqueue_many() of {size:,}"] = _rate(size, wall, cpu)
    return figures


def _rate(number, wall, cpu):
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{number / wall:,.0f} tasks/s, {cpu / number * 1e6:,.0f} us of client CPU per task"
