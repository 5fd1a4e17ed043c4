"""The documentation, executed: whatever README.md and docs/ show runs, through a real Ray where tasks run.

A python block that begins with the name of a file is appended to that file of a project; one that begins with >>> is a
session in that project, checked by doctest; of settings, the backends are built. There is no other kind.
"""

import argparse
import ast
import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import django
import pytest
from django.core.management import load_command_class
from django.utils.module_loading import import_string
from psycopg.conninfo import make_conninfo

from django_ray.carrying import traveller
from django_ray.models import RayWorker
from django_ray.options import _READERS as SETTINGS
from django_ray.requirements import Requirements
from django_ray_worker.main import add_arguments
from tests import docs_project
from tests.supervisors import ROOT, until

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Its models need another engine and settings: tests/test_django_tenants.py has a project for it alone.
ALONE = ROOT / "docs" / "examples" / "django-tenants.md"
TOGETHER = [page for page in PAGES if page != ALONE]
LONG = {"getting-started"}
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<path>[\w/]+\.py)(, on Django (?P<major>\d+)\.(?P<minor>\d+))?$")
SETTINGS_FILE = "mysite/settings.py"
CITED_TEST = re.compile(r"`(?P<path>[\w/]+\.py)::(?P<name>\w+)`")
SECONDS = re.compile(r"^\| `(?P<module>[\w.]+)\.(?P<name>[A-Z_]+)` \| (?P<seconds>[\d.]+) \|", re.MULTILINE)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A python block of a page; head is its first line, or what stands for it."""

    place: str
    line: int
    head: str
    text: str

    @property
    def is_session(self):
        return self.head.startswith(">>> ")

    @property
    def path(self):
        """The file that it belongs to, None for none, or for a newer Django than this one."""
        match = FILE.match(self.head)
        if match is None or (match["major"] and (int(match["major"]), int(match["minor"])) > django.VERSION[:2]):
            return None
        return match["path"]

    @property
    def is_of_a_kind(self):
        return self.is_session or FILE.match(self.head) is not None

    @property
    def is_settings(self):
        return self.path == SETTINGS_FILE

    @property
    def is_module(self):
        return self.path is not None and not self.is_settings

    @property
    def is_test(self):
        return self.is_module and re.match(r"tests?(_\w+)?\.py$", Path(self.path).name) is not None


def blocks_of(page):
    """Return the python blocks of a page."""
    source, blocks = page.read_text(), []
    for match in FENCE.finditer(source):
        if match["language"] != "python":
            continue
        text, line = dedent(match["text"]), source.count("\n", 0, match.start("text")) + 1
        head = text.partition("\n")[0]
        blocks.append(Block(place=f"{name_of(page)}, line {line}", line=line, head=head, text=text))
    return blocks


def commands_of(page):
    """Return what follows the name of the supervisor's command wherever a page shows it in a line or as code."""
    source = page.read_text()
    shown = [line.strip() for line in source.splitlines()] + re.findall(r"`([^`\n]+)`", source)
    found = [re.match(r"(?:python )?(?:django-ray-listen|manage\.py django_ray_listen) (.+)$", text) for text in shown]
    return [match[1] for match in found if match]


def management_commands_of(page):
    """Return (name, arguments) of the other commands of ours, wherever a page shows one in a line of its own."""
    pattern = r"^ *python manage\.py (?P<name>django_ray_(?!listen)\w+) ?(?P<arguments>.*)$"
    return [(match["name"], match["arguments"]) for match in re.finditer(pattern, page.read_text(), re.MULTILINE)]


