"""A system under test: a database of its own, a process that enqueues, and worker processes that can be started.

Ours and the peers are driven the same way; what differs stands in peers/<name>.py.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import processes
from benchmarks.marks import opened

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 60.0
INTERRUPT_SECONDS = 5.0


class System:
    """One of them; numbers name its tasks, and no number is used twice."""

    _next = 0  # Of all systems.

    def __init__(self, name, server, progress, python=sys.executable):
        self.name = name
        self.server = server
        self.progress = progress
        self.marks = opened()
        self.database = f"bench_{name}_{os.getpid()}"
        self._python = str(python)
        self._client = None
        self._other_server = None
        self.url = None

    def reset(self):
        """Start from an empty database."""
        self.close()
        self.url = self.server.create(self.database)
        self._client = subprocess.Popen(
            [self._python, "-m", "benchmarks.client", self.name],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
        self._other_server = self.ask("prepare").get("server")

    def close(self):
        if self._client:
            if isinstance(sys.exception(), KeyboardInterrupt):
                self._client.terminate()
            self._client.stdin.close()
            self._client.stdout.close()
            self._client.wait(STOP_SECONDS)
            self._client = None
        self.server.drop(self.database)

    def ask(self, *command):
        """Have the client do something, and return its answer."""
        self._client.stdin.write(json.dumps(command) + "\n")
        self._client.stdin.flush()
        answer = self._client.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name}: the client ended during {command[0]}")
        return json.loads(answer)

    def numbers(self, count):
        """Return so many fresh numbers."""
        start = System._next
        System._next += count
        return range(start, start + count)

    def enqueue(self, how, count):
        """Enqueue so many, one_by_one or in bulk; return the numbers, and the seconds of time and CPU."""
        numbers = self.numbers(count)
        return numbers, self.ask(how, numbers.start, numbers.stop)

    @contextmanager
    def working(self):
        """Run the worker processes; yield them."""
        commands, more = self.ask("worker")
        with tempfile.TemporaryFile("w+") as log:
            workers = Workers(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=self.environment() | more,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for command in commands
            )
            try:
                yield workers
            except Exception:
                log.seek(0)
                self.progress.say(f"The log of {self.name} ends:\n{log.read()[-4000:]}")
                raise
            finally:
                workers.stop()

    @contextmanager
    def warm(self):
        """Run them, and let each of a few tasks run before."""
        with self.working() as workers:
            numbers, _ = self.enqueue("one_by_one", 10)
            self.wait_for_first(numbers, workers)
            self.wait(numbers, START_SECONDS)
            time.sleep(1)
            yield workers

    def wait(self, numbers, seconds, advance=lambda _: None):
        """Wait until they have begun, for so many seconds at most; return the times of those that have."""
        deadline = time.monotonic() + seconds
        while len(times := self.marks.of(numbers)) < len(numbers) and time.monotonic() < deadline:
            advance(len(times))
            time.sleep(0.05)
        if not times:
            raise TimeoutError(f"{self.name}: no task began within {seconds} s")
        return sorted(times)

    def wait_for_first(self, numbers, workers):
        """Wait until one has begun."""
        deadline = time.monotonic() + START_SECONDS
        while not self.marks.of(numbers):
            workers.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no task began within {START_SECONDS} s")
            time.sleep(0.01)

    def server_cpu(self):
        """Return the CPU seconds of the server that holds the queue."""
        return processes.cpu(self._other_server) if self._other_server else self.server.cpu()

    def environment(self):
        """Return what its processes find in theirs."""
        return {
            **os.environ,
            "DATABASE_URL": self.url,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
        }


class Workers:
    """Their processes, and all that come from them."""

    def __init__(self, started):
        self._roots = list(started)

    @property
    def roots(self):
        return [process.pid for process in self._roots]

    @property
    def children(self):
        return [process.pid for process in processes.tree(*self.roots) if process.pid not in self.roots]

    def check(self):
        """Raise RuntimeError when one has ended."""
        for process in self._roots:
            if process.poll() is not None:
                raise RuntimeError(f"a worker has ended with code {process.returncode}: {process.args}")

    def cpu(self):
        return processes.cpu(*self.roots)

    def own_cpu(self):
        """Return the CPU seconds without the children."""
        return processes.own_cpu(*self.roots)

    def stop(self):
        """End them; after Ctrl-C, whatever is left after a few seconds."""
        everybody = [*self.roots, *self.children]
        deadline = time.monotonic() + (
            INTERRUPT_SECONDS if isinstance(sys.exception(), KeyboardInterrupt) else STOP_SECONDS
        )
        for process in self._roots:
            process.send_signal(signal.SIGTERM)
        for process in self._roots:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                for pid in everybody:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
