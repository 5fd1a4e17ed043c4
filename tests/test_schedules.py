"""Schedules are fired by supervisors: real rows, a fake executor."""

import json
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from django_ray.rules import EPOCH
from tests import tasks
from tests.supervisors import Instant, hear, living, notifications, until

PATH = tasks.add.module_path
HOUR = timedelta(hours=1)


@pytest.fixture
def session(connect):
    return connect()


@pytest.fixture
def executions(session):
    """What a schedule has enqueued."""

    def of(name):
        return session.execute(
            "SELECT e.* FROM django_ray_execution AS e JOIN django_ray_schedule AS s ON s.id = schedule_id"
            " WHERE name = %s ORDER BY tick",
            [name],
        ).fetchall()

    return of


@pytest.fixture
def plan(session):
    """INSERT a schedule by SQL; return how to read its row."""

    def _plan(name, **columns):
        said = {"name": name, "callable_path": PATH, "args": "[1, 2]", **columns}
        session.execute(
            f"INSERT INTO django_ray_schedule ({', '.join(said)}) VALUES ({', '.join(['%s'] * len(said))})",
            list(said.values()),
        )
        return lambda what="problem, lost, skipped, lag, since, last_at, next_at": session.execute(
            f"SELECT {what} FROM django_ray_schedule WHERE name = %s", [name]
        ).fetchone()

    return _plan


@pytest.fixture
def write(session):
    """UPDATE a schedule by SQL."""

    def _write(name, what, *values):
        session.execute(f"UPDATE django_ray_schedule SET {what} WHERE name = %s", [*values, name])

    return _write


async def eventually(condition, what="the condition"):
    """Return the first true answer, asked in a thread: the supervisor shares this event loop."""
    return await anyio.to_thread.run_sync(until, condition, 60, what)


def overdue(plan, write, name, ago="3.5 hours", **columns):
    """A schedule of each hour whose ticks of the last three hours nobody has seen."""
    row = plan(name, every="1 hour", **columns)
    write(name, "since = date_trunc('hour', now()) - %s::interval, next_at = now() - interval '1 s'", ago)
    return row


async def test_a_schedule_is_fired_at_each_tick(database, plan, executions):
    row = plan(
        "each second", every="1 second", priority=7, queue_name="other", kwargs="{}", options='{"timeout": 5}',
        missed="all", overlap="allow",  # so that a busy machine leaves none out
    )  # fmt: skip
    async with living(database, Instant()) as life:
        found = await eventually(
            lambda: (rows := executions("each second"))[2:] and rows[0]["finished_at"] and rows, "three ticks"
        )
    first = found[0]["tick"]
    assert [found[n]["tick"] - first for n in range(3)] == [timedelta(seconds=n) for n in range(3)]
    assert first.microsecond == 0
    # Enqueued within a moment: much less than until the next one, except for those that a busy machine holds up.
    assert timedelta(0) < min(one["enqueued_at"] - one["tick"] for one in found) < timedelta(seconds=0.9)
    assert found[0]["carrier"] == {
        "schedule": {"name": "each second", "zone": "UTC", "tick": found[0]["carrier"]["schedule"]["tick"]}
    }
    assert datetime.fromisoformat(found[0]["carrier"]["schedule"]["tick"]) == first
    said = ("callable_path", "args", "kwargs", "priority", "queue_name", "options", "state")
    assert [found[0][name] for name in said] == [PATH, [1, 2], {}, 7, "other", {"timeout": 5}, "SUCCESSFUL"]
    assert life.metrics.ticks >= 3
    assert life.metrics.tick_lag > 0
    assert row()["last_at"] >= first
    assert row()["lag"] > 0
    assert row()["problem"] is None


@pytest.mark.parametrize(("missed", "expected", "lost"), [("one", 1, 2), ("skip", 0, 3), ("all", 3, 0)])
async def test_missed_ticks_are_made_up_for_as_the_policy_says(  # noqa: PLR0917
    database, plan, write, executions, missed, expected, lost
):
    row = plan("hourly", every=_period_with_a_tick(minutes_ago=10), missed=missed)
    write("hourly", "since = now() - 3 * every, next_at = now() - interval '1 s'")
    async with living(database, Instant()):
        await eventually(lambda: row()["last_at"])
    assert (len(executions("hourly")), row()["lost"]) == (expected, lost)
    assert row()["next_at"] > datetime.now(UTC)


