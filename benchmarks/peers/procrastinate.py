"""procrastinate: two workers with ten asynchronous jobs at a time each. Listens; jobs are kept, results are not."""

import os
import sys
from pathlib import Path

from procrastinate import App, PsycopgConnector

from benchmarks.marks import mark as mark_now

URL = os.environ["DATABASE_URL"]
app = App(connector=PsycopgConnector(conninfo=URL), import_paths=["benchmarks.peers.procrastinate"])


@app.task(name="mark")
async def mark(number):
    mark_now(number)


def prepare():
    app.open()
    app.schema_manager.apply_schema()


def close():
    app.close()


def one_by_one(numbers):
    for number in numbers:
        mark.defer(number=number)


def bulk(numbers):
    mark.batch_defer(*({"number": number} for number in numbers))


def worker():
    command = Path(sys.executable).parent / "procrastinate"
    return [[str(command), "--app=benchmarks.peers.procrastinate.app", "worker", "--concurrency=10"]] * 2, {}
