"""docs/tutorial.md, word for word: from an empty folder to a page that shows a running task."""

import json
import re
import shutil
import sys
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

import pytest
from django import VERSION

from tests.installing import constraints, uv
from tests.rays import free_port
from tests.supervisors import ROOT, until
from tests.test_first_steps import database, shell  # noqa: F401 - fixtures

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
COMMANDS = re.findall(r"^    (pip|django-admin|python|django-ray-listen|uvicorn)( .+)$", PAGE, re.MULTILINE)
FILES = re.findall(
    r"^```\w+\n(?:# |<!-- )(?P<path>[\w./]+)(?: -->)?\n(?P<text>.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


def the(start):
    """The one command of the page that begins so."""
    (line,) = [f"{name}{rest}" for name, rest in COMMANDS if f"{name}{rest}".startswith(start)]
    return line


def wait_for(process, word):
    log = []
    for line in process.stdout:
        log.append(line)
        if word in line:
            return
    raise AssertionError("".join(log))


@pytest.mark.slow
def test_the_tutorial_leads_to_a_bar_that_moves(shell, wheel, tmp_path, database):  # noqa: F811
    shell(f"{uv()} venv --quiet --python {sys.executable} venv")
    (tmp_path / "dist").mkdir()
    shutil.copy(wheel, tmp_path / "dist")
    pins = constraints(tmp_path).read_text().splitlines()
    (tmp_path / "constraints.txt").write_text("\n".join(pin for pin in pins if not pin.startswith("django==")))
    django = f"django=={'.'.join(map(str, VERSION[:2]))}.*"
    what = the("pip install").removeprefix("pip install ")
    shell(f"{uv()} pip install --quiet --constraints constraints.txt '{django}' {what}")
    shell(the("django-admin startproject"))
    shell(the("python manage.py startapp"))
    for path, text in FILES:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path == "mysite/settings.py":
            text = text.replace("[..., ", "[*INSTALLED_APPS, ").replace(  # noqa: PLW2901
                '{"ENGINE": "django.db.backends.postgresql", "NAME": "mysite"}', repr(database)
            )
            text = f"{file.read_text()}\n{text}"  # noqa: PLW2901
        file.write_text(text)
    shell(the("python manage.py migrate"))
    shell(the("python manage.py check"))
    port = free_port()
    serve = the("uvicorn").replace("8000", str(port))
    with shell.start(f"exec {the('django-ray-listen')}") as supervisor, shell.start(f"exec {serve}") as server:
        try:
            wait_for(supervisor, "is ready")
            wait_for(server, "running on")
            seen = look_at_the_bar(f"http://127.0.0.1:{port}")
            assert seen == sorted(seen)
            assert {(0.25, "Emma"), (1.0, "Persuasion")} <= set(seen)
            assert "default" in shell(the("python manage.py django_ray_status"))
        finally:
            server.terminate()
            supervisor.terminate()
        assert supervisor.wait(60) == 0


def look_at_the_bar(site):
    """Press the button; return what the bar shows, one after the other."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    home = until(lambda: browser.open(f"{site}/").read().decode())
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', home)[1]
    data = urllib.parse.urlencode({"csrfmiddlewaretoken": token}).encode()
    page = browser.open(f"{site}/start/", data).read().decode()
    stream = browser.open(site + re.search(r'EventSource\("([^"]+)"\)', page)[1], timeout=60)
    seen = []
    for line in stream:
        if line.startswith(b"event: end"):
            return seen
        if line.startswith(b"data: {"):
            said = json.loads(line.removeprefix(b"data: "))
            seen.append((said["fraction"], said["message"]))
    raise AssertionError(seen)
