"""20 concurrent enqueuers with transactions of random length and rollbacks against 2 sleeping supervisors.

The supervisors have no timer: a lost wake-up would leave rows behind for ever. `make stress` runs it ten times longer.
"""

import asyncio
import os
import random

import psycopg
from anyio import create_task_group
from django.db import connection

from tests.supervisors import Instant, database_url, living, until

ENQUEUERS = 20
ROUNDS = 400 if os.environ.get("DJANGO_RAY_STRESS") == "long" else 40


async def enqueue(url: str, seed: int, committed: list[int]) -> None:
    dice = random.Random(seed)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as session:
        for _ in range(ROUNDS):
            rows = dice.choice([1, 1, 1, 5, 50])
            level = dice.choice(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
            queue = dice.choice(["default", "other"])
            await session.execute(f"BEGIN ISOLATION LEVEL {level}")
            await session.execute(
                "INSERT INTO django_ray_execution (callable_path, queue_name)"
                " SELECT 'tests.tasks.add', %s FROM generate_series(1, %s)",
                [queue, rows],
            )
            await asyncio.sleep(dice.choice([0, 0, 0.001, 0.02]))  # the length of the transaction
            if dice.random() < 0.2:
                await session.execute("ROLLBACK")
            else:
                await session.execute("COMMIT")
                committed.append(rows)
            await asyncio.sleep(dice.choice([0, 0.002, 0.03]))  # time for the supervisors to fall asleep


async def test_twenty_enqueuers_and_two_sleeping_supervisors_lose_nothing(database, connect):
    """B1."""
    executor = Instant()
    committed: list[int] = []
    async with living(database, executor), living(database, executor):
        async with create_task_group() as enqueuers:
            for seed in range(ENQUEUERS):
                enqueuers.start_soon(enqueue, database_url(connection), seed, committed)
        await executor.has_run(sum(committed))
    print(f"{sum(committed)} rows in {len(committed)} transactions")
    assert len(executor.ran) == len(set(executor.ran)) == sum(committed)
    states = connect().execute("SELECT state, count(*) FROM django_ray_execution GROUP BY state").fetchall()
    assert states == [{"state": "SUCCESSFUL", "count": sum(committed)}]


async def test_a_long_transaction_behind_one_bell_delays_no_other(database, connect):
    """A supervisor that falls asleep while transactions are open on both queues runs each when it commits."""
    insert = "INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('tests.tasks.add', %s)"
    long, short = connect(), connect()
    for session, queue in ((long, "default"), (short, "other")):
        session.execute("BEGIN")
        session.execute(insert, [queue])  # nobody is announced yet: neither will notify
    executor = Instant()
    async with living(database, executor):
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1145721433 AND NOT granted"
        monitor = connect()
        await asyncio.to_thread(until, lambda: monitor.execute(waiting).fetchone()["count"] == 2)
        short.execute("COMMIT")
        await executor.has_run(1)
        long.execute("COMMIT")
        await executor.has_run(2)
