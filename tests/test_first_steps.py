"""README's six steps, word for word: the wheel in a new virtual environment, a new project, and its first task runs."""

import os
import re
import shutil
import subprocess
import sys
from textwrap import dedent

import psycopg
import pytest
from django import VERSION
from psycopg import sql

from tests.installing import constraints, uv
from tests.supervisors import ROOT, until

README = (ROOT / "README.md").read_text()
STEPS = re.split(r"^\d\. ", README.partition("## Use it")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]


def command_of(step):
    """The one line that a step shows as a command."""
    (line,) = re.findall(r"^       (\S.*)$", step, re.MULTILINE)
    return line


def python_of(step):
    (block,) = re.findall(r"```python\n(.*?)```", dedent(step.partition("\n")[2]), re.DOTALL)
    return dedent(block)


@pytest.fixture
def database():
    """A new database on the server of the tests, as settings have it."""
    name = f"first_steps_{os.getpid()}"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": server.info.user,
            "PASSWORD": server.info.password,
            "HOST": server.info.host,
            "PORT": str(server.info.port),
        }
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def shell(tmp_path, wheel):
    """Run a command line as a newcomer would: nothing of this repository is in reach."""
    ours = {"DATABASE_URL", "DJANGO_SETTINGS_MODULE", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {
        "PATH": f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(tmp_path / "venv"),
    }

    def start(line, **options):
        return subprocess.Popen(
            line, shell=True, cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip

    def run(line):
        with start(line) as process:
            said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{line}\n{said}"
        return said

    run.start = start
    return run


@pytest.mark.slow
def test_the_six_steps_of_the_readme_run_the_first_task(shell, wheel, tmp_path, database):
    assert len(STEPS) == 6
    install, settings, migrate, declare, supervise, enqueue = STEPS
    shell(f"{uv()} venv --quiet --python {sys.executable} venv")
    what = command_of(install).removeprefix("pip install ")
    (tmp_path / "dist").mkdir()
    shutil.copy(wheel, tmp_path / "dist")  # as make wheel has it
    pins = constraints(tmp_path).read_text().splitlines()
    django = f"django=={'.'.join(map(str, VERSION[:2]))}.*"  # the one that these tests run on
    (tmp_path / "constraints.txt").write_text("\n".join(pin for pin in pins if not pin.startswith("django==")))
    shell(f"{uv()} pip install --quiet --constraints constraints.txt '{django}' {what}")
    shell("django-admin startproject mysite .")
    with (tmp_path / "mysite" / "settings.py").open("a") as file:
        file.write(f"DATABASES = {{'default': {database!r}}}\n")
        file.write(python_of(settings).replace("[..., ", "[*INSTALLED_APPS, "))
    shell(command_of(migrate))
    (tmp_path / "mysite" / "tasks.py").write_text(python_of(declare))
    log = []
    with shell.start(f"exec {command_of(supervise)}") as supervisor:
        try:
            for line in supervisor.stdout:
                log.append(line)
                if "is ready" in line:
                    break
            assert "is ready" in "".join(log), "".join(log)
            session = python_of(enqueue).splitlines()
            code = [line.removeprefix(">>> ") for line in session if line.startswith(">>> ")]
            code[-1] = f"print({code[-1]})"
            (tmp_path / "typed.py").write_text("\n".join(code))
            assert shell("python manage.py shell --no-imports < typed.py").strip() == session[-1] == "{'pages': 12}"
        finally:
            supervisor.terminate()
        assert supervisor.wait(60) == 0
    assert until(lambda: shell("python manage.py django_ray_status"))
