"""Values at the edge, as somebody may write them by SQL or by hand: no row stops a supervisor or holds up another."""

import asyncio
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from textwrap import dedent

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.tasks import task, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from django_ray import Backoff, status, task_options
from django_ray.backends import RayTaskBackend
from django_ray.bounds import LONGEST, MOST, MOST_FACTOR
from django_ray.models import RayTaskExecution, RayWorker
from django_ray.moments import EARLIEST, LATEST, held, parsed
from django_ray.options import Options
from django_ray.rows import StoredError
from django_ray.runtime.call import _write
from django_ray.runtime.entrypoint import invoke
from django_ray.testing import run_tasks
from django_ray_worker.claiming.backlog import Backlog
from django_ray_worker.claiming.pace import Pace
from django_ray_worker.claiming.slots import Slots
from django_ray_worker.core.claim import Reconciled, Rescued
from django_ray_worker.core.judge import abandoned, judge, released
from django_ray_worker.core.outcome import Error, Lost, Missing, Raised
from django_ray_worker.core.policy import Fail, Retry
from django_ray_worker.database.statements import Record, claim_of
from tests import tasks
from tests.supervisors import Instant, living, until

HUGE = "1" + "0" * 400  # A number for JSON and PostgreSQL, and too large for a float.
LONGER = "1" + "0" * 5000  # More digits than Python reads.
DEEP = "[" * 5000 + "]" * 5000
UNFIT = {
    "a timeout": f'{{"timeout": {HUGE}}}',
    "the base of a backoff": f'{{"retry": {{"backoff": {{"base": {HUGE}}}}}}}',
    "the factor of a backoff": f'{{"retry": {{"backoff": {{"factor": {HUGE}}}}}}}',
    "attempts": f'{{"retry": {{"max_attempts": {HUGE}}}}}',
    "losses": f'{{"retry": {{"max_losses": {HUGE}}}}}',
    "import_grace": f'{{"retry": {{"import_grace": {HUGE}}}}}',
    "CPUs": f'{{"ray": {{"num_cpus": {HUGE}}}}}',
    "GPUs": f'{{"ray": {{"num_gpus": {HUGE}}}}}',
    "memory": f'{{"ray": {{"memory": {HUGE}}}}}',
    "a resource": f'{{"ray": {{"resources": {{"x": {HUGE}}}}}}}',
    "calls": f'{{"ray": {{"max_calls": {HUGE}}}}}',
    "more digits than Python reads": f'{{"timeout": {LONGER}}}',
    "nested": f'{{"timeout": {DEEP}}}',
    "a megabyte": json.dumps({"ray": {"accelerator_type": "x" * 1_000_000}}),
    "an array": "[]",
    "a text": '"timeout"',
    "null": '{"retry": null, "ray": null}',
    "fields": '{"retry": {"backoff": null}}',
}
ODD_MOMENTS = ("infinity", "-infinity", "0044-03-15 00:00:00Z BC", "10001-01-01 00:00:00Z", "294276-12-31 00:00:00Z")
ODD_ERRORS = (
    '[null, 1, "text", [], {}, {"message": {"a": 1}, "at": "infinity", "attempt": [2]}, {"at": 7, "traceback": 1}]'
)
ERROR = Error(exception_class_path="builtins.ValueError", message="m", traceback="t")


def results(rows):
    return [(row["state"], row["result"]) for row in rows("state, result")]


async def in_thread(function, *arguments):
    """Run it as a Ray worker does, with a connection of its own."""

    def run():
        try:
            return function(*arguments)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


# What a supervisor reads.


def test_options_at_the_edge_fail_their_row_and_hold_up_no_other(listen, insert, rows):
    """J9."""
    for options in UNFIT.values():
        insert(options=options)
    insert(args="[1, 2]")
    assert listen("--sync", "--burst").wait() == 0
    *unfit, good = rows("state, result, errors")
    assert (good["state"], good["result"]) == ("SUCCESSFUL", 3)
    for what, row in zip(UNFIT, unfit, strict=True):
        assert row["state"] == "FAILED", what
        assert row["errors"][-1]["exception_class_path"] == "django_ray.exceptions.TaskRefused", what


