"""celery with redis: prefork with two processes, late acknowledgement (at least once, as ours), results in redis.

Its guide to optimizing advises to prefetch 64 or 128 per process for short tasks. redis writes its append-only file
each second. There is no call for many tasks at once; they share a connection.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time

import celery
import redis

from benchmarks.marks import mark as mark_now

VARIABLE = "BENCH_REDIS"
_started = []

app = celery.Celery("benchmarks.peers.celery")
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    task_serializer="json",
    broker_connection_retry_on_startup=True,
    broker_url=os.environ.get(VARIABLE),
    result_backend=os.environ.get(VARIABLE),
)


@app.task(name="mark")
def mark(number):
    mark_now(number)


def prepare():
    folder = tempfile.mkdtemp(prefix="bench-redis-")
    socket = f"{folder}/redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", folder, "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not os.path.exists(socket):  # noqa: PTH110
        if time.monotonic() > deadline:
            raise TimeoutError("redis-server does not start")
        time.sleep(0.05)
    _started.extend((redis.Redis(unix_socket_path=socket), server, folder))
    os.environ[VARIABLE] = f"redis+socket://{socket}"
    app.conf.update(broker_url=os.environ[VARIABLE], result_backend=os.environ[VARIABLE])
    return {"server": server.pid}


def close():
    if _started:
        _, server, folder = _started
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def one_by_one(numbers):
    for number in numbers:
        mark.delay(number)


def bulk(numbers):
    with app.producer_pool.acquire(block=True) as producer:
        for number in numbers:
            mark.apply_async((number,), producer=producer)


def statements():
    return _started[0].info("stats")["total_commands_processed"]


def worker():
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery", "worker", "-c", "2", "-l", "WARNING"]
    return [command], {VARIABLE: os.environ[VARIABLE]}
