"""The example is a project, and its own tests pass."""

import os
import re
import subprocess
import sys

from django.db import connection

from tests.supervisors import ROOT, database_url


def test_the_tests_of_the_example_pass(db):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "example" / "manage.py"), "test", "shop", "--noinput"],
        cwd=ROOT / "example",
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": database_url(connection)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^Ran 5 tests in ", done.stderr, re.MULTILINE), done.stderr
