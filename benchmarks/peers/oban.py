"""oban: two `oban start`, as its guide to production has it, 100 jobs at a time. Jobs are kept, results are not."""

import asyncio
import os
import sys
from pathlib import Path

import oban
from oban.schema import install

from benchmarks.marks import mark as mark_now

URL = os.environ["DATABASE_URL"]
_loop = asyncio.new_event_loop()
_client = []


@oban.worker(queue="default")
class Mark:
    """The task."""

    async def process(self, job):
        mark_now(job.args["number"])


def prepare():
    async def connect():
        pool = await oban.Oban.create_pool(URL)
        await install(pool)
        client = oban.Oban(pool=pool)
        await client.start()
        return client, pool

    _client.extend(_loop.run_until_complete(connect()))


def close():
    client, pool = _client
    _loop.run_until_complete(client.stop())
    _loop.run_until_complete(pool.close())


def one_by_one(numbers):
    async def enqueue():
        for number in numbers:
            await _client[0].enqueue(Mark.new({"number": number}))

    _loop.run_until_complete(enqueue())


def bulk(numbers):
    jobs = [Mark.new({"number": number}) for number in numbers]
    _loop.run_until_complete(_client[0].enqueue_many(jobs))


def worker():
    command = [
        str(Path(sys.executable).parent / "oban"), "start", f"--dsn={URL}", "--queues=default:100",
        "--cron-modules=benchmarks.peers.oban",
    ]  # fmt: skip
    return [command] * 2, {}