def _period_with_a_tick(minutes_ago):
    """A period of an hour or a little more whose last tick was so long ago."""
    last = datetime.now(UTC) - timedelta(minutes=minutes_ago) - EPOCH
    return last / (last // HOUR)


@pytest.mark.parametrize(
    "edit",
    [
        "cron = '* * * * *', every = NULL",
        "every = '2 hours'",
        "time_zone = 'Asia/Tokyo'",
        "paused_at = now()|paused_at = NULL",
        "gone_at = now()|gone_at = NULL",
    ],
)
async def test_an_edit_and_a_resume_fire_nothing_that_was_due(database, plan, write, executions, edit):
    """Nobody was there: what was due before it does not count, whatever the policy says."""
    row = overdue(plan, write, "hourly", missed="all", overlap="allow")
    for part in edit.split("|"):
        write("hourly", part)
    async with living(database, Instant()):
        await eventually(lambda: row()["next_at"])
    # A minute may have begun while the test ran.
    assert [one for one in executions("hourly") if one["tick"] < row()["since"]] == []
    assert row()["lost"] == 0


async def test_a_new_schedule_and_a_restored_one_fire_nothing_that_was_due(database, plan, executions):
    row = plan("new", cron="* * * * *", missed="all", since="2020-01-01Z", last_at="2020-01-01Z", next_at="2020-01-01Z")
    async with living(database, Instant()):
        await eventually(lambda: row()["next_at"])
    assert [one for one in executions("new") if one["tick"] < row()["since"]] == []
    assert row()["lost"] == 0


async def test_an_edit_of_something_else_keeps_what_is_due(database, plan, write, executions):
    """A deploy that changes the arguments takes the supervisors down over a tick: it is made up for."""
    row = overdue(plan, write, "hourly", missed="all")
    write("hourly", "args = '[3, 4]', priority = 3, missed_within = interval '90 days'")
    async with living(database, Instant()):
        await eventually(lambda: row()["last_at"])
    assert len(executions("hourly")) in {3, 4}
    assert executions("hourly")[0]["args"] == [3, 4]


async def test_a_supervisor_that_sleeps_hears_of_a_new_schedule_and_of_an_edit(database, plan, write, executions):
    """Without a pulse: the trigger tells."""
    async with living(database, Instant()):
        row = plan("yearly", cron="0 0 1 1 *")
        first = await eventually(lambda: row()["next_at"])
        assert (first.month, first.day) == (1, 1)
        write("yearly", "cron = NULL, every = '1 second'")
        assert await eventually(lambda: executions("yearly"))
        write("yearly", "paused_at = now()")
        number = len(executions("yearly"))
        other = plan("other", every="1 second")
        await eventually(lambda: executions("other")[2:])
        assert len(executions("yearly")) <= number + 1
        assert other()["problem"] is None


class Holding(Instant):
    """Runs nothing to its end until it is told."""

    def __init__(self):
        super().__init__()
        self.go = anyio.Event()

    async def run(self, claims):
        await self.go.wait()
        return await super().run(claims)


async def test_a_tick_is_skipped_while_the_run_before_is_unfinished(database, plan, executions):
    executor = Holding()
    row, both = plan("skips", every="1 second"), plan("allows", every="1 second", overlap="allow")
    async with living(database, executor) as life:
        await eventually(lambda: row()["skipped"] >= 2)
        assert len(executions("skips")) == 1
        assert len(executions("allows")) >= 2
        executor.go.set()
        found = await eventually(lambda: (rows := executions("skips"))[1:] and rows)
        skipped = row()["skipped"]
    # Each tick was fired, or counted.
    assert found[1]["tick"] - found[0]["tick"] == timedelta(seconds=skipped + 1)
    assert both()["skipped"] == 0
    assert life.metrics.ticks_skipped == row()["skipped"]


async def test_what_a_dead_supervisor_left_running_is_unfinished(database, plan, executions, session):
    row = plan("killed", every="1 second")
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, state, claimed_by_id, schedule_id, tick)"
        " SELECT 'x.y', 'RUNNING', 1, id, now() FROM django_ray_schedule"
    )
    async with living(database, Instant(), queues=("other",)):
        await eventually(lambda: row()["skipped"])
    assert len(executions("killed")) == 1


