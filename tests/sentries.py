"""A Sentry of a test's own, and tasks that tell it something."""

from __future__ import annotations

import atexit
import gzip
import json
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import sentry_sdk
from django.tasks import task

from django_ray import task as ray_task
from django_ray import task_options


class Sentry:
    """Listens at a port of this host. What is sent to it arrives at once, or when it is no longer held up."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []  # That have arrived.
        self.held: list[dict[str, Any]] = []  # Who has sent one of them waits for an answer.
        self._is_free = threading.Event()
        self._is_free.set()
        sentry = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                events = _events(self)
                sentry.held.extend(events)
                sentry._is_free.wait()
                sentry.events.extend(events)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def dsn(self) -> str:
        """What sentry_sdk.init() is told."""
        return f"http://key@127.0.0.1:{self._server.server_port}/1"

    @contextmanager
    def held_up(self) -> Generator[None]:
        """Answer nobody meanwhile: a process that has sent one event has the next ones in its memory."""
        self.held.clear()
        self._is_free.clear()
        try:
            yield
        finally:
            self._is_free.set()

    def about(self, result: Any) -> list[dict[str, Any]]:
        """Return the events about an execution."""
        return [event for event in self.events if (event.get("tags") or {}).get("task_id") == result.id]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_free.set()
        self._server.shutdown()
        self._server.server_close()


def _events(request: BaseHTTPRequestHandler) -> list[dict[str, Any]]:
    """Return the events in an envelope: lines of JSON, a header before each item."""
    body = request.rfile.read(int(request.headers["Content-Length"]))
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    lines = [json.loads(line) for line in body.splitlines() if line]
    return [item for header, item in zip(lines[1::2], lines[2::2], strict=True) if header["type"] == "event"]


@task
@task_options(max_attempts=1)
def fail_here():
    raise ValueError(os.getpid())


@task
@task_options(max_attempts=2)
def fail_twice():
    raise ValueError("again")


@task
@task_options(max_attempts=1)
def tell_and_fail(path):
    """Tell something, and fail; the file says that the process ends as Python's processes do."""
    sentry_sdk.capture_message("before")
    atexit.register(Path(path).touch)
    raise ValueError("no")


@task
def tell_when_interrupted(path):
    sentry_sdk.capture_message("before")
    atexit.register(Path(path).touch)
    try:
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        sentry_sdk.capture_message("interrupted")
        raise


@task
def vanish(secret=""):
    os._exit(3)


@ray_task(batch=4, batch_wait=30, max_attempts=1)
def fail_those_below(numbers, limit):
    return [number if number >= limit[0] else ValueError(number) for number in numbers]


class Teller:
    pass


@ray_task(worker=Teller, idle=1, max_attempts=1)
def tell_and_fail_where_one_stays(teller, path):
    return tell_and_fail.func(path)


@task
@task_options(max_attempts=1, timeout=1)
def take_too_long():
    time.sleep(600)


@task
def leave_a_crumb():
    sentry_sdk.add_breadcrumb(message="of another task")
    return os.getpid()