@pytest.mark.parametrize("time_zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_a_row_runs_whatever_moments_stand_in_it(listen, insert, rows, time_zone):
    """J9: also where the session's time zone moves them out of Python's reach."""
    moments = (*ODD_MOMENTS, "0001-01-01 00:00:00Z", "9999-12-31 23:59:59Z")
    columns = ("run_after", "enqueued_at", "started_at", "last_attempted_at", "missing_since", "cancel_requested_at")
    for column in columns[:-1]:
        for moment in moments:
            insert(args="[1, 2]", **{column: moment})
    for moment in moments:
        insert(args="[1, 2]", due_at=moment)  # Some of them are never due.
    assert listen("--sync", "--burst", PGTZ=time_zone).wait() == 0
    ran = [("SUCCESSFUL", 3)]
    assert results(rows)[: -len(moments)] == ran * (5 * len(moments))
    due = dict(zip(moments, results(rows)[-len(moments) :], strict=True))
    assert [moment for moment, row in due.items() if row != ("SUCCESSFUL", 3)] == [
        "infinity", "10001-01-01 00:00:00Z", "294276-12-31 00:00:00Z", "9999-12-31 23:59:59Z",
    ]  # fmt: skip


async def test_a_supervisor_lives_and_counts_beside_rows_with_odd_moments(database, insert, connect):
    """J9: its pulse looks at the oldest of them."""
    session = connect()
    for moment in ODD_MOMENTS:
        insert(queue_name="elsewhere", enqueued_at=moment, run_after=moment)
        insert(queue_name="other", run_after=moment)
    executor = Instant()
    async with living(database, executor, pulse=0.1, queues=("other", "elsewhere")) as life:
        await executor.has_run(2 * len(ODD_MOMENTS))
        session.execute("UPDATE django_ray_worker SET pulse_at = '-infinity'")
        await asyncio.to_thread(
            until, lambda: session.execute("SELECT 1 FROM django_ray_worker WHERE pulse_at > '2000-01-01'").fetchone()
        )
        await asyncio.to_thread(until, lambda: session.execute("SELECT 1 FROM django_ray_minute").fetchone())
        assert life.metrics.pulses_missed == 0
    counted = session.execute(
        "SELECT sum(succeeded) AS number, max(waited) AS waited FROM django_ray_minute"
    ).fetchone()
    assert counted["number"] == 2 * len(ODD_MOMENTS)
    assert 0 <= counted["waited"] <= 10 * LONGEST


async def test_counts_at_their_end_are_claimed_and_recorded(open_store, insert, rows):
    """J9."""
    store, worker = await open_store()
    insert(attempt_number=MOST, failures=MOST, losses=MOST)
    (claim,) = (await store.claim(worker, 10)).claims
    assert claim.attempt == MOST
    assert await store.record([Record(claim, Retry(error=ERROR, after=0, failures=1, losses=1))]) == {claim.task_id}
    (claim,) = (await store.claim(worker, 10)).claims
    assert await store.record([Record(claim, judge(claim, Raised(ERROR)))]) == {claim.task_id}
    (row,) = rows("state, failures, losses")
    assert row == {"state": "FAILED", "failures": MOST, "losses": MOST}


def test_a_row_that_cannot_even_be_printed_fails_alone(listen, insert, rows, connect):
    """J9: ten thousand numbers, each of which PostgreSQL prints with 131,072 digits, are more than an answer holds."""
    session = connect()
    insert(args="[1, 2]", priority=-1), insert(args="[1, 2]")
    for column in ("args", "options"):
        session.execute(
            f"INSERT INTO django_ray_execution (callable_path, {column})"
            " SELECT 'tests.tasks.add', jsonb_agg('1e131071'::jsonb) FROM generate_series(1, 10000)"
        )
    insert(args="[1, 2]")
    assert listen("--sync", "--burst").wait() == 0
    assert [row["state"] for row in rows("state")] == ["SUCCESSFUL", "SUCCESSFUL", "FAILED", "FAILED", "SUCCESSFUL"]
    assert "cannot be read" in rows("errors")[3]["errors"][0]["message"]


async def test_a_row_that_nobody_can_take_ends_no_supervisor(database, connect, insert):
    """J9: a trigger of somebody else's refuses it; the supervisor says so, and goes on when it can."""
    session = connect()
    session.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN PERFORM nextval('refused'); RAISE EXCEPTION 'no' USING ERRCODE = '22023'; END $$;"
        " CREATE SEQUENCE refused;"
        " CREATE TRIGGER refuse BEFORE UPDATE ON django_ray_execution FOR EACH ROW WHEN (NEW.state = 'RUNNING')"
        " EXECUTE FUNCTION refuse()"
    )
    try:
        insert()
        executor = Instant()
        async with living(database, executor):
            question = "SELECT last_value > 2 AS yes FROM refused"
            await asyncio.to_thread(until, lambda: session.execute(question).fetchone()["yes"])
            session.execute("DROP TRIGGER refuse ON django_ray_execution")
            await executor.has_run(1)
    finally:
        session.execute("DROP FUNCTION refuse CASCADE; DROP SEQUENCE refused")


