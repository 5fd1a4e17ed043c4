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
from datetime import timedelta
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

import django
import psycopg
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from devpostgres import database_url

HERE = Path(__file__).resolve().parent
DATABASE = "django_ray_demo"
LIMIT = 180.0  # Seconds for everything together.
FAILS = "ship"  # The one task that is meant to fail.
SCHEDULED = "count_parcels"  # What no button enqueues.
ROUNDS = 3  # Of the quick task, for the latency of a supervisor at rest.

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120  # a file has no width of its own


class Unexpected(Exception):
    """Something was not as it should be."""


def main() -> int:
    """Run the demo."""
    started = time.monotonic()
    with ExitStack() as stack:
        try:
            _run(stack)
        except Unexpected as error:
            console.print(f"[bold red]The demo failed:[/] {escape(str(error))}", soft_wrap=not console.is_terminal)
            return 1
    console.print(f"[bold green]All as expected[/], in {time.monotonic() - started:.0f} s.")
    return 0


def _run(stack: ExitStack) -> None:
    deadline = time.monotonic() + LIMIT
    url = _fresh_database()
    os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONPATH": str(HERE)}
    django.setup()
    _say("manage.py migrate")
    _manage("migrate", "--verbosity", "0")

    _say("django-ray-listen --local")
    listen = _start(stack, [str(Path(sys.executable).parent / "django-ray-listen"), "--local"], stderr=subprocess.PIPE)
    with console.status("Ray starts"):
        ready = _Log(listen).wait_until_ready(deadline)
    console.print(f"    [dim]{escape(ready)}[/]", soft_wrap=not console.is_terminal)

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
    watch = _Watch(listen, deadline)
    watch.until_finished(ids)
    for name in names[len(SHOWN) :]:
        ids[_click(browser, page, name)] = name
        watch.until_finished(ids)
    _report(ids)
    _show_flow(browser, page, deadline)
    _check_schedule(deadline)

    _say("SIGTERM")
    listen.send_signal(signal.SIGTERM)
    try:
        code = listen.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Unexpected("the supervisor did not stop.") from None
    if code:
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
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()

    stack.callback(end)
    return process


class _Log:
    """Reads the supervisor's log to its end, so that it never has to wait for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._ready: str | None = None
        self._told = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None  # noqa: S101
        for line in self._process.stderr:
            self.lines.append(line)
            if "is ready" in line:
                self._ready = line.partition("INFO")[2].strip() or line.strip()
                self._told.set()
        self._told.set()

    def wait_until_ready(self, deadline: float) -> str:
        """Return the line that says so."""
        self._told.wait(max(0.0, deadline - time.monotonic()))
        if self._ready is None:
            raise Unexpected(f"the supervisor did not start:\n{''.join(self.lines)}")
        return self._ready


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
    """Click the button of a task and return the id of the execution."""
    return _post(browser, f"{page}/enqueue/{name}/")


def _post(browser: OpenerDirector, address: str) -> str:
    """Post one button's form and return the id of what it has enqueued."""
    (jar,) = (part.cookiejar for part in browser.handlers if isinstance(part, HTTPCookieProcessor))
    token = next(cookie.value or "" for cookie in jar if cookie.name == "csrftoken")
    headers = {"Accept": "application/json", "X-CSRFToken": token}
    with browser.open(Request(address, method="POST", headers=headers)) as answer:  # noqa: S310
        its_id: str = json.load(answer)["id"]
        return its_id


def _rows(where: str = "true") -> list[Any]:
    from django_ray.models import RayTaskExecution

    return list(RayTaskExecution.objects.extra(where=[where]).order_by("task_id"))  # noqa: S610 - our own constants


class _Watch:
    """Shows the executions as they go on: a live table on a terminal, a line for each change elsewhere.

    It looks at the table, as somebody who has enqueued nothing must: what reports to the tasks' owners is theirs.
    """

    def __init__(self, listen: subprocess.Popen[str], deadline: float) -> None:
        self._listen = listen
        self._deadline = deadline
        self._states: dict[Any, str] = {}

    def until_finished(self, ids: dict[str, str]) -> None:
        """Watch until all are finished, those that they have enqueued too."""
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                rows = _rows("schedule_id IS NULL")
                if console.is_terminal:
                    live.update(_table(rows), refresh=True)
                else:
                    self._tell(rows)
                if len(rows) >= len(ids) and all(row.finished_at for row in rows):
                    return
                self._check(rows)
                time.sleep(0.05)

    def _tell(self, rows: list[Any]) -> None:
        for row in rows:
            if self._states.get(row.task_id) != row.state:
                self._states[row.task_id] = row.state
                tried = len(row.worker_ids)
                attempt = "" if not tried else " again" if row.state == "READY" else f", attempt {tried}"
                console.print(f"    {_name(row):<15} {row.state}{attempt}")

    def _check(self, rows: list[Any]) -> None:
        waiting = ", ".join(f"{_name(row)} ({row.state})" for row in rows if not row.finished_at)
        if (code := self._listen.poll()) is not None:
            raise Unexpected(f"the supervisor ended with {code} while these were not finished: {waiting}.")
        if time.monotonic() > self._deadline:
            raise Unexpected(f"after {LIMIT:.0f} s these are not finished: {waiting}.")


