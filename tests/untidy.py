"""Bodies that leave something behind in their process, and a process like a Ray worker's to run them in."""

import asyncio
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import anyio
from django.db import connection
from django.tasks import task

from django_ray import task_options
from tests.supervisors import ROOT

NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
LOOPS = []  # Running ones stay alive.


@task
def found():
    """What a body finds around it."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    umask = os.umask(0)
    os.umask(umask)
    return {
        "handlers": {number.name: repr(signal.getsignal(number)) for number in signal.valid_signals()
                     if isinstance(number, signal.Signals)},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "timers": list(map(signal.getitimer, (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF))),
        "wakeup": wakeup,
        "loop": repr(asyncio._get_running_loop()),
        "folder": str(Path.cwd()),
        "umask": umask,
        "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "closed": [stream.closed for stream in (sys.stdout, sys.stderr)],
    }  # fmt: skip


@task
def found_in_thread():
    """The same, where a body has no say in signals."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "folder": str(Path.cwd()),
        "umask": umask,
        "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "loop": repr(asyncio._get_running_loop()),
    }


@task
@task_options(max_attempts=1)
def leave(what, argument=None):
    """Leave something behind, as programs and libraries do."""
    LEFT[what](argument)
    return what


def handlers(_):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGURG, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def default_handler(_):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def program(_):
    async def main():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)

    asyncio.run(main())


def receiver(_):
    async def main():
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM):
            await anyio.lowlevel.checkpoint()

    anyio.run(main)


def alarm(_):
    def on_alarm(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(1)


def timer(_):
    signal.signal(signal.SIGVTALRM, lambda *_: None)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)


def blocked(_):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def folder(argument):
    os.chdir(argument)


def gone_folder(argument):
    gone = Path(argument, "gone")
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


def umask(_):
    os.umask(0o777)


def streams(argument):
    sys.stdout = sys.stderr = Path(argument, "stdout").open("w")  # noqa: SIM115


def closed_streams(_):
    with sys.stdout as out:
        print("once", file=out)
    sys.stderr.close()


def loop(_):
    """What sync_playwright().start() does: its loop runs on in another greenlet."""
    LOOPS.append(asyncio.new_event_loop())
    asyncio._set_running_loop(LOOPS[-1])


def playwright(_):
    from playwright.sync_api import sync_playwright

    LOOPS.append(sync_playwright().start())


def raw_close(_):
    query.func()
    connection.connection.close()


def raw_transaction(_):
    query.func()
    connection.connection.autocommit = False


def unclosable(_):
    """A database engine whose close() raises."""
    query.func()
    connection.close_at = 0  # it would be closed now

    def close():
        raise SystemExit("cannot close")

    connection.close = close


def unusable(_):
    """One that raises before the next body only."""
    query.func()
    kept, calls = connection.close_if_unusable_or_obsolete, []

    def close():
        calls.append(1)
        if len(calls) > 1:
            raise GeneratorExit
        kept()

    connection.close_if_unusable_or_obsolete = close


LEFT = {
    function.__name__: function
    for function in (
        handlers, default_handler, program, receiver, alarm, timer, blocked, folder, gone_folder, umask, streams,
        closed_streams, loop, playwright, raw_close, raw_transaction, unclosable, unusable,
    )
}  # fmt: skip


@task
@task_options(max_attempts=1)
def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 41 + 1")
        return cursor.fetchone()[0]


@task
@task_options(max_attempts=1)
def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


@task
@task_options(max_attempts=1)
def query_after_touch(path):
    Path(path).touch()
    return query.func()


@task
@task_options(max_attempts=1)
def ask_and_go_on():
    """Use the connection at the beginning alone, and run for longer than an answer is trusted."""
    from django_ray.runtime import connections

    connections.ASK_SECONDS = 0.2
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    time.sleep(0.3)
    return pid


@task
def wakeup_of_a_child():
    """Whether a process that the body forks tells nobody of its signals."""
    child = os.fork()
    if not child:
        os._exit(signal.set_wakeup_fd(-1) != -1)
    return not os.waitpid(child, 0)[1]


@task
@task_options(max_attempts=1)
def forget_answers():
    """As if the connections of this process had answered long ago."""
    from django_ray.runtime import connections

    connections._line.cache_clear()


@task
@task_options(max_attempts=1)
async def query_async():
    from asgiref.sync import sync_to_async

    return await sync_to_async(query.func)()


@task
@task_options(max_attempts=1)
def pid():
    return os.getpid()


@task
@task_options(max_attempts=1)
def run_in_place(path):
    """A task that moves to a folder, and runs another one there."""
    from django_ray.runtime.claimed import claimed_row
    from django_ray.runtime.entrypoint import run

    os.chdir(path)
    run(claimed_row(payload(pid)))
    return str(Path.cwd())