async def test_what_the_dead_left_running_is_taken_back_whatever_stands_in_it(open_store, connect, insert, rows):
    """J9."""
    store, dead = await open_store()
    for options in UNFIT.values():
        insert(options=options, state="RUNNING", claimed_by_id=dead, attempt_number=1, missing_since="-infinity")
    insert(options='{"retry": {"max_losses": 0}}', state="RUNNING", claimed_by_id=dead, attempt_number=1)
    insert(errors=ODD_ERRORS, worker_ids='[null, {"a": 1}]', state="RUNNING", claimed_by_id=dead, attempt_number=MOST)
    connect().execute("UPDATE django_ray_worker SET pulse = 'Infinity', pulse_at = '-infinity'")
    other, worker = await open_store()
    neighbour = await other.neighbour([worker])
    assert (neighbour.id, neighbour.is_frozen) == (dead, True)
    assert await other.rescue(worker, abandoned, only=dead) == {
        dead: Rescued(rows=len(UNFIT) + 2, locked=0, is_marked=True)
    }
    assert [row["state"] for row in rows("state")] == ["READY"] * len(UNFIT) + ["FAILED", "READY"]
    assert await store.reconcile([dead], frozenset(), released) == Reconciled(ours={}, unheld=0, locked=0)


@pytest.mark.parametrize("pulse", ["NaN", "Infinity", "-Infinity", 1e308, -1.0])
async def test_a_peer_with_any_pulse_is_watched(open_store, connect, pulse):
    store, worker = await open_store()
    _, peer = await open_store()
    connect().execute("UPDATE django_ray_worker SET pulse = %s WHERE id = %s", [pulse, peer])
    neighbour = await store.neighbour([worker])
    assert (neighbour.id, neighbour.is_frozen) == (peer, False)
    assert await store.rescue(worker, abandoned, only=peer) == {
        peer: Rescued(rows=0, locked=0, is_marked=True)  # It has no session.
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["retry", "ray", "timeout", "backoff", "base", "cap", "num_cpus", "resources", "max_attempts"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def claimed(options):
    return {
        "task_id": "019a8e5c-52f1-7d10-8c3e-3f1d2a4b5c6d", "attempt_number": 1, "claimed_by_id": 1,
        "backend": "default", "queue_name": "default", "callable_path": "a.b", "options": options, "failures": 0,
        "losses": 0,
        "missing_for": None, "waited": None, "payload": None, "released": 0,
    }  # fmt: skip


@given(options=JSON.map(json.dumps) | st.text(max_size=20) | st.sampled_from([LONGER, DEEP, '""']))
def test_any_options_give_a_claim_and_a_verdict(options):
    """J9: either they can be used, or the claim says why not."""
    claim = claim_of(claimed(options), Options())
    assert (claim.options == Options().of("default", None)) or not claim.unfit
    for outcome in (Raised(ERROR), Lost("gone"), Missing(ERROR)):
        verdict = judge(claim, outcome)
        assert isinstance(verdict, Fail) or 0 <= verdict.after <= LONGEST


# What is large.

ALIKE, UNLIKE = "repeat('x', 1000000)", "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 31250) n)"


@pytest.mark.parametrize("text", [ALIKE, UNLIKE], ids=["compressed", "as it is"])
async def test_a_claim_carries_no_large_arguments(open_store, connect, text):
    """J9: a hundred megabytes are claimed, and stay where they are."""
    connect().execute(
        "INSERT INTO django_ray_execution (callable_path, args)"
        f" SELECT 'tests.tasks.add', jsonb_build_array({text}, 'x') FROM generate_series(1, 100)"
    )
    store, worker = await open_store()
    claims = (await store.claim(worker, 128)).claims
    assert len(claims) == 100
    assert sum(len(claim.payload) for claim in claims) < 100 * 1000


@pytest.mark.parametrize("column", ["kwargs", "errors", "worker_ids", "options", "carrier", "callable_path"])
async def test_nothing_else_that_is_large_is_carried_either(open_store, insert, column):
    store, worker = await open_store()
    large = json.dumps("x" * 1_000_000)
    insert(**{column: f"[{large}]" if column in {"errors", "worker_ids"} else f'{{"a": {large}}}'})
    (claim,) = (await store.claim(worker, 128)).claims
    assert len(claim.payload) < 1000
    assert len(claim.callable_path) <= 1000


async def test_what_is_large_together_is_not_carried_either(open_store, connect):
    """J9: it is claimed all the same, and what takes less than its share is carried."""
    connect().execute(
        "INSERT INTO django_ray_execution (callable_path, args)"
        " SELECT 'tests.tasks.add', jsonb_build_array(repeat('x', CASE WHEN n % 2 = 0 THEN 60000 ELSE 6000 END), n)"
        " FROM generate_series(1, 500) n"
    )
    store, worker = await open_store()
    few = (await store.claim(worker, 100)).claims
    assert [len(claim.payload) > 1000 for claim in few] == [True] * 100
    many = (await store.claim(worker, 400)).claims
    assert [len(claim.payload) > 1000 for claim in many] == [True, False] * 200
    assert sum(len(claim.payload) for claim in many) <= 8_388_608


def test_a_call_carries_a_million_characters_at_most():
    slots, pace = Slots(1), Pace()
    row = {**claimed(None), "payload": "x" * 60_000}
    claims = [claim_of(row, Options()) for _ in range(100)]
    for _ in range(1000):
        pace.observe(claims[0], 0.00001)
    backlog = Backlog(slots, pace, most_per_call=250, give_back=lambda _: None)
    backlog.put(claims)
    assert [len(backlog.take()) for _ in range(7)] == [16] * 6 + [4]


def test_large_arguments_are_read_where_they_run(listen, finished):
    """J9."""
    results = task_backends["default"].enqueue_many([(tasks.add, ("x" * 100_000, str(n)), {}) for n in range(3)])
    listen("--sync")
    assert [finished(result).return_value[-2:] for result in results] == ["x0", "x1", "x2"]


@task(takes_context=True)
@task_options(max_attempts=3, backoff=Backoff(base=0))
def remember(context, text):
    if context.attempt < 3:
        raise ValueError(text)
    return [len(text), [error.traceback[-1000:] for error in context.task_result.errors]]


@pytest.mark.django_db
def test_a_body_sees_its_large_arguments_and_errors():
    """J9: also in run_tasks()."""
    result = remember.enqueue("x" * 70_000)
    assert [one.id for one in run_tasks()] == [result.id]
    result.refresh()
    length, tracebacks = result.return_value
    assert length == 70_000
    assert [traceback.strip("x\n") for traceback in tracebacks] == ["", ""]
    assert result.attempts == 3


async def test_an_attempt_that_was_taken_away_reads_nothing(open_store, connect, insert):
    """J9: the fence holds for what is read, too."""
    insert(args=json.dumps(["x" * 100_000, "y"]))
    store, worker = await open_store()
    (claim,) = (await store.claim(worker, 1)).claims
    connect().execute("UPDATE django_ray_execution SET attempt_number = attempt_number + 1")
    envelope = await in_thread(invoke, claim.payload)
    assert (envelope["kind"], envelope["exception_class_path"]) == ("missing", "builtins.LookupError")
    assert "not its supervisor's any more" in envelope["message"]


async def test_a_call_that_gives_back_what_it_does_not_carry_needs_only_its_fence(open_store, insert, rows):
    insert(args=json.dumps(["x" * 100_000, "y"]))
    store, worker = await open_store()
    (claim,) = (await store.claim(worker, 1)).claims
    await in_thread(_write, [], [claim.payload])
    assert [row["state"] for row in rows("state")] == ["READY"]


async def test_the_errors_of_a_row_are_bounded_in_sum(open_store, insert, rows):
    """J9: the last three are whole, older ones say what they were, and a hundred are enough."""
    store, worker = await open_store()
    insert(errors=ODD_ERRORS)
    long = Error(exception_class_path="builtins.ValueError", message="m" * 10_000, traceback="t" * 100_000)
    for attempt in range(1, 105):
        (claim,) = (await store.claim(worker, 1)).claims
        verdict = Retry(error=replace(long, message=f"{attempt}{long.message[5:]}"), after=0, failures=1)
        assert await store.record([Record(claim, verdict)]) == {claim.task_id}
        (row,) = rows("octet_length(errors::text) AS size, jsonb_array_length(errors) AS number")
        assert row["number"] == min(attempt + len(json.loads(ODD_ERRORS)), 100)
        assert row["size"] < 3 * 112_000 + 100 * 5000
    errors = rows("errors")[0]["errors"]
    assert [error["attempt"] for error in errors] == list(range(5, 105))
    assert [len(error["traceback"]) for error in errors] == [2005] * 97 + [100_000] * 3
    assert errors[0]["exception_class_path"] == "builtins.ValueError"
    assert errors[0]["message"].startswith("5mmm")
    assert errors[0].keys() == errors[-1].keys()


@pytest.mark.parametrize(
    "text", ["'[]'", "jsonb_build_array(repeat('x', 200000000))", "jsonb_build_object('a', 1) || '[]'"]
)
async def test_errors_that_somebody_has_filled_take_another_one(open_store, insert, rows, connect, text):
    store, worker = await open_store()
    insert()
    connect().execute(f"UPDATE django_ray_execution SET errors = {text}")
    (claim,) = (await store.claim(worker, 1)).claims
    assert await store.record([Record(claim, Fail(error=ERROR, failures=1))]) == {claim.task_id}
    (row,) = rows("octet_length(errors::text) AS size, errors -> -1 ->> 'message' AS message")
    assert (row["size"] < 1000, row["message"]) == (True, "m")


@pytest.mark.parametrize(
    "options",
    [
        {"runtime_env": {"pip": "x" * 5000}},
        {"runtime_env": {"pip": 5}},
        {"runtime_env": {"env_vars": [1]}},
        {"runtime_env": {"env_vars": 5}, "max_calls": 1},
        {"label_selector": {"k": "in("}},
    ],
)
def test_options_that_ray_refuses_are_refused_with_one_kind_of_error(options):
    from django_ray_worker.running.onray import functions

    assert claim_of(claimed(json.dumps({"ray": options})), Options()).unfit == ""
    with pytest.raises((TypeError, ValueError)):
        functions.handle(options)


# What is waited between attempts.

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-1, 10**410)


@given(
    fields=st.fixed_dictionaries({}, optional=dict.fromkeys(("base", "factor", "cap", "jitter"), NUMBERS)),
    failures=st.integers(1, 10**6),
    chance=st.floats(0, 1),
)
def test_any_backoff_is_refused_or_waits_between_nothing_and_its_cap(fields, failures, chance):
    """J9."""
    try:
        backoff = Backoff(**fields)
    except ValueError:
        return
    wait = backoff.seconds(failures, chance)
    assert isinstance(wait, float)
    assert 0 <= wait <= backoff.cap <= LONGEST


@given(
    backoff=st.builds(
        Backoff,
        base=st.integers(0, 10**9) | st.floats(0, LONGEST),
        factor=st.integers(1, 9) | st.floats(1, MOST_FACTOR),
        cap=st.integers(0, 10**9) | st.floats(0, LONGEST),
        jitter=st.just(0),
    ),
    failures=st.integers(1, 3000),
)
def test_a_backoff_does_not_shrink(backoff, failures):
    assert backoff.seconds(failures, 0) <= backoff.seconds(failures + 1, 0)


def test_a_backoff_of_whole_numbers_grows_on_after_a_thousand_failures():
    """J9."""
    assert Backoff(base=1, factor=2).seconds(1025, 1.0) == 3600
    assert Backoff(base=0, factor=2).seconds(5000, 1.0) == 0


async def test_the_longest_backoff_can_be_recorded(open_store, insert, rows):
    """J9."""
    store, worker = await open_store()
    longest = {"base": LONGEST, "cap": LONGEST, "factor": MOST_FACTOR, "jitter": MOST_FACTOR}
    insert(options=json.dumps({"retry": {"max_attempts": MOST, "backoff": longest}}), failures=10**6)
    (claim,) = (await store.claim(worker, 1)).claims
    verdict = judge(claim, Raised(ERROR))
    assert verdict.after == LONGEST
    assert await store.record([Record(claim, verdict)]) == {claim.task_id}
    assert rows("due_at - now() AS wait")[0]["wait"] > timedelta(days=36_499)


# What is set.

REFUSED = [10**400, 10**5000, -1, math.nan, math.inf, -math.inf, "1", True]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "setting",
    [
        "CONCURRENCY", "GRACE", "PULSE", "MAX_RESULT_BYTES", "PRUNE_AFTER", "MAX_ATTEMPTS", "BACKOFF", "MAX_LOSSES",
        "IMPORT_GRACE",
    ],
)  # fmt: skip
def test_a_setting_that_no_one_can_count_with_is_refused_in_a_sentence(setting, value):
    """J9."""
    with pytest.raises(InvalidTaskBackend) as refusal:
        RayTaskBackend("default", {"OPTIONS": {setting: value}})
    said = str(refusal.value)
    assert said.startswith(f'TASKS["default"]["OPTIONS"]["{setting}"] is ')
    assert ": it must be " in said
    assert len(said) < 500


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "argument",
    ["num_cpus", "num_gpus", "memory", "timeout", "max_attempts", "resources", "base", "cap", "jitter", "factor"],
)
def test_an_argument_that_no_one_can_count_with_is_refused_in_a_sentence(argument, value):
    """J9."""
    said = {
        "resources": {"resources": {"x": value}},
        **{name: {"backoff": {name: value}} for name in ("base", "cap", "jitter", "factor")},
    }
    with pytest.raises(InvalidTask, match="must be") as refusal:
        tasks.add.using(**said.get(argument, {argument: value}))
    assert len(str(refusal.value)) < 500


