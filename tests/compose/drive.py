"""`python -m tests.compose.drive`: docker-compose.yml as a newcomer uses it, on a copy of what git has.

Up; the page and the admin answer; a task runs; two nodes of Ray run tasks; one more adds slots; an edit is picked
up; the Ray worker's container is killed in mid-task, and every task finishes; down. Exits 1, with the end of each log,
when it is not so.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

from tests.containers import Compose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("postgres", "web", "ray-head", "ray-worker", "supervisor")
PAGE = "http://127.0.0.1:8000"
ROWS = """
import json
from django_ray.models import RayTaskExecution
rows = RayTaskExecution.objects.filter(pk__in={ids!r}).order_by("pk")
print(json.dumps([[row.state, row.result, len(row.worker_ids), row.failures, row.output] for row in rows]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="compose-test", description="docker-compose.yml, used.")
    parser.add_argument("--keep", action="store_true", help="leave the containers for a look at them")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing is left behind then either
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with tempfile.TemporaryDirectory(prefix="django-ray-compose-") as folder:
        copy = Path(folder)
        for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        copy.chmod(0o755)  # the containers' user reads it
        with Compose(copy / "docker-compose.yml", "django-ray-test", SERVICES, is_kept=options.keep) as compose:
            _use(_Newcomer(compose), copy, say)
    say("passed")
    return 0


def _use(newcomer: _Newcomer, copy: Path, say: Callable[[str], None]) -> None:
    say("docker compose up -d --build")
    newcomer.compose("up", "-d", "--build")
    newcomer.until_page(300)
    say(f"{PAGE} answers")
    newcomer.open("/", "A shop that works in the background")
    newcomer.log_in()
    newcomer.open("/admin/django_ray/rayqueue/live/", "Supervisors")
    newcomer.open("/static/django_ray/live.js", "")
    say("the admin lets the demo user in, and shows the live page")

    (greeting,) = newcomer.until_done([newcomer.enqueue("greet")], 180)
    assert greeting == ["SUCCESSFUL", "Hello, Ada!", 1, 0, "Greeting Ada."], greeting
    say("a task that the page enqueued is done, and what it logged is on its row")

    hosts: set[str] = set()
    while not hosts >= {"ray-head", "ray-worker"}:
        hosts |= {row[1] for row in newcomer.until_done([newcomer.enqueue("where") for _ in range(8)], 60)}
    say(f"tasks ran on {' and '.join(sorted(hosts))}")

    newcomer.until_slots(4)
    newcomer.compose("up", "-d", "--no-build", "--scale", "ray-worker=2")
    newcomer.until_slots(6)
    say("docker compose up --scale ray-worker=2: the live page shows two slots more")

    tasks = copy / "example" / "shop" / "tasks.py"
    tasks.write_text(tasks.read_text().replace("Hello, {name}!", "Good morning, {name}!"))
    newcomer.until_logged("supervisor", "changed: draining")
    (greeting,) = newcomer.until_done([newcomer.enqueue("greet")], 120)
    assert greeting[:2] == ["SUCCESSFUL", "Good morning, Ada!"], greeting
    say("an edit of the task is picked up")

    ids = [newcomer.enqueue("monthly_report") for _ in range(12)]
    newcomer.until_running(ids, 4)
    newcomer.compose("kill", "ray-worker")
    say("the Ray worker's container is killed while four tasks run")
    reports = newcomer.until_done(ids, 120)
    assert {(row[0], row[3]) for row in reports} == {("SUCCESSFUL", 0)}, reports
    again = sum(row[2] > 1 for row in reports)
    assert again, "no task was running on it"
    say(f"{len(reports)} tasks are done, {again} of them at their second attempt, none was charged")

    newcomer.compose("stop", "supervisor")
    say("the supervisor is stopped")


class _Newcomer:
    """Somebody with a browser and the compose command."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose
        self._cookies = CookieJar()
        self._browser = build_opener(HTTPCookieProcessor(self._cookies))

    def open(self, path: str, text: str, form: dict[str, str] | None = None) -> str:
        """Return a page, which must contain text."""
        request = Request(PAGE + path, headers={"Accept": "application/json" if form == {} else "text/html"})
        if form is not None:
            form["csrfmiddlewaretoken"] = next(c.value or "" for c in self._cookies if c.name == "csrftoken")
            request.data = urlencode(form).encode()
        with self._browser.open(request, timeout=30) as reply:
            body: str = reply.read().decode()
        assert text in body, f"{path} has no {text!r}"
        return body

    def log_in(self) -> None:
        self.open("/admin/login/", "Log in")
        self.open("/admin/login/?next=/admin/", "Site administration", {"username": "admin", "password": "admin"})

    def enqueue(self, name: str) -> str:
        """Press a button and return the id of the execution."""
        answer: dict[str, str] = json.loads(self.open(f"/enqueue/{name}/", "id", {}))
        return answer["id"]

    def until_page(self, seconds: float) -> None:
        def answers() -> bool:
            try:
                return bool(self.open("/health/", "ok"))
            except (URLError, OSError):
                return False

        _until(answers, seconds, "the page")

    def until_logged(self, service: str, text: str) -> None:
        _until(lambda: text in self.compose("logs", service), 60, f"{text!r} in the log of {service}")

    def until_slots(self, number: int) -> None:
        def shows() -> bool:
            page = self.open("/admin/django_ray/rayqueue/live/", "Supervisors")
            return re.search(rf"/ {number}\s*<", page) is not None

        _until(shows, 180, f"{number} slots on the live page")

    def until_running(self, ids: Sequence[str], number: int) -> None:
        _until(lambda: sum(row[0] == "RUNNING" for row in self._rows(ids)) >= number, 60, f"{number} tasks running")

    def until_done(self, ids: Sequence[str], seconds: float) -> list[list[Any]]:
        def done() -> list[list[Any]]:
            rows = self._rows(ids)
            return rows if all(row[0] not in {"READY", "RUNNING"} for row in rows) else []

        return _until(done, seconds, f"the end of {len(ids)} tasks")

    def _rows(self, ids: Sequence[str]) -> list[list[Any]]:
        code = ROWS.format(ids=list(ids))
        said = self.compose("exec", "-T", "web", "python", "manage.py", "shell", "--no-imports", "-c", code)
        rows: list[list[Any]] = json.loads(said.strip().splitlines()[-1])
        return rows


def _until[Answer](condition: Callable[[], Answer], seconds: float, what: str) -> Answer:
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come within {seconds} s")
        time.sleep(0.2)
    return answer


if __name__ == "__main__":
    sys.exit(main())
