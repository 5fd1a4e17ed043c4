"""The mistakes of a first day: one row for each, and the sentence that it is answered with."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import pytest
from asgiref.sync import async_to_sync
from django.apps import AppConfig, apps
from django.core.management import CommandError, call_command
from django.db import connection
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend

from django_ray import checks, task, task_options
from django_ray.backends import RayTaskBackend
from django_ray.models import RayQueue
from tests import tasks
from tests.supervisors import ROOT, database_url


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
@pytest.mark.parametrize("declare", [task, task_options, None])
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


def environment(**changes):
    path = f"{ROOT}{os.pathsep}{ROOT / 'example'}"
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": path, **changes}


def run(*arguments, **changes):
    """Run manage.py in a process of its own; return what it says."""
    line = [sys.executable, "-m", "django", *arguments]
    done = subprocess.run(
        line, cwd=ROOT, env=environment(**changes), input="", text=True, capture_output=True, check=False
    )
    return done.stdout + done.stderr


TYPED = """
from django_ray import task
@task
def typed(): ...
"""


def test_a_task_that_is_typed_into_a_shell():
    assert "'typed' was typed into a shell, where no Ray worker finds it" in run("shell", "-c", TYPED)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["django_ray_cancel", "--queue", "othr"], "--queue othr: nothing has this queue: did you mean other?"),
        (["django_ray_retry", "--queue", "othr"], "--queue othr: nothing has this queue: did you mean other?"),
        (["django_ray_cancel", "--task", "tests.tasks.ad"], "nothing has this task: did you mean tests.tasks.add?"),
        (["django_ray_retry", "--exception", "OSErr"], "nothing has this exception: did you mean OSError?"),
        (["django_ray_retry", "--exception", "builtins.OSErr"], "did you mean builtins.OSError?"),
        (["django_ray_prune", "--older-than", "1d", "--queue", "othr"], "did you mean other?"),
        (["django_ray_cancel", "--queue", "othr", "--dry-run"], "did you mean other?"),
    ],
)
def test_a_name_that_nothing_has(arguments, answer, insert):
    insert(state="FAILED", finished_at="2026-01-01", errors='[{"exception_class_path": "builtins.OSError"}]')
    with says(CommandError, answer):
        call_command(*arguments)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "arguments",
    [
        ["django_ray_cancel", "--queue", "other"],
        ["django_ray_cancel", "--task", "tests.tasks.fail"],
        ["django_ray_retry", "--exception", "ValueError"],
        ["django_ray_retry", "--exception", "django.core.exceptions.ImproperlyConfigured"],
    ],
)
def test_a_name_that_is_right_although_nothing_has_it_now(arguments, capsys):
    call_command(*arguments)
    assert "0 executions" in capsys.readouterr().out


SUPERVISOR = {
    "hostname": "h", "pid": 1, "backend": "default", "queues": "null", "concurrency": 1, "ray_address": "",
    "version": "", "pulse": 60,
}  # fmt: skip
WAITING = [
    (
        {},
        [],
        "READY after 0.01 s. No supervisor serves the queue 'default' of backend 'default': start django-ray-listen.",
    ),
    (
        {},
        [{"queues": '["mail"]'}],
        "No supervisor serves the queue 'default' of backend 'default'; 1 serves other queues",
    ),
    ({}, [{"pulse_at": "2026-01-01"}], "serves its queue, and has been silent for"),
    ({"due_at": "2999-01-01"}, [{}], "It is due in"),
    ({"due_at": "2999-01-01", "failures": 1}, [{}], "The next attempt, 2 of 3, is due in"),
    (
        {"due_at": "2999-01-01", "released": 7},
        [{}],
        "It has come back 7 times without having ended, and is due in",
    ),
    ({"missing_since": "2026-01-01"}, [{}], "Who took it could not begin it for"),
    ({}, [{}], "It should start at any moment: there is a free slot"),
    (
        {"state": "RUNNING", "claimed_by_id": 1, "worker_ids": '["1"]', "last_attempted_at": "2026-01-01"},
        [{}],
        "attempt 1 of 3, on supervisor 1",
    ),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("row", "supervisors", "answer"), WAITING)
def test_a_wait_says_what_the_execution_waits_for(row, supervisors, answer, insert, connect):
    task_id = insert(**row)
    for changes in supervisors:
        columns = {**SUPERVISOR, **changes}
        session = connect()
        session.execute(
            f"INSERT INTO django_ray_worker ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
            [*columns.values()],
        )
        session.execute("SELECT django_ray_identify(max(id)) FROM django_ray_worker")
    with says(TimeoutError, answer):
        tasks.add.get_result(str(task_id)).wait(timeout=0.01)


@pytest.mark.django_db(transaction=True)
def test_a_wait_for_a_paused_queue_says_so(insert):
    task_id = insert()
    RayQueue.objects.pause("default", by="ada", because="deploy")
    with says(TimeoutError, "Its queue 'default' has been paused by ada for ", "deploy"):
        tasks.add.get_result(str(task_id)).wait(timeout=0.01)


@pytest.mark.django_db(transaction=True)
def test_an_await_says_it_as_well():
    with says(TimeoutError, "No supervisor serves the queue 'default'"):
        async_to_sync(tasks.add.enqueue(1, 2).await_result)(timeout=0.01)


@pytest.mark.django_db(transaction=True)
def test_a_reader_of_status_that_leaves(insert):
    line = f"{sys.executable} -m django django_ray_status | head -n 1"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment(DATABASE_URL=database_url(connection)), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("Queues\n", "")


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


VERBS = """
from django.core.exceptions import ImproperlyConfigured
from django.tasks import task_backends
from tests import tasks
AN_ID = "019a8e5c-52f1-7d10-8c3e-3f1d2a4b5c6d"
for verb in (tasks.add.enqueue, tasks.add.get_result, task_backends["default"].cancel):
    try:
        verb(*([1, 2] if verb == tasks.add.enqueue else [AN_ID]))
    except ImproperlyConfigured as error:
        print(error)