async def test_of_several_supervisors_one_fires(database, plan, executions, session):
    row = plan("shared", every="1 second", missed="all", overlap="allow")
    async with AsyncExitStack() as stack:
        lives = [await stack.enter_async_context(living(database, Instant())) for _ in range(4)]
        await eventually(lambda: executions("shared")[4:])
        session.execute("UPDATE django_ray_schedule SET paused_at = now()")
    found = executions("shared")
    assert [one["tick"] for one in found] == [found[0]["tick"] + timedelta(seconds=n) for n in range(len(found))]
    assert sum(life.metrics.ticks for life in lives) == len(found)
    assert row()["lost"] == 0


POISON = {
    "six fields": {"cron": "* * * * * *"},
    "no cron": {"cron": "every day"},
    "much cron": {"cron": "1," * 100_000},
    "no such day": {"cron": "0 0 30 2 *"},
    "Mars": {"cron": "0 * * * *", "time_zone": "Mars/Base"},
    "a path": {"cron": "0 * * * *", "time_zone": "../../../etc/passwd"},
    "zero": {"every": "0 seconds"},
    "negative": {"every": "-1 hour"},
    "long": {"every": "170000000 years"},
    "within": {"every": "1 hour", "missed_within": "-1 day"},
}


async def test_a_row_that_cannot_be_read_is_marked_and_keeps_nobody_from_firing(database, plan, executions):
    rows = {name: plan(name, **columns) for name, columns in POISON.items()}
    # antigravity is in Python, and would open a browser if it were imported; evil is imported by nobody.
    paths = (
        "tests.tasks.retired",
        "nowhere.tasks.nightly",
        "antigravity.fly",
        "",
        "tests.tasks.FAST",
        "tests.evil.x_y",
    )
    imported = set(sys.modules)  # by other tests of this process
    gone = {path: plan(f"gone {path}", every="1 second", callable_path=path) for path in paths}
    healthy = plan("healthy", every="1 second")
    async with living(database, Instant(), pulse=0.2) as life:
        await eventually(lambda: len(executions("healthy")) >= 3)
        problems = await eventually(
            lambda: (found := [row("problem")["problem"] for row in rows.values()]) and all(found) and found
        )
        await eventually(lambda: life.metrics.schedule_problems == len(rows) + len(gone))
        absent = {path: row()["problem"] for path, row in gone.items()}
    assert all(executions(name) == [] for name in rows)
    assert "six fields" in problems[0]
    assert "Mars/Base" in problems[4]
    assert "has no 'retired'" in absent["tests.tasks.retired"]
    assert "no module 'nowhere.tasks'" in absent["nowhere.tasks.nightly"]
    assert "no path of a task" in absent[""]
    assert "is no task" in absent["tests.tasks.FAST"]
    assert "has no 'fly'" in absent["antigravity.fly"]
    assert "has no 'x_y'" in absent["tests.evil.x_y"]
    assert not {"antigravity", "tests.evil"} & (sys.modules.keys() - imported)
    # What is not here may be elsewhere, in a deploy: it is enqueued, and waits for its code as any other.
    assert executions("gone tests.tasks.retired")
    assert healthy()["problem"] is None


@pytest.mark.parametrize("column", ["since", "last_at", "next_at"])
@pytest.mark.parametrize("moment", ["10000-01-01Z", "294000-01-01Z", "infinity", "-infinity", "0044-03-15 BC"])
async def test_a_moment_that_python_lacks_ends_no_supervisor(  # noqa: PLR0917
    database, plan, write, executions, column, moment
):
    row = plan("poison", every="1 hour")
    write("poison", f"next_at = now(), {column} = %s" if column != "next_at" else "next_at = %s", moment)
    plan("healthy", every="1 second")
    async with living(database, Instant()):
        await eventually(lambda: executions("healthy"))
        found = await eventually(lambda: (one := row("next_at IS NOT NULL AS is_set, problem"))["is_set"] and one)
    is_to_come = column != "next_at" and not moment.startswith(("-", "0"))
    assert bool(found["problem"]) is is_to_come


async def test_a_problem_is_gone_when_the_row_is_right_again(database, plan, write, executions):
    row = plan("wrong", cron="nonsense")
    async with living(database, Instant()):
        await eventually(lambda: row()["problem"])
        write("wrong", "cron = NULL, every = '1 second'")
        await eventually(lambda: executions("wrong"))
        assert row()["problem"] is None


