"""Tasks for the tests. Each one is as small as what it shows."""

import asyncio
import ctypes
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

from django.db import connection, transaction
from django.tasks import task

from django_ray import Backoff, task_options
from django_ray.runtime.distributed import get_num_workers, get_total_cpus, is_ray_available, parallel_map

CALLED = Path(tempfile.gettempdir()) / "django-ray-not-a-task-was-called"
FAST = Backoff(base=0.5, factor=1, jitter=0)


@task
def add(a, b):
    return a + b


@task
@task_options(unique="replace", unique_by="a", limit=1, expires=3600)
def add_once(a, b):
    return a + b


bound = ContextVar("bound", default="nothing")


def bind(_):
    before = bound.get()
    bound.set("something")
    return before


@task
def map_bound():
    return parallel_map(bind, range(8))


@task
def write_lines(number, last=""):
    logging.getLogger("shop").warning("a warning")
    print("to standard error", file=sys.stderr)
    for line in range(number):
        print("line", line)
    print(last, end="")


def say_from_below(words):
    subprocess.run(["sh", "-c", f"echo {words}; echo {words} to standard error >&2"], check=True)


@task
def write_from_below():
    print("before", end="")
    say_from_below("from below")
    asyncio.run(_say_from_below_in_a_loop())
    print("after")
    parallel_map(say_from_below, ["from elsewhere"])


@task
def write_from_below_without_streams(stream):
    closed = io.StringIO()
    closed.close()
    sys.stdout = sys.stderr = {"none": None, "closed": closed, "other": object()}[stream]
    return subprocess.run(["echo", "still works"], capture_output=True, text=True, check=True).stdout


async def _say_from_below_in_a_loop():
    process = await asyncio.create_subprocess_exec("echo", "from a loop")
    await process.wait()


@task
@task_options(max_attempts=1)
def write_and_fail():
    print("about to fail")
    raise ValueError("no")


@task
def write_and_loop(path):
    print("about to loop")
    Path(path).touch()
    while True:
        time.sleep(0.01)


@task
def started_at():
    return time.time()


@task
def write_line(path, line):
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


@task
def enqueue_add(a, b):
    return add.enqueue(a, b).id


@task
async def add_later(a, b):
    return a + b


@task(takes_context=True)
def attempt_number(context):
    return context.attempt


@task(takes_context=True)
@task_options(max_attempts=3, backoff=FAST)
def fail_until_third(context):
    if context.attempt < 3:
        raise ValueError(f"attempt {context.attempt}")
    return time.time()


@task
def where():
    return [sys.executable, str(Path.cwd()), __file__]


@task
@task_options(max_attempts=1)
def fail(message="no"):
    raise ValueError(message)


@task
@task_options(max_attempts=1)
def exit_politely():
    raise SystemExit(3)


@task
@task_options(max_attempts=1)
def kill_process():
    os._exit(9)


@task
def sleep(seconds):
    time.sleep(seconds)
    return seconds


def say_where(path):
    """Write the number of this process to a file that is there only when all of it is."""
    unfinished = Path(path).with_suffix(".unfinished")
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(path)


@task
def touch_and_sleep(path, seconds):
    say_where(path)
    time.sleep(float(seconds))
    return "slept"


@task
def hold(folder, key):
    """Say which process runs it, and run until it is told to end."""
    (Path(folder) / f"{key}.{os.getpid()}").touch()
    while not (Path(folder) / f"{key}.go").exists():
        time.sleep(0.02)
    return key


@task
@task_options(timeout=1.0, max_attempts=1)
def too_long():
    while True:
        time.sleep(0.01)  # a body of Python; one that is stuck in C is killed a little later


@task
def returns_nan():
    return float("nan")


@task
def leaves_transaction_open():
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@task
def backend_pid():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def not_a_task():
    CALLED.write_text("by a row that names no task")


@task
def map_nested(number, factor):
    def times(item):
        return item * factor

    return parallel_map(times, range(number))


@task
def map_with_error():
    def pick(item):
        if item == 3:
            raise LookupError(str(item))
        return item

    try:
        parallel_map(pick, range(10))
    except LookupError as error:
        return f"{type(error).__name__}: {error}"


@task
def cluster():
    return [is_ray_available(), get_total_cpus(), get_num_workers()]