"""


def test_migrate_was_forgotten(bare):
    answer = "The tables of django_ray are missing or old in the database 'default': run manage.py migrate."
    assert run("shell", "-c", VERBS, DATABASE_URL=bare).count(answer) == 3


def test_migrate_was_forgotten_as_the_check_says(bare):
    assert "no issues" in run("check", "--database", "default", DATABASE_URL=bare)  # as before the first migrate
    run("migrate", "auth", DATABASE_URL=bare)
    said = run("check", "--database", "default", DATABASE_URL=bare)
    assert "(django_ray.W001) The tables of django_ray are missing or old" in said
    said = run("migrate", DATABASE_URL=bare)
    assert "django_ray.0004_cancel... OK" in said.replace("Applying ", "").replace("  ", "")
    assert "no issues" in run("check", "--database", "default", DATABASE_URL=bare)


APPLICATION = """
from django_ray import task

@task(queue_name="othr")
def lost(): ...
"""


def test_a_task_with_a_queue_that_is_not_there_as_the_check_says(tmp_path, monkeypatch):
    (tmp_path / "misspelt").mkdir()
    (tmp_path / "misspelt" / "__init__.py").touch()
    (tmp_path / "misspelt" / "tasks.py").write_text(APPLICATION)
    monkeypatch.syspath_prepend(tmp_path)
    application = AppConfig.create("misspelt")
    application.apps, application.models = apps, {}
    monkeypatch.setattr(apps, "app_configs", {**apps.app_configs, "misspelt": application})
    (error,) = checks.check_tasks()
    assert error.msg.startswith("misspelt.tasks cannot be imported: Queue 'othr' is not valid for backend.")
    assert error.msg.endswith("did you mean other?")


def test_the_other_distribution_in_the_same_environment(tmp_path, monkeypatch):
    assert checks.check_distribution() == []
    folder = tmp_path / "django_ray-0.7.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: django-ray\nVersion: 0.7.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (warning,) = checks.check_distribution()
    assert warning.msg.startswith("The distribution django-ray 0.7.0 is installed, too.")
    assert warning.hint.startswith("pip uninstall django-ray, then ")