STYLES = {"SUCCESSFUL": "green", "FAILED": "red", "CANCELLED": "red", "RUNNING": "cyan", "READY": "yellow"}


def _table(rows: list[Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("task", "left"), ("state", "left"), ("attempts", "right"), ("to start", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("result or error")
    room = max(20, console.width - 55)
    for row in rows:
        became = row.error_message or "" if row.state == "FAILED" else json.dumps(row.result) if row.finished_at else ""
        latency = f"{_latency(row):.1f} ms" if row.started_at else ""
        table.add_row(
            _name(row),
            f"[{STYLES[row.state]}]{row.state}[/]",
            str(len(row.worker_ids)),
            latency,
            escape(became if len(became) <= room else became[: room - 1] + "…"),
        )
    return table


def _name(row: Any) -> str:
    name: str = row.callable_path.removeprefix("shop.tasks.")
    return name


def _latency(row: Any) -> float:
    """Milliseconds from the INSERT to the claim, both by the database's clock."""
    return _milliseconds(row.started_at - row.enqueued_at)


def _milliseconds(time_between: timedelta) -> float:
    return time_between.total_seconds() * 1000


def _report(ids: dict[str, str]) -> None:
    """Print what became of each, and the latencies; Unexpected if anything is not as it should be."""
    rows = _rows("schedule_id IS NULL")
    if not console.is_terminal:
        console.print()
    console.print(_table(rows))
    for row in rows:
        name = ids.get(str(row.task_id), "greet")
        expected = "FAILED" if name == FAILS else "SUCCESSFUL"
        if row.state != expected:
            raise Unexpected(f"{name} is {row.state}, not {expected}:\n{row.error_traceback}")
    if len(rows) != len(ids) + 3:
        raise Unexpected(f"the newsletter has three readers, but there are {len(rows) - len(ids)} tasks more.")
    _check_effects(rows)
    p50 = statistics.median(map(_latency, rows))
    at_rest = statistics.median(map(_latency, rows[-ROUNDS:]))
    console.print(
        f"\n{len(rows)} tasks in {sum(len(row.worker_ids) for row in rows)} attempts. From enqueue to start: p50 "
        f"[bold]{p50:.1f} ms[/]; with the supervisor asleep, [bold]{at_rest:.1f} ms[/] (the last {ROUNDS}).\n"
        "With all slots taken, tasks wait for a free one."
    )


def _show_flow(browser: OpenerDirector, page: str, deadline: float) -> None:
    """Start an import of twenty files, wait for the mail at its end, and look at its page."""
    from django_ray import Flow

    flow = Flow.get(_post(browser, f"{page}/import/"))
    blocked = flow.progress().blocked
    try:
        progress = flow.wait(max(1.0, deadline - time.monotonic()))
    except TimeoutError as error:
        raise Unexpected(str(error)) from None
    *files, merged, mail = flow.executions.order_by("task_id")
    if progress.successful != len(files) + 2:
        raise Unexpected(f"the flow has ended as {progress}.")
    last = max(row.finished_at for row in files)
    console.print(
        f"\nThe flow {flow.name!r}: {progress.total} executions, {blocked} of which waited for others. From the last "
        "end of\na file to the start of the merge it took "
        f"[bold]{_milliseconds(merged.started_at - last):.1f} ms[/]; at the end {mail.result}."
    )
    with browser.open(f"{page}/flow/{flow.id}/") as answer:
        if f"{progress.total} of {progress.total}" not in answer.read().decode():
            raise Unexpected("the page of the flow does not show its end.")


def _check_schedule(deadline: float) -> None:
    """Wait for what enqueues itself."""
    from django_ray.models import RaySchedule

    while not (done := _rows("schedule_id IS NOT NULL AND state = 'SUCCESSFUL'")):
        if time.monotonic() > deadline:
            raise Unexpected(f"the schedule {SCHEDULED} was not fired.")
        time.sleep(0.05)
    row = RaySchedule.objects.get(name=SCHEDULED)
    console.print(
        f"\nThe schedule {SCHEDULED}, {row.rule}, was fired {len(done)} times by itself: {done[-1].result!r}."
    )


def _check_effects(rows: list[Any]) -> None:
    """Look for what the tasks have left beside their results."""
    from django_ray.models import RayProgress
    from shop.models import Parcel

    sent = sum(_name(row) == "send_parcel" for row in rows)
    if (parcels := Parcel.objects.count()) != sent:
        raise Unexpected(f"{sent} orders are sent, in {parcels} parcels.")
    (imported,) = (row for row in rows if _name(row) == "import_catalogue")
    if (progress := RayProgress.objects.get(pk=imported.pk)).fraction != 1:
        raise Unexpected(f"the import has ended at {progress}.")


def _say(text: str) -> None:
    console.print(f"[bold]»[/] {escape(text)}", soft_wrap=not console.is_terminal)


if __name__ == "__main__":
    sys.exit(main())