def test_a_supervisor_refuses_such_settings_with_78(listen, tmp_path):
    """J9."""
    (tmp_path / "far.py").write_text(
        dedent("""
            from tests.settings import *
            TASKS["default"]["OPTIONS"] = {"PULSE": 10**400}
        """)
    )
    supervisor = listen("--sync", "--settings", "far", "--pythonpath", str(tmp_path))
    assert supervisor.wait() == 78
    assert '["PULSE"] is 1000' in supervisor.log
    assert "Traceback" not in supervisor.log


@pytest.mark.parametrize("argument", ["--grace", "--concurrency", "--metrics-port"])
@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "-1", "nan", "1e999", "x"])
def test_an_argument_of_the_command_line_is_refused_in_a_sentence(argument, value, capsys):
    """J9."""
    from django_ray_worker.main import main

    with pytest.raises(SystemExit) as end:
        main(["--settings", "tests.settings", argument, value])
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"django-ray-listen: error: argument {argument}: ")
    assert "not fit: it must be" in said or "is not a number" in said
    assert len(said) < 500


def test_options_of_more_than_64_kilobytes_are_refused_where_they_are_said():
    with pytest.raises(InvalidTask, match="bytes of JSON; 65,536 is the most"):
        tasks.add.using(runtime_env={"env_vars": {"A": "x" * 70_000}})


