"""pgqueuer: two `pgq run` on asyncpg, autovacuum set as recommended (pgq autovac), tables durable as by default.

Its guide to performance advises a larger batch for short jobs: 100 instead of 10. Finished jobs are deleted and leave a
line in its log; results are not kept.
"""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver

from benchmarks.marks import mark as mark_now

URL = os.environ["DATABASE_URL"]
COMMAND = str(Path(sys.executable).parent / "pgq")
_loop = asyncio.new_event_loop()
_queries = []


@asynccontextmanager
async def main():
    """Make the worker's side; `pgq run` calls it."""
    connection = await asyncpg.connect(URL)
    pgq = PgQueuer(AsyncpgDriver(connection))

    @pgq.entrypoint("mark")
    async def mark(job):
        mark_now(json.loads(job.payload))

    yield pgq
    await connection.close()


def prepare():
    for step in ("install", "autovac"):
        subprocess.run([COMMAND, "--pg-dsn", URL, step], check=True)

    async def connect():
        return Queries(AsyncpgDriver(await asyncpg.connect(URL)))

    _queries.append(_loop.run_until_complete(connect()))


def one_by_one(numbers):
    async def enqueue():
        for number in numbers:
            await _queries[0].enqueue("mark", json.dumps(number).encode())

    _loop.run_until_complete(enqueue())


def bulk(numbers):
    payloads = [json.dumps(number).encode() for number in numbers]
    count = len(payloads)
    _loop.run_until_complete(_queries[0].enqueue(["mark"] * count, payloads, [0] * count))


def worker():
    return [[COMMAND, "run", "benchmarks.peers.pgqueuer:main", "--batch-size", "100", "--log-level", "WARNING"]] * 2, {}