def files_of_all_pages():
    """Return path -> text of the files of the project, made of the blocks of all pages in their order."""
    files = {}
    for page in TOGETHER:
        for block in blocks_of(page):
            if block.is_module:
                files[block.path] = files.get(block.path, "") + block.text + "\n\n"
    return files


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the files of all pages."""
    folder = tmp_path_factory.mktemp("project")
    for path, text in files_of_all_pages().items():
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    (folder / "media").mkdir()
    return folder


@pytest.fixture(scope="module")
def environment(project):
    """What a process needs in order to work for the project."""
    return {
        "DJANGO_SETTINGS_MODULE": docs_project.__name__,
        "PYTHONPATH": os.pathsep.join(map(str, (project, ROOT, ROOT / "example"))),
        "DOCS_MEDIA_ROOT": str(project / "media"),
    }


@pytest.fixture(scope="module")
def supervisor(environment, listen_for_all):
    """One for all pages."""
    return listen_for_all("--local", "--concurrency", "4", **environment)


@pytest.fixture
def importable(project, settings, monkeypatch):
    """Work in the project, in this process too, and leave nothing of it behind."""
    settings.TASKS = docs_project.TASKS
    settings.MEDIA_ROOT = str(project / "media")
    monkeypatch.syspath_prepend(project)
    yield
    for module in [module for module in sys.modules if (project / module.partition(".")[0]).is_dir()]:
        del sys.modules[module]
    traveller.cache_clear()


def build_backends(block):
    """Read the settings of a block as Django does."""
    names = {}
    exec(compile(block.text, block.place, "exec"), names)
    for alias, params in names.get("TASKS", {}).items():
        import_string(params["BACKEND"])(alias=alias, params=params)
    for database in names.get("DATABASES", {}).values():
        make_conninfo(**database.get("OPTIONS", {}))


def run_session(page, blocks):
    """Type the blocks of a page into one session."""
    parser, examples = doctest.DocTestParser(), []
    for block in blocks:
        for example in parser.get_examples(block.text, block.place):
            example.lineno += block.line - 1
            examples.append(example)
    output = []
    session = doctest.DocTest(examples, {"__name__": "__main__"}, name_of(page), str(page), 0, page.read_text())
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.FAIL_FAST)
    results = runner.run(session, out=output.append)
    assert not results.failed, "".join(output)
    return results.attempted


def run_tests(paths, project, environment):
    """Run test files as their readers do, with a database of their own; return how many tests passed."""
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths],
        cwd=project,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)[1])


def number_of_tests(path):
    """Return the number of test functions in a file."""
    return sum(
        isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
    )


def command_parser():
    """The options of the command, as main() declares them."""
    parser = argparse.ArgumentParser(prog="django-ray-listen")
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath", type=Path)
    parser.add_argument("--version", action="version", version="")
    add_arguments(parser)
    return parser


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("supervisor", "importable")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in LONG), id=name_of(page)) for page in TOGETHER]
)
def test_the_examples_of_a_page_work(page, project, environment):
    until(RayWorker.objects.filter(stopped_at=None).exists, what="the supervisor's row, which the test before deleted")
    blocks = blocks_of(page)
    strange = [block.place for block in blocks if not block.is_of_a_kind]
    assert not strange, f"neither a file ('# library/tasks.py') nor a session ('>>>'): {strange}"
    settings = [block for block in blocks if block.is_settings]
    for block in settings:
        build_backends(block)
    modules = {block.path for block in blocks if block.is_module and not block.is_test}
    for path in sorted(modules):
        importlib.import_module(path.removesuffix(".py").replace("/", "."))
    lines = run_session(page, [block for block in blocks if block.is_session])
    commands = commands_of(page)
    for command in commands:
        command_parser().parse_args(shlex.split(command, comments=True))
    tests = 0
    if files := sorted({block.path for block in blocks if block.is_test}):
        tests = run_tests(files, project, environment)
        assert tests == sum(number_of_tests(project / path) for path in files)
    print(
        f"{name_of(page)}: {len(settings)} settings, {len(modules)} modules, {lines} lines of sessions, {tests} tests, "
        f"{len(commands)} commands"
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_management_command_that_a_page_shows_is_understood(page):
    for name, arguments in management_commands_of(page):
        parser = load_command_class("django_ray", name).create_parser("manage.py", name)
        parser.parse_args(shlex.split(arguments, comments=True))


@pytest.mark.parametrize("path", sorted(files_of_all_pages()))
def test_no_name_is_defined_twice_in_a_file_of_the_documentation(path):
    names = Counter()
    for node in ast.parse(files_of_all_pages()[path]).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names[node.name] += 1
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    assert [name for name, count in names.items() if count > 1] == []


def anchors_of(page):
    """Return the anchors that a page's headings have on the web."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text()))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        is_page = target.suffix == ".md"
        assert not (anchor and is_page) or anchor in anchors_of(target), f"{name_of(page)} links to {link}"


def test_the_start_page_links_to_every_page():
    start = ROOT / "docs" / "index.md"
    paths = {path: path.relative_to(start.parent).as_posix() for path in PAGES[1:] if path != start}
    assert [path for path in paths.values() if f"({path})" not in start.read_text()] == []


def test_every_option_of_the_command_is_explained():
    page = (ROOT / "docs" / "worker-modes.md").read_text()
    options = [option for action in command_parser()._actions for option in action.option_strings]
    assert [option for option in options if option not in {"-h", "--help"} and f"`{option}" not in page] == []


def test_every_setting_and_every_argument_is_explained():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert [name for name in (*SETTINGS, *Requirements.__annotations__) if f"`{name}`" not in page] == []


def functions_in(path):
    """Return the tests of a file in tests/, by name."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name: node
        for node in ast.walk(ast.parse((ROOT / "tests" / path).read_text()))
        if isinstance(node, functions) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_exists_and_proves_something(page):
    for match in CITED_TEST.finditer(page.read_text()):
        assert (ROOT / "tests" / match["path"]).is_file(), f"{name_of(page)} names {match[0]}"
        test = functions_in(match["path"]).get(match["name"])
        assert test is not None, f"{name_of(page)} names {match[0]}"
        assert "xfail" not in "".join(map(ast.unparse, test.decorator_list)), f"{match[0]} is expected to fail"


def test_each_promise_of_the_readme_has_its_tests():
    promises = re.findall(r"^(\d)\. ", README.partition("## What it promises")[2].partition("\n## ")[0], re.MULTILINE)
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = page.partition("## What the README promises")[2].partition("\n## ")[0]
    assert [number for number in promises if not re.search(rf"^\| {number} .*::test_", rows, re.MULTILINE)] == []
    assert promises == ["1", "2", "3", "4", "5", "6"]


def test_every_kind_of_failure_that_a_test_cites_is_explained_once():
    page = (ROOT / "docs" / "reliability.md").read_text()
    explained = Counter(re.findall(r"^\| ([A-Z]\d+) \|", page, re.MULTILINE))
    cited = {
        letter
        for path in (ROOT / "tests").rglob("test_*.py")
        for test in functions_in(path).values()
        for letter in re.findall(r"\b[A-Z]\d{1,2}\b", ast.get_docstring(test) or "")
    }
    assert [letter for letter, count in explained.items() if count > 1] == []
    assert sorted(cited - explained.keys()) == []


def test_the_seconds_of_the_documentation_are_those_of_the_code():
    named = list(SECONDS.finditer((ROOT / "docs" / "reliability.md").read_text()))
    assert named
    for match in named:
        module = importlib.import_module(f"django_ray_worker.{match['module']}")
        assert getattr(module, match["name"]) == float(match["seconds"]), match[0]