@pytest.mark.django_db
@pytest.mark.parametrize("seconds", [10**400, math.nan, "1"])
def test_a_time_to_wait_that_is_none_is_refused(seconds):
    result = tasks.add.enqueue(1, 2)
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        result.wait(timeout=seconds)
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        asyncio.run(result.await_result(timeout=seconds))


@pytest.mark.django_db
def test_other_numbers_are_refused_as_well():
    with pytest.raises(ValueError, match="ahead must be a timedelta of 0 to 100 years"):
        run_tasks(ahead=timedelta.max)
    with pytest.raises(ValueError, match="most must be a whole number"):
        RayTaskExecution.objects.all().prune(10**400)


# Moments.

WEST, EAST = timezone(timedelta(hours=-12)), timezone(timedelta(hours=14))


@pytest.mark.parametrize("zone", [UTC, WEST, EAST])
@pytest.mark.django_db
def test_the_ends_of_time_are_now_and_never(zone):
    """J9: what Python can say and the server's time zone would move out of its reach."""
    first = tasks.add.using(run_after=datetime.min.replace(tzinfo=zone)).enqueue(1, 2)
    last = tasks.add.using(run_after=datetime.max.replace(tzinfo=zone)).enqueue(3, 4)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TIME ZONE 'America/New_York'")
    assert [result.id for result in run_tasks()] == [first.id]
    first.refresh(), last.refresh()
    assert first.return_value == 3
    assert first.task.run_after == EARLIEST
    assert (last.status, last.task.run_after) == ("READY", LATEST)