async def test_a_row_that_somebody_has_locked_keeps_nobody_from_firing(database, plan, executions, connect):
    plan("locked", every="1 second", missed="all", overlap="allow")
    plan("free", every="1 second", missed="all", overlap="allow")
    holder = connect()
    holder.execute("BEGIN")
    holder.execute("SELECT FROM django_ray_schedule WHERE name = 'locked' FOR UPDATE")
    async with living(database, Instant()):
        await eventually(lambda: len(executions("free")) >= 3)
        assert executions("locked") == []
        holder.execute("COMMIT")
        found = await eventually(lambda: (rows := executions("locked"))[2:] and rows)
    assert found[1]["tick"] - found[0]["tick"] == timedelta(seconds=1)


async def test_an_open_transaction_with_an_equal_execution_keeps_nobody_else_from_firing(
    database, plan, executions, connect
):
    plan("unique", every="1 second", overlap="allow", admission='{"unique": "the key"}')
    plan("free", every="1 second", missed="all", overlap="allow")
    holder = connect()
    holder.execute("BEGIN")
    holder.execute("INSERT INTO django_ray_execution (callable_path, unique_key) VALUES ('x.y', 'the key')")
    async with living(database, Instant()):
        await eventually(lambda: len(executions("free")) >= 3)
        assert executions("unique") == []
        holder.execute("ROLLBACK")
        await eventually(lambda: executions("unique"))


async def test_what_nobody_rang_for_is_found_by_the_pulse(database, plan, executions, session):
    """B5: without triggers."""
    async with living(database, Instant(), pulse=0.2) as life:
        until_open = lambda: life._session.is_open  # noqa: E731
        await eventually(until_open)
        session.execute("ALTER TABLE django_ray_schedule DISABLE TRIGGER USER")
        try:
            plan("silent", every="1 second")
            assert await eventually(lambda: executions("silent"))
        finally:
            session.execute("ALTER TABLE django_ray_schedule ENABLE TRIGGER USER")


async def test_a_tick_that_was_computed_by_other_rules_of_time_zones_is_corrected_at_the_start(
    database, plan, write, executions
):
    row = plan("nightly", cron="0 3 * * *", time_zone="Europe/Berlin")
    write("nightly", "next_at = now() + interval '400 days'")
    async with living(database, Instant()):
        await eventually(lambda: row()["next_at"] < datetime.now(UTC) + timedelta(days=2))
    assert executions("nightly") == []


async def test_many_schedules_are_decided_about_in_parts(database, session, executions):
    session.execute(
        "INSERT INTO django_ray_schedule (name, callable_path, args, every)"
        " SELECT 'number ' || n, %s, '[1, 2]', interval '1 second' FROM generate_series(1, 350) AS n",
        [PATH],
    )
    async with living(database, Instant()):
        await eventually(lambda: executions("number 350")[1:] and executions("number 1")[1:])


async def test_firing_tells_no_other_supervisor(database, plan, session, connect, executions):
    """They wake at that tick anyway: a NOTIFY would cost each commit of the cluster a lock."""
    listener = connect()
    channel = hear(listener, "schedules:default")
    plan("each second", every="1 second")
    assert notifications(listener, session).count(channel) == 1
    async with living(database, Instant()):
        await eventually(lambda: executions("each second")[2:])
    assert channel not in notifications(listener, session)


async def test_another_backend_s_schedules_are_none_of_ours(database, plan, executions):
    plan("theirs", every="1 second", backend="any")
    plan("ours", every="1 second")
    async with living(database, Instant()):
        await eventually(lambda: executions("ours")[1:])
    assert executions("theirs") == []


async def test_a_declaration_waits_for_who_has_locked_the_row_and_holds_up_nobody(
    database, plan, executions, connect, session
):
    plan("nightly", cron="0 3 * * *")
    plan("other", every="1 second")
    row = {"name": "nightly", "callable_path": PATH, "args": [5, 6], "kwargs": {}, "queue_name": "default",
           "priority": 0, "options": None, "cron": "0 4 * * *", "every": None, "time_zone": "UTC", "missed": "one",
           "missed_within": None, "overlap": "skip", "digest": "1"}  # fmt: skip
    holder = connect()
    holder.execute("BEGIN")
    holder.execute("SELECT FROM django_ray_schedule WHERE name = 'nightly' FOR UPDATE")
    async with living(database, Instant(), declared=(json.dumps([row]), "[]")):
        await eventually(lambda: executions("other")[1:])
        holder.execute("COMMIT")
        await eventually(
            lambda: session.execute("SELECT FROM django_ray_schedule WHERE cron = '0 4 * * *'").fetchone() is not None
        )
