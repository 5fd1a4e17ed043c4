"""manage.py django_ray_beat: what Celery's beat was told, with Celery's own objects and the tables of its peer."""

import io
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from celery.schedules import crontab, schedule
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from django_ray.beat import Said, Unsaid, entry_of
from django_ray.crontab import cron_of
from django_ray.options import Options
from django_ray.rules import Cron, ticks

TABLES = Path(__file__).parent / "beat" / "django_celery_beat.sql"
FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
UTC_ZONE = ZoneInfo("UTC")


def printed(*arguments):
    """Return the text, and SCHEDULES as Python reads it."""
    output = io.StringIO()
    call_command("django_ray_beat", *arguments, stdout=output)
    names = {}
    exec(output.getvalue(), names)  # it is Python, whatever stood there
    return output.getvalue(), names["SCHEDULES"]


def is_due(entry, moment):
    """Tell whether Celery would run it in this minute: its day must be in all three of its sets."""
    return (
        moment.minute in entry.minute
        and moment.hour in entry.hour
        and moment.day in entry.day_of_month
        and moment.month in entry.month_of_year
        and moment.isoweekday() % 7 in entry.day_of_week
    )


def numbers(least, most):
    number = st.integers(least, most)
    pair = st.tuples(number, number)
    return st.one_of(
        number.map(str),
        pair.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.tuples(pair, st.integers(1, 9)).map(lambda both: f"{both[0][0]}-{both[0][1]}/{both[1]}"),
        st.integers(1, most).map(lambda step: f"*/{step}"),
        st.just("*"),
    )


def fields(least, most, *names):
    written = st.lists(st.one_of(numbers(least, most), *map(st.just, names)), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), written, st.integers(least, most), st.sets(st.integers(least, most), min_size=1))


CRONTABS = st.fixed_dictionaries(
    {
        "minute": fields(0, 59),
        "hour": fields(0, 23),
        "day_of_month": st.one_of(fields(1, 28), st.sampled_from(["1-7", "8-14,22-28", "29-31"])),
        "month_of_year": fields(1, 12, "jan", "december", "mar-may"),
        "day_of_week": fields(0, 6, "mon", "friday", "fri-mon", "sat,sunday"),
    }
)


@hypothesis.settings(deadline=None)
@given(CRONTABS)
def test_a_crontab_is_due_when_celerys_own_is(said):
    """Of what can be said at all, the next ticks are those minutes which Celery's sets hold."""
    entry = crontab(**said)
    try:
        expression = cron_of({name: getattr(entry, f"_orig_{name}") for name in FIELDS})
    except ValueError as error:
        assert "Celery wants both" in str(error)
        return
    rule = Cron.read(expression, UTC_ZONE)
    start = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    for tick in islice(ticks(rule, start), 20):
        assert is_due(entry, tick), (expression, tick)
    first = next(ticks(rule, start))
    moment = start + timedelta(minutes=1)
    for _ in range(3000):
        if moment >= first:
            break
        assert not is_due(entry, moment), (expression, moment)
        moment += timedelta(minutes=1)


@pytest.mark.parametrize(
    ("said", "expression"),
    [
        ({"minute": 0, "hour": 3}, "0 3 * * *"),
        ({"minute": "*/15", "hour": "8-17", "day_of_week": "mon-fri"}, "*/15 8-17 * * mon-fri"),
        ({"minute": "0", "day_of_week": "Monday,friday"}, "0 * * * 1,5"),
        ({"minute": 30, "hour": "22-2"}, "30 0,1,2,22,23 * * *"),
        ({"minute": [5, 1], "hour": {4}}, "1,5 4 * * *"),
        ({"minute": 0, "hour": 0, "day_of_month": "*/10", "day_of_week": 1}, "0 0 */10 * 1"),
        ({"minute": 0, "hour": 0, "day_of_month": "1-7,15-21", "day_of_week": "mon"}, "0 0 * * 1#1,1#3"),
        ({"minute": 0, "hour": 0, "day_of_month": "29-31", "day_of_week": "mon,fri"}, "0 0 * * 1#5,5#5"),
    ],
)
def test_a_crontab_is_written_as_it_was_where_cron_reads_it_so(said, expression):
    found = entry_of("a", "tests.tasks.add", crontab(**said))
    assert isinstance(found, Said)
    assert found.values["cron"] == expression


def test_without_the_text_the_numbers_say_it():
    """As an object of another version, or of another package, may have it."""
    numbers = SimpleNamespace(
        minute={0, 30}, hour={3}, day_of_month=set(range(1, 32)), month_of_year=set(range(1, 13)),
        day_of_week=set(range(7)),
    )  # fmt: skip
    assert entry_of("a", "tests.tasks.add", numbers).values["cron"] == "0,30 3 * * *"


class Nothing:
    pass


@pytest.mark.parametrize(
    ("task", "when", "reason"),
    [
        ("a.b", crontab(day_of_month=1, day_of_week=1), "Celery wants both of a day, cron either"),
        ("a.b", SimpleNamespace(event="sunrise", lat=52.5, lon=13.4), "it depends on the sun"),
        ("a.b", SimpleNamespace(clocked_time=datetime(2030, 1, 1, tzinfo=UTC)), "it is due once"),
        ("a.b", schedule(timedelta(milliseconds=100)), "at least a second"),
        ("a.b", 0, "at least a second"),
        ("a.b", float("nan"), "its schedule is nan"),
        ("a.b", "every day", "its schedule is 'every day'"),
        ("a.b", None, "its schedule is None"),
        ("a.b", Nothing(), "a Nothing, which is not known here"),
        ("remind", 60, "called 'remind', which is no path"),
        (None, 60, "called None, which is no path"),
        ("celery.backend_cleanup", 60, "PRUNE_AFTER"),
    ],
)
def test_what_cannot_be_said_has_a_reason(task, when, reason):
    found = entry_of("a", task, when)
    assert isinstance(found, Unsaid)
    assert reason in found.reason


