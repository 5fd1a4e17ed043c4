"""The verbs of schedules, and what their rows say: no supervisor runs."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.tasks import TaskResultStatus

from django_ray.models import RaySchedule, RayTaskExecution
from django_ray.testing import run_tasks
from tests import tasks
from tests.clockwork.tasks import chime

pytestmark = pytest.mark.django_db(transaction=True)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def make(name="hourly", **said):
    values = {"callable_path": tasks.add.module_path, "args": [1, 2], "time_zone": "UTC", **said}
    if "every" not in values:
        values.setdefault("cron", "0 * * * *")
    row = RaySchedule.objects.create(name=name, **values)
    row.refresh_from_db()
    return row


def test_pause_and_resume_tell_whether_anything_changed():
    row = make()
    assert row.pause()
    assert not row.is_active
    assert not row.pause()
    since = row.since
    assert row.resume()
    assert row.is_active
    assert row.since > since
    assert not row.resume()
    make("other").pause()
    assert RaySchedule.objects.all().pause() == 1
    assert RaySchedule.objects.all().resume() == 2


def test_run_now_enqueues_it_whatever_its_rule_says():
    row = make(cron="nonsense")
    row.pause()
    first, second = row.run_now(), row.run_now()
    assert first.status == TaskResultStatus.READY
    assert (first.args, first.task.module_path) == ([1, 2], tasks.add.module_path)
    assert first.id != second.id
    assert timedelta(0) <= first.tick - row.since < timedelta(minutes=1)
    assert [result.args for result in RaySchedule.objects.all().run_now()] == [[1, 2]]
    assert tasks.add.enqueue(1, 2).tick is None


def test_backfill_enqueues_each_tick_once():
    row = make(time_zone="Europe/Berlin")
    assert row.backfill(NOON, NOON + 3 * HOUR) == 3
    assert row.backfill(NOON - HOUR, NOON + 4 * HOUR) == 2
    assert row.backfill(NOON - HOUR, NOON + 4 * HOUR) == 0
    ticks = RayTaskExecution.objects.filter(schedule=row).order_by("task_id").values_list("tick", flat=True)
    assert sorted(ticks) == [NOON + HOUR * number for number in range(-1, 4)]
    assert list(ticks)[:3] == [NOON, NOON + HOUR, NOON + 2 * HOUR]
    row.refresh_from_db()
    assert (row.skipped, row.lost, row.last_at) == (0, 0, None)


def test_ticks_of_a_unique_task_are_left_out_as_long_as_an_equal_one_is_unfinished():
    row = make(callable_path="tests.clockwork.tasks.chime", args=[3])
    assert row.admission["unique"].startswith("u:")
    first = row.run_now()
    again = row.run_now()
    assert (first.is_duplicate, again.is_duplicate, again.id) == (False, True, first.id)
    assert row.backfill(NOON, NOON + 3 * HOUR) == 0
    assert chime.enqueue(3, loud=True).id == first.id
    assert chime.enqueue(4).id != first.id
    run_tasks()
    assert row.backfill(NOON, NOON + 3 * HOUR) == 1
    assert {execution.gate for execution in RayTaskExecution.objects.filter(schedule=row)} == {
        "tests.clockwork.tasks.chime:3"
    }


def test_whoever_saves_one_says_what_admits_its_executions():
    row = make(callable_path="tests.clockwork.tasks.chime", args=[3], queue_name="other")
    first = row.admission
    row.kwargs = {"loud": True}
    row.save()
    assert row.admission == first  # the hour alone counts
    row.args = [4]
    row.save(update_fields=["args"])
    row.refresh_from_db()
    assert row.admission["gate"] == "tests.clockwork.tasks.chime:4"
    row.args = [5]
    row.save(update_fields=["missed"])
    row.refresh_from_db()
    assert row.admission["gate"] == "tests.clockwork.tasks.chime:4"
    with pytest.raises(TypeError, match="cannot be called with"):
        make("unfit", callable_path="tests.clockwork.tasks.chime", args=[])
    row.callable_path = "a.task.that.is.not.here"
    row.save()
    assert row.admission["gate"] == "tests.clockwork.tasks.chime:4"


def test_a_queue_says_what_its_tasks_do_not(settings):
    default = settings.TASKS["default"]
    options = {**default["OPTIONS"], "QUEUE_DEFAULTS": {"other": {"limit": 1, "expires": 60}}}
    settings.TASKS = {**settings.TASKS, "default": {**default, "OPTIONS": options}}
    assert make().admission is None
    row = make("other", queue_name="other")
    assert row.admission == {"gate": "queue other", "rule": {"limit": 1}, "expires": "60.000000 seconds"}
    row.run_now()
    (execution,) = RayTaskExecution.objects.all()
    assert execution.expires_at - execution.enqueued_at == timedelta(minutes=1)


def test_ticks_are_enqueued_in_the_order_of_their_keys():
    """So that they never wait in a ring with who enqueues the same ones."""
    rows = [make(f"at {hour}", callable_path="tests.clockwork.tasks.chime", args=[hour]) for hour in range(20)]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM django_ray_enqueue_ticks(%s::int[], %s::timestamptz[])",
            [[row.pk for row in rows], [NOON] * 20],
        )
    keys = list(RayTaskExecution.objects.order_by("task_id").values_list("unique_key", flat=True))
    assert len(keys) == 20
    assert keys == sorted(keys)


def test_a_naive_span_is_one_of_the_current_time_zone(settings):
    settings.TIME_ZONE = "America/New_York"
    row = make(cron="0 12 * * *", time_zone="America/New_York")
    assert row.backfill(datetime(2026, 1, 1), datetime(2026, 1, 3)) == 2  # noqa: DTZ001
    assert RayTaskExecution.objects.filter(tick=datetime(2026, 1, 1, 17, tzinfo=UTC)).exists()


def test_a_backfill_has_a_bound():
    row = make(cron="* * * * *")
    with pytest.raises(ValueError, match=r"due more than 10,000 times from 2026-06-01 .*ask for less"):
        row.backfill(NOON, NOON + timedelta(days=8))
    with pytest.raises(ValueError, match="six fields"):
        make("wrong", cron="* * * * * *").backfill(NOON, NOON + HOUR)
    assert not RayTaskExecution.objects.exists()


def test_the_next_times_are_in_its_time_zone():
    row = make(cron="30 2 * * *", time_zone="Europe/Berlin")
    found = row.next_times(3, after=datetime(2026, 3, 28, tzinfo=UTC))
    assert [f"{time:%d %H:%M %z}" for time in found] == ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]
    assert len(row.next_times()) == 5
    assert row.next_times(1)[0] > datetime.now(UTC)


@pytest.mark.parametrize(
    ("said", "field", "sentence"),
    [
        ({"cron": "* * * * * *"}, "cron", "six fields"),
        ({"cron": "", "every": None}, "cron", "say when"),
        ({"cron": None, "every": timedelta(0)}, "every", "at least a second"),
        ({"time_zone": "Mars/Base"}, "time_zone", "Mars/Base"),
        ({"missed_within": timedelta(days=-1)}, "missed_within", "above 0"),
    ],
)
def test_a_form_says_what_is_wrong_beside_the_field(said, field, sentence):
    row = make()
    for name, value in said.items():
        setattr(row, name, value)
    with pytest.raises(ValidationError) as error:
        row.full_clean()
    assert sentence in error.value.message_dict[field][0]


def test_a_new_row_follows_its_task_and_one_of_an_unknown_task_is_as_it_is():
    row = make("limited", callable_path=tasks.too_long.module_path)
    assert row.options == {"retry": {"max_attempts": 1}, "timeout": 1.0}
    assert make("unknown", callable_path="nowhere.tasks.x").options is None
    assert make("no task", callable_path="tests.tasks.FAST").options is None


@pytest.mark.parametrize(
    "impossible",
    [
        {"cron": None},
        {"cron": "@daily", "every": "1 hour"},
        {"cron": "@daily", "missed": "some"},
        {"cron": "@daily", "overlap": "both"},
        {"cron": "@daily", "priority": 101},
        {"cron": "@daily", "args": "{}"},
        {"cron": "@daily", "kwargs": "[]"},
        {"cron": "@daily", "seen": "1"},
    ],
)
def test_an_impossible_row_cannot_be_stored(impossible):
    said = {"name": "x", "callable_path": "x.y", **impossible}
    with connection.cursor() as cursor, pytest.raises(IntegrityError):
        cursor.execute(
            f"INSERT INTO django_ray_schedule ({', '.join(said)}) VALUES ({', '.join(['%s'] * len(said))})",
            list(said.values()),
        )


def test_a_name_is_of_one_schedule_of_a_backend():
    make()
    make(backend="any")
    with pytest.raises(IntegrityError), transaction.atomic():
        make()


def test_a_page_can_read_whatever_stands_in_a_row():
    make()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_ray_schedule SET cron = NULL, every = '170000000 years', missed_within = '-170000000 years',"
            " args = ('[' || repeat('9', 5000) || ']')::jsonb"
        )
        cursor.execute("UPDATE django_ray_schedule SET last_at = 'infinity', next_at = '20000-01-01'")
        row = RaySchedule.objects.get()
        assert (row.every, row.missed_within) == (timedelta(days=36500), -timedelta(days=36500))
        assert row.next_at.year == 9999
        assert row.args
        cursor.execute("UPDATE django_ray_schedule SET every = '1 day', missed_within = NULL")
    row = RaySchedule.objects.get()
    assert (row.every, row.missed_within) == (timedelta(days=1), None)


def test_a_result_has_its_tick_in_the_time_zone_of_its_schedule():
    row = make(cron="30 0 * * *", time_zone="Europe/Berlin")
    row.backfill(NOON, NOON + timedelta(days=1))
    execution = RayTaskExecution.objects.get()
    result = tasks.add.get_result(str(execution.task_id))
    assert result.tick == execution.tick
    assert result.tick.isoformat() == "2026-06-02T00:30:00+02:00"
    assert result.tick.tzinfo == ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("carrier", [1, [], {"schedule": 1}, {"schedule": {}}, {"schedule": {"tick": "x", "zone": 1}},
                                     {"schedule": {"tick": "20000-01-01T00:00:00Z", "zone": "UTC"}}])  # fmt: skip
def test_a_tick_that_cannot_be_read_is_none(carrier):
    id_ = tasks.add.enqueue(1, 2).id
    RayTaskExecution.objects.update(carrier=carrier)
    assert tasks.add.get_result(id_).tick is None


def test_what_is_enqueued_again_is_no_tick():
    make().backfill(NOON, NOON + HOUR)
    assert RayTaskExecution.objects.enqueue_again() == 1
    again = RayTaskExecution.objects.get(schedule=None)
    assert (again.tick, again.carrier) == (None, None)
