"""When a schedule is due, against a walk over all minutes; and what becomes of missed ticks."""

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from time import perf_counter
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_ray.rules import EPOCH, Every, Policy, due, latest, overlap_of, read_policy, read_rule, ticks

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# By an hour and by half of one, at night, at midnight, by a whole day, and never.
ZONES = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "America/Asuncion", "Africa/Cairo",
    "America/Sao_Paulo", "Asia/Gaza", "Africa/Casablanca", "Pacific/Apia", "Asia/Kathmandu", "UTC",
)  # fmt: skip
NOON_OF_2024 = EPOCH.replace(year=2024, tzinfo=None)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@cache
def changes(zone):
    """The hours in which the clock is set, from 2000 on."""
    hours = [datetime(2000, 1, 1, tzinfo=UTC) + HOUR * number for number in range(0, 24 * 365 * 30, 12)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    return [hours[i] for i in range(1, len(hours)) if offsets[i] != offsets[i - 1]] or [
        datetime(2020, 3, 1, tzinfo=UTC)
    ]


@st.composite
def fields(draw, place):
    """A field of cron, and what it means: read here by nothing that the code uses."""
    least, most = RANGES[place]
    kind = draw(st.sampled_from(["*", "*", "*/", "one", "one", "list", "range", "range/"]))
    numbers = st.integers(least, most)
    match kind:
        case "*":
            return "*", set(range(least, most + 1))
        case "*/":
            step = draw(st.integers(1, 30))
            # The seventh day of the week is the first one.
            numbers = range(least, most + 1 + (place == 4), step)
            return f"*/{step}", {number % 7 if place == 4 else number for number in numbers}
        case "one":
            number = draw(numbers)
            return str(number), {number}
        case "list":
            chosen = draw(st.lists(numbers, min_size=1, max_size=4))
            return ",".join(map(str, chosen)), set(chosen)
        case _:
            first, last = sorted((draw(numbers), draw(numbers)))
            step = draw(st.integers(1, 5)) if kind == "range/" and first < last else 1
            return f"{first}-{last}" + (f"/{step}" if step > 1 else ""), set(range(first, last + 1, step))


def matches(wall, said):
    (_, minutes), (_, hours), (days, of_month), (_, months), (weekdays, of_week) = said
    if wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
        return False
    is_day, is_weekday = wall.day in of_month, wall.isoweekday() % 7 in of_week
    both = days.startswith("*") or weekdays.startswith("*")
    return (is_day and is_weekday) if both else (is_day or is_weekday)


def walk(said, zone, start, end):
    """The ticks after start and until end, by looking at the clock on the wall in each minute."""
    is_fixed = not any(said[place][0].startswith("*") for place in (0, 1))
    moment = start - 2 * DAY
    highest = moment.astimezone(zone).replace(tzinfo=None)
    found = []
    while (moment := moment + MINUTE) <= end:
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if is_fixed:
            # What the wall has not shown yet and should have by now.
            new = [highest + MINUTE * n for n in range(1, int((wall - highest) / MINUTE) + 1)]
            highest = max(highest, wall)
            is_due = any(matches(time, said) for time in new)
        else:
            is_due = matches(wall, said)
        if is_due and moment > start:
            found.append(moment)
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(*(fields(place) for place in range(5))),
    st.sampled_from(ZONES).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(changes(name)))),
    st.integers(-2 * 24 * 60, 60),
    st.integers(1, 3 * 24 * 60),
)
def test_ticks_are_those_of_a_walk_over_all_minutes(said, place, minutes_before, minutes):
    name, change = place
    expression = " ".join(text for text, _ in said)
    start = change + MINUTE * minutes_before
    end = start + MINUTE * minutes
    try:
        rule = read_rule(expression, None, name)
    except ValueError:
        assert not any(matches(NOON_OF_2024 + MINUTE * n, said) for n in range(4 * 366 * 1440))
        return
    found = list(ticks(rule, start, end))
    assert found == walk(said, ZoneInfo(name), start, end)
    assert found == sorted(set(found))
    # From wherever one begins to look, and from the other end.
    for begin in (start + MINUTE * (minutes // 3), start + MINUTE * (minutes // 2) + timedelta(seconds=31)):
        assert list(ticks(rule, begin, end)) == [tick for tick in found if tick > begin]
    assert latest(rule, start, end, 7) == found[-7:]


def at(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("cron", "zone", "day", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00"]),
        ("0,30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["02:30"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-29", []),
        ("*/30 2 * * *", "Europe/Berlin", "2026-10-25", ["02:00", "02:30", "02:00", "02:30"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-03-29", [f"{hour:02}:00" for hour in range(0, 24, 2) if hour != 2]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04", ["02:30"]),
        ("*/20 3 * * *", "Australia/Lord_Howe", "2026-10-04", ["03:00", "03:20", "03:40"]),
        ("0 0 * * *", "America/Havana", "2026-03-08", ["01:00"]),
        ("*/30 0 * * *", "America/Havana", "2026-03-08", []),
        ("0 0 * * *", "America/Asuncion", "2023-10-01", ["01:00"]),
        ("30 0 * * *", "Africa/Cairo", "2026-04-24", ["01:00"]),
    ],
)
def test_two_nights_a_year(cron, zone, day, expected):
    midnight = at(day, zone).astimezone(UTC)
    rule = read_rule(cron, None, zone)
    found = [tick.astimezone(ZoneInfo(zone)) for tick in ticks(rule, midnight - HOUR, midnight + DAY * 2)]
    assert [f"{tick:%H:%M}" for tick in found if f"{tick:%Y-%m-%d}" == day] == expected


def test_names_of_rules_are_known():
    start = at("2026-01-01T12:00")
    for name, first in (
        ("@hourly", "2026-01-01T13:00"), ("@daily", "2026-01-02"), ("@midnight", "2026-01-02"),
        ("@weekly", "2026-01-04"), ("@monthly", "2026-02-01"), ("@YEARLY", "2027-01-01"), ("@annually", "2027-01-01"),
        ("0 3 * jan-feb mon", "2026-01-05T03:00"), ("0 0 L * *", "2026-01-31"), ("0 0 * * 7", "2026-01-04"),
    ):  # fmt: skip
        assert next(ticks(read_rule(name, None, "UTC"), start)) == at(first)


def test_a_period_counts_from_the_epoch_and_not_from_a_start():
    rule = read_rule(None, timedelta(minutes=5), "UTC")
    expected = [at("2026-01-01T12:05"), at("2026-01-01T12:10")]
    assert list(islice(ticks(rule, at("2026-01-01T12:00")), 2)) == expected
    assert list(islice(ticks(rule, at("2026-01-01T12:04:59.999")), 2)) == expected
    # 24 hours are not a day: in Berlin that is another hour in summer.
    found = list(islice(ticks(read_rule(None, DAY, "Europe/Berlin"), at("2026-03-28T12:00")), 2))
    assert [f"{tick.astimezone(ZoneInfo('Europe/Berlin')):%H}" for tick in found] == ["01", "02"]


@given(
    st.timedeltas(timedelta(seconds=1), timedelta(days=400)),
    st.timedeltas(timedelta(0), timedelta(days=40_000)),
    st.timedeltas(timedelta(0), timedelta(days=1)),
)
def test_ticks_of_a_period_are_a_period_apart(period, start, span):
    rule, start = Every(period), EPOCH + start
    found = list(islice(ticks(rule, start, start + span), 50))
    assert all((tick - EPOCH) % period == timedelta(0) for tick in found)
    assert all(later - earlier == period for earlier, later in pairwise(found))
    assert not found or start < found[0] <= start + period
    last = latest(rule, start, start + span, 5)
    assert last == list(ticks(rule, max(start, start + span - period * 5), start + span))[-5:]


@pytest.mark.parametrize(
    ("cron", "every", "zone", "sentence"),
    [
        (None, None, "UTC", "say when"),
        ("0 3 * * *", DAY, "UTC", "say when"),
        ("0 3 * * * *", None, "UTC", "six fields.*every=timedelta"),
        ("0 3 * *", None, "UTC", "4 fields"),
        ("", None, "UTC", "five fields"),
        (7, None, "UTC", "cron is 7: it must be an expression"),
        ("61 * * * *", None, "UTC", "'61' is no minute: it must be 0 to 59"),
        ("* * * * fry", None, "UTC", "'FRY' is no day-of-week"),
        ("@dayly", None, "UTC", "did you mean @daily"),
        ("@reboot", None, "UTC", "enqueue it where your project starts"),
        ("0 0 30 2 *", None, "UTC", "'30' is no day-of-month"),
        ("0 0 29 2 1#5,2#5 ", None, "Mars/Base", "time_zone is 'Mars/Base': it must be a name such as"),
        ("0 3 * * *", None, "Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("0 3 * * *", None, "../../etc/passwd", "time_zone is"),
        ("0 3 * * *", None, "Europe\0", "time_zone is"),
        ("0 3 * * *", None, "x" * 10_000, "time_zone is"),
        ("0 3 * * *", None, None, "time_zone is None"),
        ("1," * 10_000 + "1 * * * *", None, "UTC", "at most 255 characters"),
        (None, timedelta(0), "UTC", "every is datetime.timedelta.0.: it must be a timedelta of at least a second"),
        (None, -DAY, "UTC", "at least a second"),
        (None, timedelta.max, "UTC", "100 years"),
        (None, 300, "UTC", "every is 300: it must be a timedelta"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(cron, every, zone, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_rule(cron, every, zone)


def test_policies_are_read():
    assert read_policy("one", None) == Policy("one", DAY)
    assert overlap_of("allow") == "allow"
    for said, sentence in ((("once", None), "missed is 'once'.*did you mean one"), ((1, None), "missed is 1"),
                           (("one", timedelta(0)), "missed_within is"), (("one", DAY * 400), "at most 366 days"),
                           (("one", 5), "missed_within is 5: it must be a timedelta")):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            read_policy(*said)
    with pytest.raises(ValueError, match="overlap is 'skipp': did you mean skip"):
        overlap_of("skipp")


HOURLY = read_rule("0 * * * *", None, "UTC")
NOON = at("2026-06-01T12:00")


def decided(missed, since, now, rule=HOURLY, within=None):
    found = due(rule, read_policy(missed, within), since=since, now=now)
    return [tick.hour for tick in found.ticks], found.missed


def test_a_tick_on_time_is_fired_whatever_the_policy_says():
    for missed in ("one", "skip", "all"):
        assert decided(missed, NOON - HOUR, NOON + timedelta(seconds=1)) == ([12], 0)
        assert decided(missed, NOON, NOON + timedelta(seconds=1)) == ([], 0)


def test_missed_ticks_are_made_up_for_as_the_policy_says():
    now = NOON + timedelta(minutes=30)
    assert decided("one", NOON - 3 * HOUR, now) == ([12], 2)
    assert decided("skip", NOON - 3 * HOUR, now) == ([], 3)
    assert decided("all", NOON - 3 * HOUR, now) == ([10, 11, 12], 0)
    # The one that comes on time is not missed.
    assert decided("skip", NOON - 3 * HOUR, NOON) == ([12], 2)


def test_what_is_older_than_missed_within_is_not_made_up_for():
    now = NOON + timedelta(minutes=30)
    assert decided("one", NOON - 3 * HOUR, now, within=timedelta(minutes=29)) == ([], 3)
    assert decided("all", NOON - 3 * HOUR, now, within=timedelta(minutes=90)) == ([11, 12], 1)
    weekly = read_rule("0 12 * * MON", None, "UTC")  # which the day is
    assert decided("one", NOON - DAY, NOON + HOUR * 23, weekly) == ([12], 0)
    assert decided("one", NOON - DAY, NOON + HOUR * 25, weekly) == ([], 0)
    assert decided("one", NOON - DAY, NOON + HOUR * 25, weekly, within=2 * DAY) == ([12], 0)


def test_the_next_look_is_the_next_tick_also_when_the_clock_was_set_back():
    assert due(HOURLY, Policy(), since=NOON, now=NOON).next_at == NOON + HOUR
    assert due(HOURLY, Policy(), since=NOON, now=NOON - HOUR / 2) == due(HOURLY, Policy(), since=NOON, now=NOON)
    last = read_rule("0 0 1 1 *", None, "UTC")
    assert due(last, Policy(), since=at("9999-06-01"), now=NOON).next_at is None


@pytest.mark.parametrize("every", [None, timedelta(seconds=1)])
def test_a_year_without_anybody_is_decided_about_in_a_moment(every):
    """However much was missed: what is made up for, and what is counted, has a bound."""
    rule = read_rule(None if every else "* * * * *", every, "Europe/Berlin")
    began = perf_counter()
    found = due(rule, Policy("all", timedelta(days=366)), since=EPOCH, now=NOON + timedelta(minutes=1, seconds=30))
    assert perf_counter() - began < 2  # a walk over the year would be 20 s
    step = every or MINUTE
    assert len(found.ticks) == 1000
    assert found.ticks[0] == found.ticks[-1] - step * 999
    assert found.next_at == found.ticks[-1] + step
