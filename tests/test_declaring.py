"""What the code says of schedules becomes rows; two versions of it side by side."""

import importlib
import json
import logging
import sys
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend

from django_ray import schedule, task, task_options
from django_ray.backends import RayTaskBackend
from django_ray.checks import check_schedules
from django_ray.declaring import _digest, declare, declared, schedulable_tasks
from django_ray.models import RaySchedule
from tests import tasks as ours
from tests.supervisors import Instant, hear, living, notifications

HEAD = """
from datetime import timedelta
from django.tasks import task
from django_ray import schedule, task_options
"""
NIGHTLY = """
@task(queue_name="other", priority=5)
@schedule("0 3 * * *", time_zone="Europe/Berlin")
@task_options(timeout=60)
def nightly(): ...
"""
STACKED = """
@task
@schedule("0 3 * * *", name="first", args=[1], kwargs={"b": 2})
@schedule(every=timedelta(minutes=5), name="second", args=[3, 4], queue_name="other", priority=-3, max_attempts=2,
          missed="all", missed_within=timedelta(hours=2), overlap="allow")
def add(a, b): ...
"""
numbers = count()


@pytest.fixture
def shop(tmp_path, monkeypatch, settings):
    """Write the module tasks of an application of its own, install it, and return the application's name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # It has tasks that may be scheduled, for the pages.
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "tests.clockwork"]

    def _shop(code, head=HEAD, **files):
        name = f"shop_{next(numbers)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "tasks.py").write_text(head + code)
        for other, text in files.items():
            (folder / f"{other}.py").write_text(HEAD + text)
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, name]
        return name

    yield _shop
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[name]


@pytest.fixture
def schedules(settings):
    """Set OPTIONS["SCHEDULES"]."""

    def change(entries):
        default = settings.TASKS["default"]
        settings.TASKS = {
            **settings.TASKS,
            "default": {**default, "OPTIONS": {**default["OPTIONS"], "SCHEDULES": entries}},
        }
        return backend()

    return change


def backend():
    found = task_backends["default"]
    assert isinstance(found, RayTaskBackend)
    return found


def the_only(found):
    assert (found.problems, found.unimported) == ([], [])
    (definition,) = found.definitions
    return definition


def test_a_schedule_says_what_an_enqueue_of_its_task_says(shop):
    name = shop(NIGHTLY)
    found = declared(backend())
    definition = the_only(found)
    assert definition.pop("digest")
    assert definition == {
        "name": "nightly", "callable_path": f"{name}.tasks.nightly", "args": [], "kwargs": {}, "queue_name": "other",
        "priority": 5, "options": {"timeout": 60.0}, "cron": "0 3 * * *", "every": None, "time_zone": "Europe/Berlin",
        "missed": "one", "missed_within": None, "overlap": "skip",
    }  # fmt: skip
    assert [head["callable_path"] for head in found.tasks] == [f"{name}.tasks.nightly"]


def test_schedules_are_stacked_and_each_says_what_is_its_own(shop):
    shop(STACKED)
    found = declared(backend())
    assert found.problems == []
    first, second = found.definitions
    assert (first["name"], first["args"], first["kwargs"], first["cron"]) == ("first", [1], {"b": 2}, "0 3 * * *")
    assert (first["queue_name"], first["priority"], first["options"]) == ("default", 0, None)
    assert (second["queue_name"], second["priority"]) == ("other", -3)
    assert second["options"] == {"retry": {"max_attempts": 2}}
    assert (second["every"], second["missed"], second["missed_within"], second["overlap"]) == (
        300,
        "all",
        7200,
        "allow",
    )
    assert first["time_zone"] == "America/Chicago"  # Django's own default


def test_the_settings_say_it_without_touching_code(schedules):
    definition = the_only(
        declared(
            schedules(
                {"each minute": {"task": "tests.tasks.add", "cron": "* * * * *", "args": [1, 2], "num_cpus": 0.5}}
            )
        )
    )
    assert (definition["name"], definition["callable_path"]) == ("each minute", ours.add.module_path)
    assert (definition["cron"], definition["options"]) == ("* * * * *", {"ray": {"num_cpus": 0.5}})


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("daily", "'x': 'daily' must be a dictionary"),
        ({"cron": "* * * * *"}, "'x': task is None: it must be a path such as"),
        ({"task": "a.b", "cron": "* * * *"}, r"'x': cron is '\* \* \* \*': it has 4 fields"),
        ({"task": "a.b", "crom": "* * * * *"}, "a schedule has no 'crom': did you mean cron"),
        ({"task": "a.b", "schedule": 30.0}, 'say "cron": "..." or "every": timedelta'),
        ({"task": "a.b", "options": {}}, "a schedule has no 'options': say \"queue_name\""),
        ({"task": "a.b", "cron": "@hourly", "time_zone": "Mars"}, "time_zone is 'Mars'"),
        ({"task": "a.b", "cron": "@hourly", "missed": "some"}, "missed is 'some'"),
        ({"task": "a.b", "cron": "@hourly", "args": "abc"}, "args is 'abc': it must be a list"),
        ({"task": "a.b", "cron": "@hourly", "kwargs": [1]}, r"kwargs is \[1\]: it must be a dictionary"),
        ({"task": "a.b", "cron": "@hourly", "num_cpus": -1}, "num_cpus is -1"),
        ({"task": "a.b", "cron": "@hourly", "name": "y"}, "the key is its name"),
    ],
)
def test_settings_that_cannot_be_read_are_refused_with_the_remedy(schedules, entry, sentence):
    with pytest.raises(InvalidTaskBackend, match=sentence):
        schedules({"x": entry})


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"cron": "* * * * * *"}, "@schedule: cron is .*six fields"),
        ({}, "@schedule: say when"),
        ({"cron": "@hourly", "every": timedelta(hours=1)}, "say when"),
        ({"every": 60}, "every is 60: it must be a timedelta"),
        ({"cron": "@hourly", "name": ""}, "name is '': it must be a text"),
        ({"cron": "@hourly", "queue": "x"}, "a schedule has no 'queue': say \"queue_name\""),
        ({"cron": "@hourly", "overlap": "skipp"}, "did you mean skip"),
    ],
)
def test_a_decorator_that_cannot_be_read_is_refused_where_it_stands(said, sentence):
    with pytest.raises(InvalidTask, match=sentence):
        schedule(**said)


def test_a_decorator_in_the_wrong_place_is_refused():
    with pytest.raises(InvalidTask, match=r'@schedule wants to know when: @schedule\("0 3'):
        schedule(ours.add.func)
    with pytest.raises(InvalidTask, match="must stand below @task"):
        schedule("@hourly")(ours.add)


def test_the_checks_say_what_is_wrong_with_a_schedule(shop, schedules):
    name = shop(
        """
