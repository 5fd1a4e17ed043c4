"""The mistakes of a first day: one row for each, and the sentence that it is answered with."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend

from django_ray import task, task_options
from django_ray.backends import RayTaskBackend
from tests import tasks
from tests.supervisors import ROOT


def says(kind, *parts):
    """Expect an exception of that kind whose message has all these parts."""
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, parts)))


def configured(**params):
    return RayTaskBackend("default", params)


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        (
            {"MAX_ATTEMPTS": 3},
            'TASKS["default"] has the unknown key \'MAX_ATTEMPTS\': it belongs into TASKS["default"]["OPTIONS"]',
        ),
        ({"OPTION": {"GRACE": 3}}, "TASKS[\"default\"] has the unknown key 'OPTION': did you mean OPTIONS?"),
        ({"queues": ["mail"]}, "TASKS[\"default\"] has the unknown key 'queues': did you mean QUEUES?"),
        ({"OPTIONS": {"MAX_ATEMPTS": 3}}, "has the unknown key 'MAX_ATEMPTS': did you mean MAX_ATTEMPTS?"),
        ({"QUEUES": "mail"}, "must be a list of names, not 'mail'"),
    ],
)
def test_a_setting_at_the_wrong_place_or_misspelt(mistake, answer):
    with says(InvalidTaskBackend, answer):
        configured(**mistake)


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        (
            {"max_retries": 3},
            "A task has no argument 'max_retries': say max_attempts=N, which counts the first attempt too.",
        ),
        ({"time_limit": 3}, "say timeout=seconds."),
        ({"retry_backoff": True}, "say backoff={'base': seconds}."),
        ({"queue": "mail"}, "say queue_name='...'."),
        ({"bind": True}, "say takes_context=True"),
        ({"max_atempts": 3}, "did you mean max_attempts?"),
    ],
)
@pytest.mark.parametrize("declare", [task, lambda **options: task_options(**options), None])
def test_an_argument_that_another_task_queue_has(argument, answer, declare):
    with pytest.raises((TypeError, InvalidTask)) as caught:
        if declare is None:
            tasks.add.using(**argument)
        elif declare is task:
            task(**argument)(tasks.add.func)
        else:
            task(task_options(**argument)(_plain()))
    assert answer in str(caught.value) or answer.partition(": ")[2] in str(caught.value)


def _plain():
    namespace = {"__name__": "tests.tasks"}
    exec(compile("def plain(): ...", str(ROOT / "tests" / "tasks.py"), "exec"), namespace)
    return namespace["plain"]


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ({"countdown": 3}, "A task has no argument 'countdown': say run_after=timedelta(seconds=...)."),
        ({"eta": None}, "say run_after=datetime."),
        ({"run_aftr": timedelta(1)}, "did you mean run_after?"),
    ],
)
def test_using_with_an_argument_that_another_task_queue_has(argument, answer):
    with says(TypeError, answer):
        tasks.add.using(**{name: value or 1 for name, value in argument.items()})


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("delay", "A task has no 'delay': say enqueue(...)."),
        ("apply_async", "say enqueue(...), or using(...).enqueue(...)."),
        ("send", "say enqueue(...)."),
        ("nothing_known", "A task has no 'nothing_known'"),
    ],
)
def test_a_method_that_another_task_queue_has(method, answer):
    with says(AttributeError, answer):
        getattr(tasks.add, method)


def test_calling_a_task():
    with says(TypeError, "add is a task: add.enqueue(...) has it run by a worker, add.call(...) here and now."):
        tasks.add(1, 2)
    assert tasks.add.call(1, 2) == 3


@pytest.mark.parametrize(
    ("args", "kwargs", "answer"),
    [
        (("x", "y", "z"), {}, "add(a, b) cannot be called with ('x', 'y', 'z'): too many positional arguments."),
        (("x",), {}, "add(a, b) cannot be called with ('x'): missing a required argument: 'b'."),
        ((), {"a": 1, "c": 2}, "add(a, b) cannot be called with (a=1, c=2): missing a required argument: 'b'."),
        ((1, 2), {"c": 3}, "add(a, b) cannot be called with (1, 2, c=3): got an unexpected keyword argument 'c'."),
        ((1, 2), {"a": 3}, "add(a, b) cannot be called with (1, 2, a=3): multiple values for argument 'a'."),
    ],
)
@pytest.mark.django_db
def test_arguments_that_do_not_fit_the_function(args, kwargs, answer):
    with says(TypeError, answer):
        tasks.add.enqueue(*args, **kwargs)


def test_a_queue_that_is_not_there():
    with says(InvalidTask, "Queue 'othr' is not valid for backend.", "has no 'othr': did you mean other?"):
        tasks.add.using(queue_name="othr")


def run(*arguments, **environment):
    """Run manage.py in a process of its own; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "django", *arguments], cwd=ROOT, text=True, capture_output=True, check=False,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}", **environment},
        input=environment.pop("INPUT", ""),
    )  # fmt: skip
    return done.stdout + done.stderr


TYPED = """
from django_ray import task
@task
def typed(): ...
"""


def test_a_task_that_is_typed_into_a_shell():
    assert "'typed' was typed into a shell, where no Ray worker finds it" in run("shell", "-c", TYPED)


@pytest.mark.django_db
def test_a_wait_says_what_the_execution_waits_for():
    """Of each reason."""


@pytest.fixture
def bare(django_db_blocker):
    """A database of the tests' server without any tables."""
    import psycopg
    from psycopg import sql

    name = f"bare_{os.getpid()}"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    "code",
    [
        "tasks.add.enqueue(1, 2)",
        "tasks.add.get_result('019a8e5c-52f1-7d10-8c3e-3f1d2a4b5c6d')",
        "task_backends['default'].cancel('019a8e5c-52f1-7d10-8c3e-3f1d2a4b5c6d')",
    ],
)
def test_migrate_was_forgotten(bare, code):
    said = run(
        "shell", "-c", f"from tests import tasks; from django.tasks import task_backends; {code}", DATABASE_URL=bare
    )
    assert "The tables of django_ray are missing or old in the database 'default': run manage.py migrate." in said


def test_migrate_was_forgotten_as_the_check_says(bare):
    assert "no issues" in run("check", "--database", "default", DATABASE_URL=bare)  # as before the first migrate
    run("migrate", "auth", DATABASE_URL=bare)
    said = run("check", "--database", "default", DATABASE_URL=bare)
    assert "(django_ray.W001) The tables of django_ray are missing or old" in said
    said = run("migrate", DATABASE_URL=bare)
    assert "django_ray.0004_cancel... OK" in said.replace("Applying ", "").replace("  ", "")
    assert "no issues" in run("check", "--database", "default", DATABASE_URL=bare)