def test_arguments_that_json_cannot_hold_are_named():
    found = entry_of("a", "a.b", 60, args=(timedelta(1),))
    assert isinstance(found, Unsaid)
    assert "pass .total_seconds()" in found.reason


def test_options_become_what_is_like_them_here_or_are_named():
    options = {"queue": "other", "time_limit": 60, "soft_time_limit": 50, "expires": 30, "priority": 3, "zone": 1}
    found = entry_of("a", "a.b", 60, options=options)
    assert found.values == {"task": "a.b", "every": timedelta(seconds=60), "queue_name": "other", "timeout": 50.0}
    assert [note.partition(" ")[0] for note in found.notes] == ["expires=30", "priority=3", "zone=1"]


def test_the_schedule_of_an_app_is_printed_as_settings_that_can_be_read(db):
    text, schedules = printed("tests.beat.app.app.conf.beat_schedule")
    assert schedules == {
        "nightly": {"task": "tests.tasks.add", "cron": "0 3 * * *", "args": [1, 2]},
        "often": {"task": "tests.tasks.add", "every": timedelta(seconds=30)},
        "hourly": {"task": "tests.tasks.add", "every": timedelta(hours=1), "queue_name": "other"},
    }
    assert "timedelta(hours=1)" in text
    assert Options.parse("default", {"SCHEDULES": schedules}).schedules.keys() == schedules.keys()


def test_the_setting_is_read_where_no_path_is_given(db, settings):
    settings.CELERY_BEAT_SCHEDULE = {
        "a\nb": {"task": "tests.tasks.add", "schedule": crontab(hour=3)},
        "old": {"task": "shop.tasks.old", "schedule": crontab(hour=4)},
        "bad": 7,
    }
    settings.CELERY_TIMEZONE = "Europe/Berlin"
    text, schedules = printed()
    assert schedules["a\nb"] == {"task": "tests.tasks.add", "cron": "* 3 * * *", "time_zone": "Europe/Berlin"}
    assert "# shop.tasks.old is no @task yet." in text
    assert "# 'bad': it is 7, and no dictionary." in text


@pytest.fixture
def tables(db):
    """Of django-celery-beat, with rows that its own models wrote."""
    with connection.cursor() as cursor:
        cursor.execute(TABLES.read_text())


def test_the_rows_of_django_celery_beat_are_printed(tables, settings):
    settings.TIME_ZONE = "Europe/Berlin"
    text, schedules = printed()
    assert schedules == {
        "nightly": {"task": "tests.tasks.add", "cron": "0 3 * * *", "args": [1, 2]},
        "office hours": {
            "task": "tests.tasks.add", "cron": "*/15 8-17 * * mon-fri", "kwargs": {"a": 1, "b": 2},
            "queue_name": "other", "time_zone": "America/New_York",
        },
        "over midnight": {"task": "tests.tasks.add", "cron": "30 0,1,2,22,23 * * 5,6", "time_zone": "UTC"},
        "every five minutes": {"task": "tests.tasks.add", "every": timedelta(minutes=5)},
        "not moved yet": {"task": "library.tasks.remind", "every": timedelta(hours=2)},
    }  # fmt: skip
    for line in (
        "# priority=3 is left out",
        "# expire_seconds=60 is left out",
        "# start_time=",
        "# library.tasks.remind is no @task yet.",
        "# 'sunrise': it depends on the sun",
        "# 'new year': it is due once",
        "# 'once': it is due once",
        "# 'switched off': it is disabled.",
        "# 'too often': it is due every 100000 microseconds",
        "# 'first and monday': day_of_month='1' and day_of_week='1'",
        "# 'celery.backend_cleanup': it deletes results of Celery. Here PRUNE_AFTER does that.",
        "# 'own name': its task is called 'remind'",
    ):
        assert line in text
    assert len(schedules) + text.partition("# What is not among them:")[2].count("\n# ") == 13


def test_a_row_that_cannot_be_read_is_named(tables):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_celery_beat_periodictask SET args = '[1' WHERE name = 'nightly'")
        cursor.execute("UPDATE django_celery_beat_crontabschedule SET hour = '25' WHERE id = 2")
    text, schedules = printed()
    assert not {"nightly", "office hours"} & schedules.keys()
    assert "# 'office hours': hour is '25': it must be 0 to 23." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "The settings have no CELERY_BEAT_SCHEDULE, and there is no table"),
        (["nowhere.app.conf"], "there is no module nowhere"),
        (["tests.beat.app.app.conf.beat_scedule"], "cannot be imported"),
        (["tests.tasks.add"], "is a RayTask, and no dictionary"),
        (["tests.beat.app.app.conf.beat_schedule", "--time-zone", "Europe/Berln"], "did you mean 'Europe/Berlin'?"),
        (["--database", "defalt"], "did you mean default?"),
    ],
)
def test_what_cannot_be_meant_is_refused(db, arguments, message):
    with pytest.raises(CommandError, match=message.replace("?", r"\?")):
        printed(*arguments)
