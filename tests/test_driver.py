"""A project that has psycopg2, on a machine where psycopg 3 cannot be imported."""

import os
import subprocess
import sys

import pytest
from django.db import connection

from tests.supervisors import ROOT, database_url
from tests.test_settings_matrix import python

pytestmark = pytest.mark.django_db(transaction=True)

PATH = os.pathsep.join(map(str, (ROOT / "tests" / "without_libpq", ROOT, ROOT / "example", ROOT / "worker")))


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, text=True, capture_output=True, check=False, timeout=120,
        env={
            **os.environ, "PYTHONPATH": PATH, "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": database_url(connection),
        },
    )  # fmt: skip


def test_every_page_verb_and_command_works_that_does_not_listen():
    python("as they come", database_url(connection), "tests.matrix.tour", PYTHONPATH=PATH)


def test_a_check_says_what_does_not():
    done = run("django", "check")
    assert (done.returncode, done.stderr.count("?: (")) == (0, 1)
    assert "(django_ray.W005) Django reaches the database 'default' with psycopg2" in done.stderr


@pytest.mark.parametrize(
    ("command", "code", "what"),
    [
        (("django_ray_worker", "--sync", "--settings", "tests.settings"), 78, "A supervisor"),
        (("django", "django_ray_listen", "--sync"), 78, "A supervisor"),
        (("django", "django_ray_status", "--watch"), 1, "--watch"),
        (("django", "shell", "-c", "from tests import tasks; tasks.add.enqueue(1, 2).wait()"), 1, "wait()"),
    ],
)
def test_what_listens_says_what_it_needs(command, code, what):
    done = run(*command)
    assert done.returncode == code
    assert f"{what} needs psycopg 3, which cannot be imported (no pq wrapper available.): pip install" in done.stderr
