"""Every page, verb and command with the settings of other projects: tests/matrix/settings.py has the CASES."""

import os
import subprocess
import sys

import pytest
from django.db import connection

from tests.matrix.settings import CASES
from tests.supervisors import ROOT, database_url, url_of

OWN_USERS = "users of its own"
# The others are among the slow ones.
OFTEN = ("as they come",)


def cases(*, beside_a_replica):
    names = [name for name, case in CASES.items() if ("DATABASE_ROUTERS" in case) == beside_a_replica]
    return [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in names]


def python(case, url, *arguments, **environment):
    """Run a module of Python in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=300,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "example")]), "SETTINGS_CASE": case,
            "DJANGO_SETTINGS_MODULE": "tests.matrix.settings", "DATABASE_URL": url, **environment,
        },
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def own_database(connect):
    """The URL of a database without tables."""
    session, name = connect(), f"{connection.settings_dict['NAME']}_matrix"
    session.execute(f"CREATE DATABASE {name}")
    yield url_of(name)
    session.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("case", cases(beside_a_replica=False))
def test_every_page_verb_and_command(case, own_database):
    url = database_url(connection)
    if case == OWN_USERS:  # their tables are others
        url = own_database
        python(case, url, "django", "migrate", "--run-syncdb", "--verbosity", "0")
    python(case, url, "tests.matrix.tour")


@pytest.mark.parametrize("case", cases(beside_a_replica=True))
def test_every_page_verb_and_command_beside_a_replica_that_is_late(case, own_database):
    python("as they come", own_database, "django", "migrate", "--verbosity", "0")
    python(case, database_url(connection), "tests.matrix.tour", REPLICA_URL=own_database)