@task
@schedule("@hourly")
def lacks_an_argument(a): ...

@task
@schedule("@hourly")
@schedule("@daily")
def twice(): ...

@task
@schedule("@hourly", args=[timedelta(hours=1)])
def no_json(a): ...

@task
@schedule("@hourly", queue_name="nowhere")
def no_queue(): ...
"""
    )
    schedules({"gone": {"task": "nowhere.tasks.gone", "cron": "@hourly"}})
    found = {message.msg for message in check_schedules() if message.id == "django_ray.E006"}
    for part in (
        "lacks_an_argument(a) cannot be called with ()",
        f"'twice' of {name}.tasks.twice: another one, of {name}.tasks.twice, has that name: say name=",
        "args[0] is a timedelta",
        "'nowhere'",
        "its task 'nowhere.tasks.gone' cannot be imported",
    ):
        assert any(part in message for message in found), (part, found)


@pytest.mark.django_db  # Django's checks of generated columns ask the version
def test_a_schedule_where_nobody_looks_is_said(shop):
    name = shop("", jobs=NIGHTLY)
    __import__(f"{name}.jobs")
    (warning,) = [message for message in run_checks() if message.id == "django_ray.W007"]
    assert f"{name}.jobs.nightly has a @schedule, but nobody looks" in warning.msg
    other = shop(f"from {name}.jobs import nightly")
    assert the_only(declared(backend()))["callable_path"] == f"{name}.jobs.nightly"
    assert not [message for message in run_checks() if message.id == "django_ray.W007"]
    assert other


def test_a_supervisor_imports_no_module_that_says_nothing_of_schedules(shop):
    shop("raise SystemExit('a large module')", head="")
    assert declared(backend(), imports=False).unimported == []
    shop(NIGHTLY)
    assert the_only(declared(backend(), imports=False))["name"] == "nightly"


def test_what_may_be_scheduled_in_the_admin_says_so(shop):
    name = shop(NIGHTLY + "\n@task\n@task_options(schedulable=True)\ndef by_hand(): ...\n\n@task\ndef never(): ...\n")
    assert set(schedulable_tasks(backend())) == {f"{name}.tasks.nightly", f"{name}.tasks.by_hand"}
    assert task(schedulable=True)(ours.add.func).schedulable
    with pytest.raises(InvalidTask, match="schedulable is 'yes'"):
        task(schedulable="yes")(ours.add.func)
    with pytest.raises(InvalidTask, match=r"task_options\(\) has no 'schedulabel': did you mean schedulable"):
        task(task_options(schedulabel=True)(lambda: None))


def rows():
    return {row.name: row for row in RaySchedule.objects.all()}


@pytest.mark.django_db(transaction=True)
def test_migrate_declares_and_ends_what_is_not_declared_any_more(shop, settings, caplog):
    apps = settings.INSTALLED_APPS
    shop(STACKED)
    call_command("migrate", verbosity=0)
    before = rows()
    assert set(before) == {"first", "second"}
    assert all(row.is_declared and row.is_active for row in before.values())
    assert before["second"].every == timedelta(minutes=5)
    settings.INSTALLED_APPS = apps
    shop(NIGHTLY)
    call_command("migrate", verbosity=0)
    after = rows()
    assert {name for name, row in after.items() if row.gone_at} == {"first", "second"}
    assert after["nightly"].is_active
    # It comes back with its pause.
    after["first"].pause()
    settings.INSTALLED_APPS = apps
    shop(STACKED)
    call_command("migrate", verbosity=0)
    last = rows()
    assert last["second"].is_active
    assert (last["first"].gone_at, last["first"].is_active) == (None, False)
    assert last["nightly"].gone_at
    # What somebody keeps by hand is the code's no more.
    assert last["nightly"].resume()
    call_command("migrate", verbosity=0)
    assert rows()["nightly"].is_active
    assert not rows()["nightly"].is_declared


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_imported_ends_nothing(shop, settings, caplog):
    shop(NIGHTLY)
    call_command("migrate", verbosity=0)
    settings.INSTALLED_APPS = settings.INSTALLED_APPS[:-1]
    shop("raise SystemExit(3)  # of schedules nobody knows")
    with caplog.at_level(logging.WARNING, "django_ray"):
        call_command("migrate", verbosity=0, skip_checks=True)
    assert rows()["nightly"].is_active
    assert "cannot be imported, and may declare schedules: 3" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_tables_of_an_earlier_day_are_left_alone(shop):
    shop(NIGHTLY)
    try:
        call_command("migrate", "django_ray", "0014", verbosity=0)
    finally:
        call_command("migrate", "django_ray", verbosity=0)
    assert rows()["nightly"].is_active


@pytest.mark.django_db(transaction=True)
def test_what_staff_has_changed_stays_until_the_definition_changes(shop, settings):
    shop(NIGHTLY)
    declare(backend(), "default", counts=True)
    RaySchedule.objects.update(cron="30 4 * * *", missed="skip")
    RaySchedule.objects.pause()
    for _ in range(2):
        declare(backend(), "default", counts=True)
        assert rows()["nightly"].cron == "30 4 * * *"
    settings.INSTALLED_APPS = settings.INSTALLED_APPS[:-1]
    shop(NIGHTLY.replace("0 3", "0 5"))
    declare(backend(), "default", counts=False)
    row = rows()["nightly"]
    assert (row.cron, row.missed, row.is_active) == ("0 5 * * *", "one", False)


@pytest.mark.django_db(transaction=True)
def test_a_schedule_of_staff_follows_its_task_until_somebody_says_otherwise(shop, settings):
    name = shop(NIGHTLY)
    path = f"{name}.tasks.nightly"
    follows = RaySchedule.objects.create(name="follows", callable_path=path, cron="@hourly")
    RaySchedule.objects.create(name="own", callable_path=path, cron="@hourly", queue_name="default", priority=9)
    assert (follows.queue_name, follows.priority, follows.options) == ("other", 5, {"timeout": 60.0})
    definition = declared(backend())
    for timeout in (90, 60, 90):
        definition.tasks = [{**definition.tasks[0], "options": {"timeout": timeout}}]
        with connection.cursor() as cursor:
            cursor.execute("SELECT django_ray_declare('default', %s, %s, false)", definition.parameters)
        assert rows()["follows"].options == {"timeout": 90}, "what was seen before comes back with migrate alone"
    assert (rows()["own"].priority, rows()["own"].options) == (9, None)


UNIQUE = """
@task
@schedule("0 3 * * *", name="first", args=[1])
@schedule("0 3 * * *", name="second", args=[2], limit=2, unique="queued")
@task_options(unique=True, limit=1, limit_by="a", schedulable=True)
def press(a, b=0): ...
"""


def test_a_definition_says_what_admits_its_executions(shop):
    name = shop(UNIQUE)
    first, second = declared(backend()).definitions
    assert (first["admission"]["gate"], first["admission"]["rule"]) == (f"{name}.tasks.press:1", {"limit": 1})
    assert (second["admission"]["gate"], second["admission"]["rule"]) == (f"{name}.tasks.press:2", {"limit": 2})
    assert [one["admission"]["unique"][:2] for one in (first, second)] == ["u:", "q:"]


def test_a_definition_without_has_the_digest_that_it_had(shop):
    """Or each upgrade would undo what staff has changed."""
    shop(NIGHTLY)
    (definition,) = declared(backend()).definitions
    assert "admission" not in definition
    row = {name: value for name, value in definition.items() if name != "digest"}
    row["callable_path"] = "shop.tasks.nightly"
    assert _digest(row) == "3354ff5ebcb02f7510462b6bab4c7df4"


def test_what_admits_its_executions_cannot_be_told_and_so_it_is_refused(shop):
    shop("""
