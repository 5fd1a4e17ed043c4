"""make demo: PostgreSQL, a web process, a supervisor with its Ray, real tasks, and what became of them.

Everything is started here, used as a user would, and stopped again. Exits with 1 and a sentence if anything was not as
it should be.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

import django
import psycopg
from rich.console import Console
from rich.live import Live
from rich.table import Table

from devpostgres import database_url

HERE = Path(__file__).resolve().parent
DATABASE = "django_ray_demo"
LIMIT = 120.0  # Seconds for all tasks together.
FAILS = "ship"  # The one task that is meant to fail.
ROUNDS = 3  # Of the quick task, for the latency of a supervisor at rest.

console = Console(highlight=False)


class Unexpected(Exception):
    """Something was not as it should be."""


def main() -> int:
    """Run the demo."""
    started = time.monotonic()
    with ExitStack() as stack:
        try:
            _run(stack)
        except Unexpected as error:
            console.print(f"[bold red]The demo failed:[/] {error}")
            return 1
    console.print(f"[bold green]All as expected[/], in {time.monotonic() - started:.0f} s.")
    return 0


def _run(stack: ExitStack) -> None:
    url = _fresh_database()
    os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONPATH": str(HERE)}
    django.setup()
    _say("manage.py migrate")
    _manage("migrate", "--verbosity", "0")

    _say("django-ray-listen --local")
    listen = _start(stack, [str(Path(sys.executable).parent / "django-ray-listen"), "--local"], stderr=subprocess.PIPE)
    _Log(listen).wait_until_ready()

    port = _free_port()
    _say(f"uvicorn project.asgi:application --port {port}")
    web = ["-m", "uvicorn", "project.asgi:application", "--port", str(port), "--log-level", "warning"]
    _start(stack, [sys.executable, *web])
    page = f"http://127.0.0.1:{port}"
    browser = _browser(page)

    from shop.tasks import SHOWN

    _say(f"A click on each of the {len(SHOWN)} buttons of {page}, and {ROUNDS} more on the first\n")
    names = [*SHOWN, *["greet"] * ROUNDS]
    ids = {_click(browser, page, name): name for name in names[: len(SHOWN)]}
    _watch(ids)
    for name in names[len(SHOWN) :]:
        ids[_click(browser, page, name)] = name
        _watch(ids, quiet=True)
    _report(ids)

    _say("SIGTERM")
    listen.send_signal(signal.SIGTERM)
    if code := listen.wait(60):
        raise Unexpected(f"the supervisor ended with {code}.")
    if left := _rows("state = 'RUNNING'"):
        raise Unexpected(f"{len(left)} tasks are still RUNNING.")


def _fresh_database() -> str:
    url = database_url()
    with psycopg.connect(url, autocommit=True) as server:
        version = server.execute("SHOW server_version").fetchone()
        server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {DATABASE}")
    _say(f"PostgreSQL {version[0] if version else '?'}, a new database {DATABASE}")
    return urlunsplit(urlsplit(url)._replace(path=f"/{DATABASE}"))


def _manage(*arguments: str) -> None:
    done = subprocess.run([sys.executable, str(HERE / "manage.py"), *arguments], check=False)  # noqa: S603
    if done.returncode:
        raise Unexpected(f"manage.py {arguments[0]} ended with {done.returncode}.")


def _start(stack: ExitStack, command: list[str], **options: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, cwd=HERE, text=True, **options)  # noqa: S603

    def end() -> None:
        if process.poll() is None:
            process.terminate()
            process.wait(60)

    stack.callback(end)
    return process


class _Log:
    """Reads the supervisor's log to its end, so that it never has to wait for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._told = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None  # noqa: S101
        for line in self._process.stderr:
            self.lines.append(line)
            if "is ready" in line:
                self._told.set()
        self._told.set()

    def wait_until_ready(self) -> None:
        self._told.wait(LIMIT)
        if not any("is ready" in line for line in self.lines):
            raise Unexpected(f"the supervisor did not start:\n{''.join(self.lines)}")
        console.print(f"    [dim]{self.lines[-1].partition('INFO')[2].strip()}[/]")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _browser(page: str) -> OpenerDirector:
    """Open the page as a browser does, with a cookie jar; wait for the server to listen."""
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    deadline = time.monotonic() + 30
    while True:
        try:
            browser.open(page + "/").read()
        except OSError as error:
            if time.monotonic() > deadline:
                raise Unexpected(f"{page} does not answer: {error}") from None
            time.sleep(0.05)
        else:
            return browser


