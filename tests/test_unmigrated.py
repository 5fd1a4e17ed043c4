"""Tests of a small project whose test database is made without migrations, or is SQLite."""

import json
import os
import subprocess
import sys

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from tests.schema import as_migrated, catalogue
from tests.supervisors import ROOT

SETTINGS = """
from tests.settings import *
INSTALLED_APPS = [*INSTALLED_APPS, "library"]
DATABASES["default"]["TEST"] = {{"NAME": "test_library_{process}"}}
"""
SQLITE = """
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
DOUBLE = """
TASKS = {{"default": {{"BACKEND": "django_ray.testing.{}", "QUEUES": ["default", "other"]}}}}
"""
UNMIGRATED = """
MIGRATION_MODULES = {"django_ray": None}
"""
TESTS = """
import json, os
from django.core import serializers
from django.db import connection
from django.tasks import TaskResultStatus
from django.test import TestCase, TransactionTestCase
from django_ray.testing import run_tasks
from tests import tasks
from tests.schema import catalogue

class Tests(TestCase):
    def test_a_task_runs(self):
        tasks.add.enqueue(1, 2)
        assert [result.return_value for result in run_tasks()] == [3]

    def test_what_waits_is_cancelled(self):
        result = tasks.add.enqueue(1, 2)
        assert result.cancel()
        result.refresh()
        assert result.status == TaskResultStatus.FAILED

class CommittingTests(TransactionTestCase):
    def test_all_of_ours_is_there(self):
        with connection.cursor() as cursor, open(os.environ["CATALOGUE"], "w") as file:
            json.dump(catalogue(cursor), file)
"""
DOUBLE_TESTS = """
from django.contrib.auth.models import User
from django.tasks import default_task_backend
from django.test import TestCase
from tests import tasks

class Tests(TestCase):
    def test_a_task_is_enqueued(self):
        User.objects.create_user("Ada")
        result = tasks.add.enqueue(1, 2)
        if hasattr(default_task_backend, "results"):
            assert default_task_backend.results == [result]
        else:
            assert result.return_value == 3
"""


@pytest.fixture
def project(tmp_path):
    """Run the tests of a project with these settings; return the exit code and what it said."""

    def _project(settings, tests, *command):
        library = tmp_path / "library"
        library.mkdir(exist_ok=True)
        (library / "__init__.py").touch()
        (library / "tests.py").write_text(tests)
        (tmp_path / "library_settings.py").write_text(SETTINGS.format(process=os.getpid()) + settings)
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, text=True, capture_output=True, check=False,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "library_settings",
                "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "example"))),
                "CATALOGUE": str(tmp_path / "catalogue"),
            },
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return _project


DJANGO = ("django", "test", "library")
PYTEST = ("pytest", "-p", "no:cacheprovider", "library/tests.py")


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        (UNMIGRATED, DJANGO),
        ("DATABASES['default']['TEST']['MIGRATE'] = False", DJANGO),
        pytest.param(UNMIGRATED, (*DJANGO, "--parallel", "2"), marks=pytest.mark.slow),
        ("", (*PYTEST, "--no-migrations")),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_database_without_migrations_is_as_one_with_them(settings, command, project, tmp_path):
    code, said = project(settings, TESTS, *command)
    assert code == 0, said
    with connection.cursor() as cursor:
        assert [tuple(row) for row in json.loads((tmp_path / "catalogue").read_text())] == as_migrated(cursor)


@pytest.mark.django_db(transaction=True)
def test_migrations_that_are_turned_off_and_on_again_find_all_as_it_was(settings):
    with connection.cursor() as cursor:
        before = as_migrated(cursor)
        call_command("migrate", "django_ray", "zero", verbosity=0)
        settings.MIGRATION_MODULES = {"django_ray": None}
        try:
            for _ in range(2):
                call_command("migrate", run_syncdb=True, verbosity=0)
                assert catalogue(cursor) == before
        finally:
            settings.MIGRATION_MODULES = {}
            call_command("migrate", "django_ray", fake=True, verbosity=0)


@pytest.mark.slow
def test_a_kept_database_without_migrations_is_used_again(project):
    reuse = (*PYTEST, "--no-migrations", "--reuse-db")
    try:
        for _ in range(2):
            code, said = project("", TESTS, *reuse)
            assert code == 0, said
    finally:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
            server.execute(f"DROP DATABASE IF EXISTS test_library_{os.getpid()} WITH (FORCE)")


@pytest.mark.slow
@pytest.mark.parametrize("double", ["ImmediateBackend", "DummyBackend"])
@pytest.mark.parametrize(
    ("settings", "command"),
    [
        (UNMIGRATED, DJANGO),
        ("DATABASES['default']['TEST'] = {'MIGRATE': False}", DJANGO),
        ("", (*PYTEST, "--no-migrations")),
    ],
)
def test_with_a_double_the_database_may_be_sqlite(settings, command, double, project):
    code, said = project(SQLITE + DOUBLE.format(double) + settings, DOUBLE_TESTS, *command)
    assert code == 0, said


def test_sqlite_with_a_double_and_migrations_is_told_the_way(project):
    code, said = project(SQLITE + DOUBLE.format("DummyBackend"), DOUBLE_TESTS, *DJANGO)
    assert code
    assert 'MIGRATION_MODULES = {"django_ray": None}' in said


def test_sqlite_for_what_keeps_rows_is_refused(project):
    code, said = project(SQLITE + UNMIGRATED, DOUBLE_TESTS, *DJANGO)
    assert code
    assert "django_ray.E001" in said