@task
def loop(path):
    Path(path).touch()
    while True:
        time.sleep(0.001)


@task
async def loop_async(path):
    Path(path).touch()  # noqa: ASYNC240 - only once
    while True:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@task
def block(path):
    Path(path).touch()
    threading.Event().wait()


@task
def query_long(path):
    Path(path).touch()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(600)")


@task
def stick_in_c(path):
    Path(path).touch()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    ctypes.CDLL(None).sleep(600)


@task
def keep_the_lock(path):
    """Stay in code in C that keeps Python's lock, until somebody writes into the pipe beside that file."""
    os.mkfifo(f"{path}.pipe")
    pipe = os.open(f"{path}.pipe", os.O_RDWR)
    Path(path).touch()
    # Unlike others, this library keeps Python's lock during a call.
    return ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)


@task
async def await_three_levels(path):
    async def inner():
        print("three levels down")
        Path(path).touch()  # noqa: ASYNC240
        await asyncio.sleep(600)

    async def middle():
        await inner()

    await middle()


@task
def wait_for_a_thread(path):
    def beside():
        Path(path).touch()
        threading.Event().wait(600)

    thread = threading.Thread(target=beside, daemon=True)
    thread.start()
    thread.join()


@task
def swallow(path):
    Path(path).touch()
    while True:
        with suppress(BaseException):
            time.sleep(600)


@task
def touch_and_swallow(path):
    say_where(path)
    swallow.func(path)


@task
async def swallow_async(path):
    Path(path).touch()  # noqa: ASYNC240
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(600)


@task
def clean_up(path):
    try:
        Path(path).touch()
        time.sleep(600)
    finally:
        Path(path).with_suffix(".cleaned").touch()


@task(takes_context=True)
@task_options(backoff=FAST)
def fail_after_file(context, path):
    Path(path).touch()
    while not Path(path).with_suffix(".go").exists():
        time.sleep(0.005)
    raise ValueError("go")


@task
def touch_and_wait(path):
    """Write the number of its process to a file, and end when there is another, with the suffix .go."""
    say_where(path)
    while not Path(path).with_suffix(".go").exists():
        time.sleep(0.005)
    return "waited"


@task
def play(what, path=None):
    """One path for bodies of all kinds, so that nobody can tell from it what comes."""
    match what:
        case "exit":
            os._exit(9)
        case "fail":
            raise ValueError(what)
        case "hold":
            Path(path).touch()
            while not Path(path).with_suffix(".go").exists():
                time.sleep(0.005)
        case "count":
            with Path(path).open("a") as file:
                file.write(".")
    return what


@task(takes_context=True)
def note_tick(context, path):
    """Write when it was due, and which execution this is: one line, whatever else is written there."""
    with Path(path).open("a") as file:
        file.write(f"{context.tick.isoformat()} {context.task_result.id}\n")


@task
@task_options(limit_by="gate", gate="places", max_attempts=1000)
def note_place(gate, seconds):
    """Write when it begins and ends, by the server's clock, in transactions of their own."""
    assert connection.get_autocommit()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO gate_ledger (gate, pid) VALUES (%s, %s) RETURNING id", [gate, os.getpid()])
        (number,) = cursor.fetchone()
        time.sleep(seconds)
        cursor.execute("UPDATE gate_ledger SET ended = clock_timestamp() WHERE id = %s", [number])


@task
@task_options(limit=1, limit_by="user", when_full="cancel_running")
def search_slowly(user, text, folder):
    """Begin, and end when somebody says so."""
    (Path(folder) / text).touch()
    while not (Path(folder) / "end").exists():
        time.sleep(0.005)
    return text


@task
def double(number):
    return number * 2


@task
def total(numbers, more=0):
    return sum(numbers) + more


@task
@task_options(max_attempts=1)
def fail_unless(path):
    """Fail until a file is there."""
    if not Path(path).exists():
        raise ValueError(f"{path} is not there")
    return "it is"


@task(takes_context=True)
def look_back(context, *results):
    return {
        "arguments": [
            [result.status.value, result.return_value if result.errors == [] else None] for result in results
        ],
        "upstreams": [
            [result.task.name, result.status.value, [error.exception_class_path for error in result.errors]]
            for result in context.upstreams()
        ],
    }


@task
def fan_out(numbers):
    for number in numbers:
        double.enqueue(number)
    return len(numbers)