def _click(browser: OpenerDirector, page: str, name: str) -> str:
    """Post one button's form and return the id of the task."""
    (jar,) = (part.cookiejar for part in browser.handlers if isinstance(part, HTTPCookieProcessor))
    token = next(cookie.value or "" for cookie in jar if cookie.name == "csrftoken")
    headers = {"Accept": "application/json", "X-CSRFToken": token}
    with browser.open(Request(f"{page}/enqueue/{name}/", method="POST", headers=headers)) as answer:  # noqa: S310
        task_id: str = json.load(answer)["id"]
        return task_id


def _rows(where: str = "true") -> list[Any]:
    from django_ray.models import RayTaskExecution

    return list(RayTaskExecution.objects.extra(where=[where]).order_by("task_id"))  # noqa: S610 - our own constants


def _watch(ids: dict[str, str], *, quiet: bool = False) -> None:
    """Show the executions until all are finished, those that they enqueue too."""
    deadline = time.monotonic() + LIMIT
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            rows = _rows()
            if not quiet and console.is_terminal:
                live.update(_table(rows), refresh=True)
            if len(rows) >= len(ids) and all(row.finished_at for row in rows):
                return
            if time.monotonic() > deadline:
                waiting = ", ".join(f"{row.callable_path} ({row.state})" for row in rows if not row.finished_at)
                raise Unexpected(f"after {LIMIT:.0f} s these are not finished: {waiting}.")
            time.sleep(0.05)


STYLES = {"SUCCESSFUL": "green", "FAILED": "red", "RUNNING": "cyan", "READY": "yellow"}


def _table(rows: list[Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("task", "left"), ("state", "left"), ("attempts", "right"), ("to start", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("result or error", overflow="fold")
    for row in rows:
        became = row.error_message if row.state == "FAILED" else "" if row.result is None else json.dumps(row.result)
        latency = f"{_latency(row):.1f} ms" if row.started_at else ""
        table.add_row(
            row.callable_path.removeprefix("shop.tasks."),
            f"[{STYLES[row.state]}]{row.state}[/]",
            str(len(row.worker_ids)),
            latency,
            became,
        )
    return table


def _latency(row: Any) -> float:
    """Milliseconds from the INSERT to the claim, both by the database's clock."""
    milliseconds: float = (row.started_at - row.enqueued_at).total_seconds() * 1000
    return milliseconds


def _report(ids: dict[str, str]) -> None:
    rows = _rows()
    console.print(_table(rows))
    for row in rows:
        name = ids.get(str(row.task_id), "greet")
        expected = "FAILED" if name == FAILS else "SUCCESSFUL"
        if row.state != expected:
            raise Unexpected(f"{name} is {row.state}, not {expected}:\n{row.error_traceback}")
    if len(rows) != len(ids) + 3:
        raise Unexpected(f"the newsletter has three readers, but there are {len(rows) - len(ids)} tasks more.")
    at_rest = statistics.median(_latency(row) for row in rows[-ROUNDS:])
    console.print(
        f"\n{len(rows)} tasks. From enqueue to start, with the supervisor asleep: [bold]{at_rest:.1f} ms[/] (median of "
        f"{ROUNDS}). With all slots taken, tasks wait for a free one."
    )


def _say(text: str) -> None:
    console.print(f"[bold]»[/] {text}")


if __name__ == "__main__":
    sys.exit(main())
