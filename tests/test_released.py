"""What is released stays as it is: its migrations, its SQL files, and the tables that they make."""

import re
import zipfile
from importlib.resources import files
from pathlib import Path

import psycopg

from tests.deploys import RELEASE, ROWS, SCHEMA, WHEEL, Deploy, database_of_its_own
from tests.schema import catalogue

KEPT = re.compile(r"(?P<package>django_ray(_sql)?)/(?P<path>(migrations/)?\d{4}_[\w.]+\.(py|sql))")


def test_a_released_migration_never_changes():
    with zipfile.ZipFile(WHEEL) as wheel:
        released = {found: wheel.read(found[0]) for found in map(KEPT.fullmatch, wheel.namelist()) if found}
    assert {Path(found["path"]).suffix for found in released} == {".py", ".sql"}
    for found, content in released.items():
        file = files(found["package"]) / found["path"]
        is_kept = file.is_file() and file.read_bytes() == content
        assert is_kept, (
            f"{found[0]} is not what it was in {RELEASE}. A database that has run it does not change with it: "
            "put it back as it was, and add a new migration instead."
        )


def test_the_released_version_runs_nothing_of_this_checkout(tmp_path, released_packages):
    with Deploy("postgresql:///unused", tmp_path) as deploy:
        released = deploy.version("released", "", packages=released_packages)
        names = ["django_ray", "django_ray_sql", "django_ray_worker"]
        where = ", ".join(f"{name}.__file__" for name in names)
        paths = released.run("-c", f"import {', '.join(names)}; print({where})").split()
        assert [Path(path).parent for path in paths] == [released_packages / name for name in names]
        assert released.run("-c", "import django_ray; print(django_ray.__version__)") == RELEASE


def test_the_kept_schema_is_what_the_released_migrations_make(tmp_path, released_packages):
    """So the rows of tests/released/ lie in a real database of that version."""
    with database_of_its_own(SCHEMA, ROWS) as kept, database_of_its_own() as made, Deploy(made, tmp_path) as deploy:
        assert deploy.version("released", "", packages=released_packages).migrate().wait() == 0
        with psycopg.connect(kept) as ours, psycopg.connect(made) as theirs:
            assert catalogue(ours.cursor()) == catalogue(theirs.cursor()) != []
            names = "SELECT app, name FROM django_migrations ORDER BY id"
            assert ours.execute(names).fetchall() == theirs.execute(names).fetchall()
