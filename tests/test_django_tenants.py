"""docs/examples/django-tenants.md, word for word: two tenants, and each task in the schema of its own."""

import doctest
import re
import sys
from contextlib import contextmanager

import psycopg
import pytest

from tests.supervisors import ROOT, Process
from tests.test_docs import blocks_of
from tests.test_first_steps import database  # noqa: F401 - a fixture

PAGE = ROOT / "docs" / "examples" / "django-tenants.md"
COMMANDS = re.findall(r"^    python (manage.py .+)$", PAGE.read_text(), re.MULTILINE)
(SUPERVISOR,) = re.findall(r"^    django-ray-listen (.+)$", PAGE.read_text(), re.MULTILINE)
MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def process(tmp_path):
    """Run Python in the folder of the project, until its end unless told otherwise."""
    ours = dict.fromkeys(("DATABASE_URL", "PYTHONPATH"), "")
    environment = {**ours, "DJANGO_SETTINGS_MODULE": "mysite.settings"}

    @contextmanager
    def start(*arguments):
        with Process(*arguments, above=["env", "-C", str(tmp_path), sys.executable], **environment) as running:
            yield running

    return start


@pytest.mark.slow
def test_each_task_runs_in_the_schema_of_the_tenant_that_enqueued_it(process, tmp_path, database):  # noqa: F811
    files = {block.path: block.text for block in blocks_of(PAGE) if block.path}
    files["mysite/settings.py"] = files["mysite/settings.py"].replace(
        '"NAME": "mysite"', ", ".join(f"{key!r}: {value!r}" for key, value in database.items() if key != "ENGINE")
    )
    for path, text in {**files, "manage.py": MANAGE}.items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    session = "\n".join(block.text for block in blocks_of(PAGE) if block.is_session)
    examples = doctest.DocTestParser().get_examples(session)
    assert len(COMMANDS) == 2
    assert len(examples) == 9
    (tmp_path / "session.txt").write_text(session)
    (tmp_path / "typed.py").write_text(
        "import django, doctest; django.setup()\n"
        "assert not doctest.testfile('session.txt', module_relative=False, optionflags=doctest.FAIL_FAST).failed\n"
    )
    for command in [*COMMANDS, "manage.py check --database default"]:
        with process(*command.split()) as running:
            assert running.wait(60) == 0, running.log
    listen = ["-c", "from django_ray_worker.main import main; main()", *SUPERVISOR.split()]
    with process(*listen) as supervisor:
        supervisor.wait_for("is ready", 180)
        with process("typed.py") as running:
            assert running.wait(120) == 0, running.log + supervisor.log
        supervisor.signal()
        assert supervisor.wait() == 0
    assert schemas_of(database) == [("public",)]


def schemas_of(database):  # noqa: F811
    """Return the schemas in which the tables and functions of django-ray are."""
    parts = ("host", "port", "user", "password")
    with psycopg.connect(
        dbname=database["NAME"], **{part: database[part.upper()] or None for part in parts}
    ) as session:
        return session.execute(
            r"SELECT nspname FROM pg_namespace WHERE EXISTS (SELECT FROM pg_class"
            r" WHERE relnamespace = pg_namespace.oid AND relname LIKE 'django\_ray\_%')"
            r" OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = pg_namespace.oid AND proname LIKE 'django\_ray\_%')"
        ).fetchall()