@given(moment=st.datetimes(timezones=st.sampled_from([UTC, WEST, EAST])))
def test_any_moment_of_python_can_be_held_and_shown_in_any_time_zone(moment):
    assert EARLIEST <= held(moment) <= LATEST
    assert held(moment) in {moment, EARLIEST, LATEST}
    for zone in (timezone(-timedelta(hours=23, minutes=59)), timezone(timedelta(hours=23, minutes=59))):
        held(moment).astimezone(zone)
    assert parsed(held(moment).isoformat()) == held(moment)


@given(text=st.text() | st.integers() | st.none() | st.lists(st.none()))
def test_what_is_no_moment_is_none(text):
    assert parsed(text) is None or isinstance(parsed(text), datetime)


@pytest.fixture
def odd_rows(insert, connect):
    """One of everything that a web process may meet."""
    ids = [
        insert(**{column: moment})
        for column in ("enqueued_at", "run_after", "started_at", "last_attempted_at", "missing_since")
        for moment in ODD_MOMENTS
    ]
    ids += [insert(due_at=moment) for moment in ODD_MOMENTS]
    for moment in ODD_MOMENTS:
        common = {"errors": ODD_ERRORS, "last_attempted_at": moment, "started_at": "2026-01-01Z"}
        ids.append(insert(state="FAILED", finished_at=moment, cancel_requested_at=moment, **common))
        ids.append(insert(state="RUNNING", claimed_by_id=-1, worker_ids='[{"a": 1}, null, 5]', **common))
    ids += [insert(args=f"[{value}]", kwargs=f'{{"a": {value}}}') for value in (HUGE, LONGER, DEEP)]
    ids += [insert(state="SUCCESSFUL", finished_at="now", result=value) for value in (HUGE, LONGER, DEEP)]
    ids += [insert(state="FAILED", finished_at="now", errors=f"[{value}]") for value in (HUGE, LONGER, DEEP)]
    ids += [insert(options=value, carrier=value) for value in UNFIT.values()]
    ids += [insert(callable_path=path) for path in ("", ".", "..", ".x", "a..b", "\u202e\n", "x" * 100_000, "no.such")]
    session = connect()
    for queues in ("5", "[1, null]", "null", '"a"', f"[{LONGER}]"):
        session.execute(
            "INSERT INTO django_ray_worker (hostname, pid, backend, queues, concurrency, ray_address, version, pulse,"
            " pulse_at, started_at) VALUES ('h', 1, 'default', %s, 1, 'x', '0', 'NaN', 'infinity', '-infinity')",
            [queues],
        )
    session.execute(
        "INSERT INTO django_ray_queue (name, paused_at) VALUES ('default', 'infinity'), ('other', '-infinity')"
    )
    for minute in ("infinity", "294276-12-31Z", "2100-01-01Z", "now"):
        session.execute(
            "INSERT INTO django_ray_minute"
            " (minute, backend, queue_name, worker_id, succeeded, failed, retried, cancelled, waited, longest_wait)"
            " VALUES (%s, 'default', 'default', 1, %s, -5, %s, 0, 'NaN', 'Infinity'),"
            " (%s, 'default', 'default', 2, %s, -5, %s, 0, '-Infinity', -1)",
            [minute, MOST, MOST] * 2,
        )
    return ids