@task
@task_options(max_attempts=1)
def map_and_leave():
    """Functions on the cluster leave something behind as well."""
    from django_ray.runtime.distributed import parallel_map

    def leave_loop(_):
        LEFT["loop"](None)
        return os.getpid()

    return parallel_map(leave_loop, range(3), max_concurrency=1)


@task
@task_options(max_attempts=1)
def write_table(name):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} ()")


@task
@task_options(max_attempts=1)
def replace_handler_and_sleep(what, path):
    """A body that has a handler of its own while it runs."""

    def stop(*_):
        raise LookupError("stopped by a handler of its own")

    signal.signal(
        signal.SIGINT,
        {"default": signal.default_int_handler, "own": stop, "none": signal.SIG_IGN, "passes": lambda *_: None}[what],
    )
    Path(path).touch()
    while True:
        time.sleep(0.01)


@task
@task_options(max_attempts=1)
def replace_handler_for_a_while(path):
    """A body that puts the handler back, as it should."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        Path(path).touch()
        while True:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)


def be_busy(path):
    Path(path).touch()
    while True:
        time.sleep(0.01)


@task
@task_options(max_attempts=1)
def leave_a_busy_pool(path):
    """The end of the block terminates the pool, and waits for its processes."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply_async(be_busy, [path])
        while not Path(path).exists():
            time.sleep(0.005)
    return "left"


@task
@task_options(max_attempts=1)
def signal_a_child(path):
    """What a child says of itself that inherits a handler of this body's, and is told to end."""
    signal.signal(signal.SIGUSR1, lambda *_: Path(path).write_text("heard"))
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(3)
    _, status = os.waitpid(child, 0)
    return [Path(path).read_text(), os.waitstatus_to_exitcode(status)]


def payload(task, *args, **changes):
    row = {
        "task_id": "01a21104-1c8a-7625-9c09-11d7be1bd0c3", "state": "RUNNING", "backend": "default",
        "queue_name": "default", "priority": 0, "callable_path": task.module_path, "args": list(args), "kwargs": {},
        "options": None, "run_after": None, "enqueued_at": NOW, "started_at": NOW, "last_attempted_at": NOW,
        "attempt_number": 1, "failures": 0, "worker_ids": ["1"], "errors": [],
    }  # fmt: skip
    return json.dumps({**row, **changes})


class Process:
    """A process that is set up as a Ray worker, and runs calls on its main thread; its database has these settings."""

    def __init__(self, url, **database):
        reading, self._out = os.pipe()
        self._in, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.untidy import serve; serve()", str(reading), str(writing),
             json.dumps(database)],
            cwd=ROOT,
            env={
                **os.environ,
                "DATABASE_URL": url,
                "DJANGO_SETTINGS_MODULE": "tests.settings",
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
            },
            pass_fds=[reading, writing],
        )  # fmt: skip
        os.close(reading)
        os.close(writing)
        self._lines = os.fdopen(self._in)

    def begin(self, *bodies):
        """Begin a call of bodies, each a task, a tuple of a task and its arguments, or a payload."""
        rows = [
            body if isinstance(body, str) else payload(*body) if isinstance(body, tuple) else payload(body)
            for body in bodies
        ]
        os.write(self._out, (json.dumps(rows) + "\n").encode())

    def end(self, timeout=60):
        """Return the report of the call that was begun."""
        ready, _, _ = select.select([self._in], [], [], timeout)
        assert ready, f"the call did not end within {timeout} s"
        line = self._lines.readline()
        assert line, f"the process ended with {self._process.wait(10)}"
        return SimpleNamespace(**json.loads(line))

    def call(self, *bodies):
        self.begin(*bodies)
        return self.end()

    def run(self, *body):
        """Run one body in a call of its own; return what it returns."""
        (envelope,) = self.call(body).envelopes
        assert envelope["kind"] == "returned", envelope
        return json.loads(envelope["result"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._out)
        self._lines.close()
        self._process.kill()
        self._process.wait()


def serve():
    """Be such a process."""
    import django

    reading, writing, database = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    django.setup()
    from django.db import connections

    from django_ray.runtime import connections as kept

    connections.settings["default"].update(database)
    kept.ASK_SECONDS = 3600  # more than any test takes
    from django_ray.runtime.call import invoke_on_ray

    with os.fdopen(reading) as calls:
        for line in calls:
            report = invoke_on_ray(json.loads(line))
            os.write(writing, (json.dumps(report) + "\n").encode())
    assert threading.current_thread() is threading.main_thread()
