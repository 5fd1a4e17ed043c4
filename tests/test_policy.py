"""The pure core: policy, retry, serialization, results."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest
from django.tasks import TaskResultStatus
from hypothesis import given
from hypothesis import strategies as st

from django_ray.requirements import TaskOptions
from django_ray.results import import_task, task_result
from django_ray.retry import MOST_RELEASED, Backoff, RetryPolicy
from django_ray.serialization import clean_text, encode, jsonable
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.limits import overrun
from django_ray_worker.core.outcome import (
    Cancelled,
    Error,
    Gone,
    Interrupted,
    Lost,
    Missing,
    OutOfMemory,
    Raised,
    Refused,
    Returned,
    Stalled,
    TimedOut,
    Unplaced,
    Unprepared,
    Unstarted,
)
from django_ray_worker.core.policy import Cancel, Fail, Postpone, Release, Retry, Succeed, decide

CLAIM = Claim(
    task_id=UUID(int=1),
    attempt=1,
    worker=1,
    queue_name="default",
    callable_path="tests.tasks.add",
    options=TaskOptions(),
    unfit="",
    failures=0,
    losses=0,
    missing_for=0.0,
    waited=0.0,
    payload="{}",
)
ERROR = Error(
    exception_class_path="app.Oops",
    message="m",
    traceback="t",
    mro=("app.Oops", "builtins.ValueError", "builtins.Exception", "builtins.BaseException", "builtins.object"),
)

backoffs = st.builds(
    Backoff,
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    cap=st.floats(0, 1e6),
    jitter=st.floats(0, 10),
)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    backoff=backoffs,
    retry_on=st.none() | st.lists(st.sampled_from(ERROR.mro), max_size=2).map(tuple),
    no_retry_on=st.lists(st.sampled_from(ERROR.mro), max_size=1).map(tuple),
    max_losses=st.integers(0, 5),
    import_grace=st.sampled_from([0, 60.0, 600.0]),
)
claims = st.builds(
    lambda retry, failures, losses, missing_for: replace(
        CLAIM,
        options=TaskOptions(retry=retry, timeout=None, ray={}),
        failures=failures,
        losses=losses,
        missing_for=missing_for,
    ),
    policies,
    st.integers(0, 30),
    st.integers(0, 10),
    st.floats(0, 1000),
)
claims = st.builds(lambda claim, released: replace(claim, released=released), claims, st.integers(0, 2000))
outcomes = st.sampled_from(
    [
        Returned("1"),
        Raised(ERROR),
        Refused(ERROR),
        TimedOut(1.0),
        Stalled(1.0),
        Cancelled(),
        Lost("died"),
        Interrupted(),
        Unstarted(),
        Unplaced(),
        Missing(ERROR),
        Unprepared(ERROR),
        OutOfMemory("full"),
        Gone("gone"),
    ]
)
chances = st.floats(0, 1)


@given(claims, outcomes, chances)
def test_every_outcome_has_a_verdict_and_nothing_is_retried_for_ever(claim, outcome, chance):
    verdict = decide(claim, outcome, chance)
    policy = claim.options.retry
    match verdict:
        case Retry():
            assert 0 <= verdict.after <= max(policy.backoff.cap, 900)
            assert verdict.failures + verdict.losses == 1 or isinstance(outcome, OutOfMemory)
            assert claim.failures + verdict.failures < policy.max_attempts or not verdict.failures
            assert claim.losses + verdict.losses <= policy.max_losses or not verdict.losses
        case Fail():
            assert verdict.error.traceback
        case Succeed():
            assert isinstance(outcome, Returned)
        case Cancel():
            assert isinstance(outcome, Cancelled)
        case Release():
            assert isinstance(outcome, Interrupted | Gone | Unstarted | Unplaced)
            assert verdict.has_begun == isinstance(outcome, Interrupted | Gone)
            assert verdict.released > claim.released or verdict.released == MOST_RELEASED
        case Postpone():
            assert isinstance(outcome, Missing | Unprepared)
            assert claim.missing_for < policy.import_grace or claim.released < 10
            assert 0.5 <= verdict.after <= 45
            assert verdict.released > claim.released or verdict.released == MOST_RELEASED


@given(claims, chances)
def test_being_interrupted_or_lost_costs_no_attempt(claim, chance):
    for outcome in (Interrupted(), Unstarted()):
        assert isinstance(decide(claim, outcome, chance), Release)
    lost = decide(claim, Lost("died"), chance)
    assert isinstance(lost, Retry | Fail)
    assert lost.failures == 0


def test_what_no_node_can_run_is_claimed_again_more_and_more_seldom():
    afters = [decide(replace(CLAIM, released=released), Unplaced(), 0).after for released in (0, 1, 2, 50)]
    assert afters == [15, 30, 60, 600]


def test_what_no_code_here_knows_is_claimed_again_until_the_grace_is_over():
    seen = [
        decide(replace(CLAIM, missing_for=seconds, released=tries), Missing(ERROR), 0.5)
        for tries, seconds in enumerate((0, 4, 90, 599))
    ]
    afters = ((1, 1), (4, 2), (30, 3), (30, 4))
    assert seen == [Postpone(error=ERROR, after=after, released=times) for after, times in afters]
    assert decide(replace(CLAIM, missing_for=600, released=20), Missing(ERROR), 0.5) == Fail(error=ERROR, failures=1)


def test_a_failure_is_retried_until_max_attempts():
    kinds = [type(decide(replace(CLAIM, failures=failures), Raised(ERROR), 0)) for failures in range(4)]
    assert kinds == [Retry, Retry, Fail, Fail]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [(TimedOut(1.5), "ran longer than 1.5 s"), (Stalled(60.0), "stalled: no progress() for 60 s. If it was at work")],
)
def test_a_timeout_counts_as_a_failure_with_its_own_class(outcome, says):
    verdict = decide(CLAIM, outcome, 0)
    assert isinstance(verdict, Retry)
    assert verdict.failures == 1
    assert verdict.error.exception_class_path == "django_ray.exceptions.TaskTimeout"
    assert says in verdict.error.message


@pytest.mark.parametrize(
    ("timeout", "stall_timeout", "ran", "quiet", "outcome"),
    [
        (None, None, 1e9, 1e9, None),
        (10, None, 9, 9, None),
        (10, None, 10, 0, TimedOut(10)),
        (None, 5, 1000, 4, None),
        (None, 5, 5, 5, Stalled(5)),
        (10, 5, 9, 6, Stalled(5)),
        (10, 5, 11, 4, TimedOut(10)),
        (10, 5, 20, 6, TimedOut(10)),  # it was over nine seconds before the silence
        (10, 5, 11, 11, Stalled(5)),
    ],
)
def test_of_two_limits_the_one_that_came_first_counts(timeout, stall_timeout, ran, quiet, outcome):
    assert overrun(TaskOptions(timeout=timeout, stall_timeout=stall_timeout), ran, quiet) == outcome


@pytest.mark.parametrize(
    ("retry_on", "no_retry_on", "retries"),
    [
        (None, (), True),
        (None, ("builtins.ValueError",), False),
        (("builtins.ValueError",), (), True),
        (("builtins.KeyError",), (), False),
        (("builtins.ValueError",), ("app.Oops",), False),
        ((), (), False),
    ],
)
def test_classes_are_matched_through_their_bases(retry_on, no_retry_on, retries):
    policy = RetryPolicy(retry_on=retry_on, no_retry_on=no_retry_on)
    assert policy.retries_failure(1, ERROR.mro) is retries


@given(backoffs, st.integers(1, 10_000), chances)
def test_a_backoff_is_finite_and_capped_and_never_overflows(backoff, failures, chance):
    seconds = backoff.seconds(failures, chance)
    assert math.isfinite(seconds)
    assert 0 <= seconds <= backoff.cap


@given(backoffs, st.integers(1, 100))
def test_a_backoff_never_shrinks(backoff, failures):
    assert backoff.seconds(failures, 0) <= backoff.seconds(failures + 1, 0)


@given(policies)
def test_a_policy_survives_the_row(policy):
    stored = json.loads(
        json.dumps(
            {
                "max_attempts": policy.max_attempts,
                "backoff": {name: getattr(policy.backoff, name) for name in Backoff.__slots__},
                "retry_on": policy.retry_on,
                "no_retry_on": policy.no_retry_on,
                "max_losses": policy.max_losses,
                "import_grace": policy.import_grace,
            }
        )
    )
    assert RetryPolicy().changed(stored) == policy


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)
anything = st.recursive(
    json_values | st.binary() | st.floats() | st.sets(st.integers()) | st.datetimes() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)


@given(anything)
def test_whatever_passes_can_be_stored_and_read_back(value):
    try:
        text = encode(jsonable(value, "args[0]"))
    except (TypeError, ValueError) as refusal:
        assert "args[0]" in str(refusal)
    else:
        assert "\x00" not in text
        assert "\\u0000" not in text
        text.encode()
        assert json.loads(text) == jsonable(value, "args[0]")


@given(json_values)
def test_normalising_twice_changes_nothing(value):
    try:
        once = jsonable(value, "x")
    except ValueError:
        return
    assert jsonable(once, "x") == once


def test_own_encoding_is_used_wherever_it_stands():
    class Money:
        def __json__(self):
            return {"amount": 3}

    assert jsonable({"a": [Money()]}, "x") == {"a": [{"amount": 3}]}


def test_what_contains_itself_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match="contains itself"):
        jsonable(circle, "x")


def test_a_number_too_long_to_print_is_refused():
    with pytest.raises(ValueError, match="digits"):
        jsonable(10**5000, "x")


@given(st.text(st.characters()), st.integers(10, 200))
def test_cleaned_text_can_be_stored_and_is_bounded(text, limit):
    cleaned = clean_text(text, limit)
    cleaned.encode()
    assert "\x00" not in cleaned
    assert len(cleaned) <= limit + 60


moments = st.none() | st.datetimes(timezones=st.just(UTC))


@given(
    st.sampled_from(["WAITING", "READY", "RUNNING", "SUCCESSFUL", "FAILED", "CANCELLED"]),
    moments,
    st.lists(st.text(), max_size=3),
    json_values,
)
def test_a_row_becomes_the_result_that_django_defines(state, moment, worker_ids, value):
    row = SimpleNamespace(
        task_id=UUID(int=7), state=state, backend="default", queue_name="gone", priority=3, run_after=moment,
        enqueued_at=datetime(2026, 1, 1, tzinfo=UTC), started_at=moment, last_attempted_at=moment, finished_at=moment,
        args=[1], kwargs={"b": 2}, result=value, worker_ids=worker_ids, carrier=None,
        errors=[{"exception_class_path": "builtins.ValueError", "message": "m", "traceback": "t"}],
    )  # fmt: skip
    result = task_result(import_task("tests.tasks.add"), row)
    assert result.status == {"CANCELLED": TaskResultStatus.FAILED, "WAITING": TaskResultStatus.READY}.get(state, state)
    assert result.attempts == len(worker_ids)
    assert (result.task.queue_name, result.task.priority, result.task.run_after) == ("gone", 3, moment)
    assert result.errors[0].exception_class is ValueError
    if state == "SUCCESSFUL":
        assert result.return_value == value
    else:
        with pytest.raises(ValueError, match="Task"):
            _ = result.return_value


@pytest.mark.parametrize("path", ["os.system", "tests.tasks.not_a_task", "builtins.print"])
def test_what_is_not_a_task_is_refused(path):
    with pytest.raises(TypeError, match="not a task"):
        import_task(path)


@pytest.mark.parametrize(
    "options",
    [3, [], {"nonsense": 1}, {"retry": 3}, {"retry": {"max_attempts": "x"}}, {"ray": []}, {"timeout": "x"}],
)
def test_options_of_a_row_that_do_not_fit_are_a_value_error(options):
    with pytest.raises(ValueError, match=r"\w"):
        TaskOptions().changed(options)