@pytest.mark.django_db(transaction=True)
def test_every_result_can_be_read_whatever_stands_in_its_row(odd_rows):
    """J9."""
    for task_id in odd_rows:
        result = task_backends["default"].get_result(str(task_id))
        assert result.id == str(task_id)
        assert result.attempts == len(result.worker_ids)
        assert all(isinstance(error.traceback, str) for error in result.errors)
        if not result.is_finished:
            with pytest.raises(TimeoutError):
                result.wait(timeout=0)


@pytest.mark.django_db(transaction=True)
def test_every_page_shows_whatever_stands_in_the_rows(odd_rows, client, settings):
    """J9."""
    client.force_login(User.objects.create_superuser("admin"))
    names = ("raytaskexecution_changelist", "rayqueue_changelist", "rayworker_changelist", "live")
    pages = [reverse(f"admin:django_ray_{name}") for name in names]
    pages += [reverse("admin:django_ray_raytaskexecution_change", args=[task_id]) for task_id in odd_rows]
    pages += [f"{pages[0]}?p={page}" for page in (1, 2)]
    pages += [reverse("admin:django_ray_rayworker_change", args=[worker.pk]) for worker in RayWorker.objects.all()]
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        settings.TIME_ZONE = zone
        for page in pages:
            assert client.get(page).status_code == 200, page


@pytest.mark.django_db(transaction=True)
def test_the_status_is_shown_whatever_stands_in_the_rows(odd_rows, capsys):
    """J9."""
    json.loads(json.dumps([queue.wait for queue in status.queues("default")], allow_nan=False))
    call_command("django_ray_status")
    call_command("django_ray_status", "--json")
    text = capsys.readouterr().out
    assert json.loads(text.splitlines()[-1], parse_constant=pytest.fail)["queues"]
    call_command("django_ray_retry", "--all")
    call_command("django_ray_cancel", "--all")
    call_command("django_ray_prune", "--older-than", "1d")


@given(element=JSON)
def test_any_element_of_errors_can_be_read(element):
    """J9."""
    error = StoredError.of(element)
    texts = (error.exception_class_path, error.message, error.traceback, error.attempt, error.worker_id)
    assert all(isinstance(text, str) and len(text) < 200_000 for text in texts)
