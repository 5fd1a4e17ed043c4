"""fire_schedules(): schedules in the tests of a project, and what a body sees of its tick."""

import sys
from datetime import UTC, datetime

import pytest
from django.core.management import call_command
from django.tasks import TaskResultStatus, task_backends

from django_ray.models import RaySchedule, RayTaskExecution
from django_ray.testing import fire_schedules, run_tasks

CODE = """
from django.tasks import task
from django_ray import current, schedule

SEEN = []

@task(takes_context=True)
@schedule("0 3 * * *", time_zone="Europe/Berlin", args=["Ada"])
@schedule("@hourly", name="each hour", args=["Eve"], overlap="allow")
def report(context, who):
    SEEN.append((who, context.tick))
    return context.tick and [context.tick.isoformat(), current().tick == context.tick]
"""
AT = datetime(2026, 6, 1, 1, 0, tzinfo=UTC)


@pytest.fixture
def report(tmp_path, monkeypatch, settings):
    folder = tmp_path / "shop_fired"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "tasks.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "shop_fired"]

    def _import():
        from shop_fired.tasks import report

        return report

    yield _import
    for name in [name for name in sys.modules if name.startswith("shop_fired")]:
        del sys.modules[name]


@pytest.mark.django_db(transaction=True)
def test_what_is_due_at_a_moment_is_enqueued_and_its_body_sees_when_it_was(report):
    call_command("migrate", verbosity=0)
    nightly, hourly = sorted(fire_schedules(at=AT), key=lambda result: result.args != ["Ada"])
    assert nightly.status == TaskResultStatus.READY
    assert nightly.tick == hourly.tick == AT
    done = {result.args[0]: result.return_value for result in run_tasks()}
    assert done == {"Ada": ["2026-06-01T03:00:00+02:00", True], "Eve": ["2026-05-31T20:00:00-05:00", True]}
    assert [result.args for result in fire_schedules(at=AT.replace(hour=2))] == [["Eve"]]
    assert fire_schedules(at=AT.replace(minute=1)) == []


@pytest.mark.django_db(transaction=True)
def test_it_has_the_rules_of_a_supervisor(report):
    call_command("migrate", verbosity=0)
    name = "report"
    assert len(fire_schedules(at=AT, name=name)) == 1
    assert fire_schedules(at=AT, name=name) == [], "once"
    assert fire_schedules(at=AT.replace(day=2), name=name) == [], "the run before is unfinished"
    assert RaySchedule.objects.get(name=name).skipped == 2
    assert len(fire_schedules(at=AT.replace(hour=2), name="each hour")) == 1
    assert len(fire_schedules(at=AT.replace(hour=3), name="each hour")) == 1
    run_tasks()
    RaySchedule.objects.get(name=name).pause()
    assert fire_schedules(at=AT.replace(day=3), name=name) == []
    with pytest.raises(LookupError, match="no schedule 'nightly'"):
        fire_schedules(at=AT, name="nightly")


@pytest.mark.django_db
def test_a_body_that_no_schedule_enqueued_has_no_tick(report):
    result = report().enqueue("Ada")
    run_tasks()
    result.refresh()
    assert (result.return_value, result.tick) == (None, None)


@pytest.mark.parametrize("double", ["ImmediateBackend", "DummyBackend"])
def test_a_double_fires_what_the_code_declares(report, settings, double):
    settings.TASKS = {"default": {"BACKEND": f"django_ray.testing.{double}"}}
    (result,) = fire_schedules(at=AT, name="report")
    assert result.tick == AT
    assert result.args == ["Ada"]
    if double == "DummyBackend":
        assert [kept.args for kept in task_backends["default"].results] == [["Ada"]]
    else:
        assert result.return_value == ["2026-06-01T03:00:00+02:00", True]
    assert len(fire_schedules(at=AT)) == 2
    assert fire_schedules(at=AT.replace(minute=5)) == []
    with pytest.raises(LookupError, match="no schedule 'x'"):
        fire_schedules(at=AT, name="x")


@pytest.mark.django_db(transaction=True)
def test_a_naive_moment_is_one_of_the_current_time_zone(report, settings):
    settings.TIME_ZONE = "Europe/Berlin"
    call_command("migrate", verbosity=0)
    (result,) = fire_schedules(at=datetime(2026, 6, 1, 3), name="report")  # noqa: DTZ001
    assert result.tick == AT
    assert RayTaskExecution.objects.get().tick == AT


UNIQUE = """

from django_ray import task as our_task

@our_task(unique=True, limit=1)
@schedule("@hourly")
def count(): ...
"""


@pytest.mark.django_db(transaction=True)
def test_a_tick_is_left_out_while_an_equal_execution_is_unfinished(report, tmp_path):
    (tmp_path / "shop_fired" / "tasks.py").write_text(CODE + UNIQUE)
    call_command("migrate", verbosity=0)
    report()
    count = sys.modules["shop_fired.tasks"].count
    ours = count.enqueue()
    assert fire_schedules(at=AT, name="count") == []
    assert [result.id for result in run_tasks()] == [ours.id]
    (fired,) = fire_schedules(at=AT.replace(hour=2), name="count")
    assert count.enqueue().id == fired.id
    assert RayTaskExecution.objects.get(pk=fired.id).gate == "shop_fired.tasks.count"