@task
@schedule("@daily", args=[1])
@task_options(unique=True, unique_by=lambda a: {a})
def press(a): ...
""")
    found = declared(backend())
    assert found.definitions == []
    assert "what unique_by of the task 'press' returns is a set" in found.problems[0]


@pytest.mark.django_db(transaction=True)
def test_what_is_declared_becomes_the_row_and_changes_with_it(shop, settings):
    shop(UNIQUE)
    found = declare(backend(), "default", counts=True)
    assert {name: row.admission for name, row in rows().items()} == {
        one["name"]: one["admission"] for one in found.definitions
    }
    settings.INSTALLED_APPS = settings.INSTALLED_APPS[:-1]
    shop(UNIQUE.replace('unique=True, limit=1, limit_by="a", ', ""))
    found = declare(backend(), "default", counts=False)
    assert rows()["first"].admission is None
    assert rows()["second"].admission["rule"] == {"limit": 2}


@pytest.mark.django_db(transaction=True)
def test_a_schedule_of_staff_follows_what_its_task_says_of_admission_with_each_migrate(shop, caplog):
    path = f"{shop(UNIQUE)}.tasks.press"
    module = sys.modules.get(path.rpartition(".")[0]) or importlib.import_module(path.rpartition(".")[0])
    follows = RaySchedule.objects.create(name="follows", callable_path=path, cron="@hourly", args=[7])
    RaySchedule.objects.create(name="own", callable_path=path, cron="@hourly", args=[7], queue_name="other")
    assert follows.admission["gate"] == f"{path}:7"
    module.press = replace(module.press, limit=5)
    for counts in (False, True):
        declare(backend(), "default", counts=counts)
        assert rows()["follows"].admission["rule"] == {"limit": 5 if counts else 1}
    assert rows()["own"].admission["rule"] == {"limit": 1}
    module.press.func._django_ray_options = {"schedulable": True}
    module.press = replace(module.press, unique=None, limit=None, limit_by=None)
    declare(backend(), "default", counts=True)
    assert rows()["follows"].admission is None
    module.press = replace(module.press, unique=True, unique_by=lambda a: 1 / 0)
    with caplog.at_level(logging.WARNING, "django_ray"):
        declare(backend(), "default", counts=True)
    assert "The schedule 'follows' cannot be enqueued as its task says: division by zero" in caplog.text


async def test_old_and_new_code_that_start_again_and_again_change_nothing_back(database, shop, settings, connect):
    """Twenty starts of supervisors of two versions, in a deploy that nobody runs migrate for."""
    session = connect()
    shop(NIGHTLY + "\n@task\n@schedule('@hourly')\ndef retired(): ...\n")
    old = declared(backend()).parameters
    settings.INSTALLED_APPS = settings.INSTALLED_APPS[:-1]
    shop(NIGHTLY.replace("0 3", "0 5") + "\n@task\n@schedule('@hourly')\ndef added(): ...\n")
    new = declared(backend()).parameters
    assert json.loads(old[0]) != json.loads(new[0])

    async def start(definitions):
        async with living(database, Instant(), declared=definitions) as life:
            await life._scheduler.declare()

    def look():
        return session.execute(
            "SELECT name, cron, gone_at, seen, since FROM django_ray_schedule ORDER BY name"
        ).fetchall()

    await start(old)
    await start(new)
    first = look()
    listener = connect()
    channel = hear(listener, "schedules:default")
    assert [(row["name"], row["cron"]) for row in first] == [
        ("added", "@hourly"), ("nightly", "0 5 * * *"), ("retired", "@hourly")
    ]  # fmt: skip
    for number in range(20):
        await start((old, new)[number % 2])
        assert look() == first
    assert channel not in notifications(listener, session)
