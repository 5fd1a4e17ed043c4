"""A real Chromium in front of the test project under uvicorn; screenshots go where DJANGO_RAY_SCREENSHOTS says."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from playwright.sync_api import Error, expect, sync_playwright

from tests.chaos.postgres import free_port
from tests.supervisors import ROOT, database_url, until

# For what a busy machine takes; a page that has it goes on at once.
expect.set_options(timeout=30_000)
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    # None is what Playwright has downloaded.
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    # Playwright's loop runs in this thread: Django would refuse its ORM there, and tests with a loop of their own
    # cannot run meanwhile. So it ends with the module.
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        except Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"No Chromium starts here: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


class Site:
    """The test project under uvicorn, on the test database."""

    def __init__(self) -> None:
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._server = None

    def start(self) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "example")])
        arguments = ["tests.asgi:application", "--port", str(self._port), "--log-level", "warning"]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *arguments, "--timeout-graceful-shutdown", "1"],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "DJANGO_SETTINGS_MODULE": "tests.settings",
                "DATABASE_URL": database_url(connection),
            },
        )
        until(self._answers, what="uvicorn")

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.address}/admin/login/").status == 200
        except OSError:
            assert self._server.poll() is None, "uvicorn has ended"
            return False

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(20)


@pytest.fixture
def site_of_its_own(transactional_db):
    site = Site()
    site.start()
    yield site
    site.stop()


@pytest.fixture
def site(site_of_its_own):
    """The address of a site."""
    return site_of_its_own.address


@pytest.fixture
def log_in(browser, request):
    """Open a page as a user with these permissions; None is a superuser. On the site, or where address says."""
    contexts = []

    def _log_in(permissions=None, address=None, **options):
        name = f"user{len(contexts)}"
        user = User.objects.create_user(name, password="secret", is_staff=True, is_superuser=permissions is None)
        for codename in permissions or ():
            user.user_permissions.add(Permission.objects.get(codename=codename, content_type__app_label="django_ray"))
        address = address or request.getfixturevalue("site")
        context = browser.new_context(base_url=address, viewport={"width": 1400, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto("/admin/login/")
        page.fill("#id_username", name)
        page.fill("#id_password", "secret")
        page.click("text=Log in")
        return page

    yield _log_in
    for context in contexts:
        context.close()


@pytest.fixture
def take(tmp_path):
    """Take a screenshot of the whole page."""
    folder = Path(os.environ.get("DJANGO_RAY_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def _take(page, name):
        assert re.fullmatch(r"[a-z-]+", name)
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return _take


@pytest.fixture
def picture(tmp_path):
    """Take a picture for the docs: what is seen at once."""
    folder = Path(os.environ.get("DJANGO_RAY_PICTURES", tmp_path))

    def _picture(page, name):
        page.screenshot(path=folder / f"{name}.png")

    return _picture
