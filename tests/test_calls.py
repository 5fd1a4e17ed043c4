"""Several short executions in one call of Ray: faster, and each of them as safe as alone."""

import time

import pytest
from django.db.models import Max
from django.tasks import task_backends

from django_ray.models import RayTaskExecution, State
from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def two_slots(listen_for_all):
    return listen_for_all("--local", "--concurrency", "2")


@pytest.fixture
def trusted(two_slots, transactional_db):
    """A supervisor that has seen the task `play` take no time, so that many of them share a call."""
    enqueue("quick", number=500)
    wait_for_all()
    RayTaskExecution.objects.all().delete()
    return two_slots


def enqueue(*what, number=1, task=tasks.play):
    return task_backends["default"].enqueue_many(
        [(task, one if isinstance(one, tuple) else (one,), {}) for one in what * number]
    )


def wait_for_all():
    until(
        lambda: not RayTaskExecution.objects.filter(state__in=[State.READY, State.RUNNING]).exists(),
        what="the end of all",
    )


def states():
    return set(RayTaskExecution.objects.values_list("state", flat=True))


def test_a_deep_backlog_is_claimed_and_recorded_in_few_statements(trusted):
    statements = []
    # On a busy machine a body takes long, and fewer share a call: then it is tried again.
    while not statements or (min(statements) > 200 and len(statements) < 5):
        RayTaskExecution.objects.all().delete()
        enqueue("quick", number=2000)
        wait_for_all()
        assert states() == {State.SUCCESSFUL}
        # One moment for each statement.
        claims = RayTaskExecution.objects.values("last_attempted_at").distinct().count()
        records = RayTaskExecution.objects.values("finished_at").distinct().count()
        statements.append(claims + records)
    assert min(statements) <= 200


def test_nothing_waits_behind_a_long_body_in_its_call_neither_to_start_nor_for_its_outcome(trusted, tmp_path):
    enqueue(*["quick"] * 20, ("hold", str(tmp_path / "a")), *["quick"] * 20)
    try:
        until(lambda: RayTaskExecution.objects.filter(state=State.SUCCESSFUL).count() == 40, what="all the others")
        assert (tmp_path / "a").exists()
    finally:
        (tmp_path / "a.go").touch()
    wait_for_all()
    assert states() == {State.SUCCESSFUL}
    assert RayTaskExecution.objects.aggregate(most=Max("failures"))["most"] == 0
    attempts = {len(worker_ids) for worker_ids in RayTaskExecution.objects.values_list("worker_ids", flat=True)}
    assert attempts == {1}, "a claim that was given back before its body began shows as an attempt"


def test_a_failure_in_a_call_is_its_own(trusted):
    enqueue(*["quick"] * 20, "fail", *["quick"] * 20, task=tasks.play.using(max_attempts=1))
    wait_for_all()
    failed = RayTaskExecution.objects.filter(state=State.FAILED).get()
    assert (failed.args, failed.exception_type) == (["fail"], "builtins.ValueError")


@pytest.mark.slow
def test_a_body_that_ends_its_process_costs_the_others_of_its_call_nothing(trusted):
    """C2: the call is lost, nobody knows to whom; each runs alone then, and the guilty one is found."""
    enqueue(*["quick"] * 20, "exit", *["quick"] * 20)
    wait_for_all()
    guilty = RayTaskExecution.objects.filter(state=State.FAILED).get()
    assert (guilty.args, guilty.exception_type, guilty.losses) == (["exit"], "django_ray.exceptions.TaskLost", 4)
    others = RayTaskExecution.objects.filter(state=State.SUCCESSFUL)
    assert set(others.values_list("failures", "losses")) == {(0, 0)}


def test_a_long_body_in_a_call_is_cancelled_alone(trusted, tmp_path):
    enqueue(*["quick"] * 20, ("hold", str(tmp_path / "a")), *["quick"] * 20)
    until((tmp_path / "a").exists, what="the start")
    (hold,) = [row for row in RayTaskExecution.objects.all() if row.args[0] == "hold"]
    began = time.monotonic()
    RayTaskExecution.objects.filter(pk=hold.pk).cancel()
    until(lambda: RayTaskExecution.objects.get(pk=hold.pk).state == State.CANCELLED)
    print(f"cancelled in {time.monotonic() - began:.3f} s")
    wait_for_all()
    assert RayTaskExecution.objects.filter(state=State.SUCCESSFUL).count() == 40


def test_who_waits_for_a_long_body_in_its_call_can_be_cancelled(trusted, tmp_path):
    with_file = str(tmp_path / "a"), str(tmp_path / "b")
    enqueue(("hold", with_file[0]), ("hold", with_file[1]), *["quick"] * 40)
    until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists(), what="both slots taken")
    quick = RayTaskExecution.objects.filter(args__0="quick")
    quick.filter(state__in=[State.READY, State.RUNNING]).cancel()
    until(lambda: not quick.filter(state__in=[State.READY, State.RUNNING]).exists(), what="their end")
    (tmp_path / "a.go").touch()
    (tmp_path / "b.go").touch()
    wait_for_all()
    assert RayTaskExecution.objects.filter(args__0="hold", state=State.SUCCESSFUL).count() == 2


@pytest.mark.parametrize("limit", ["timeout", pytest.param("stall_timeout", marks=pytest.mark.slow)])
def test_a_timeout_in_a_call_strikes_the_body_that_runs(trusted, tmp_path, limit):
    enqueue(
        *["quick"] * 20,
        ("hold", str(tmp_path / "a")),
        *["quick"] * 20,
        task=tasks.play.using(max_attempts=1, **{limit: 1}),
    )
    wait_for_all()
    failed = RayTaskExecution.objects.filter(state=State.FAILED).get()
    assert (failed.args[0], failed.exception_type) == ("hold", "django_ray.exceptions.TaskTimeout")
    # Its time begins after its claim, and hardly later than its body, which may wait for a Ray worker.
    assert (failed.finished_at - failed.last_attempted_at).total_seconds() > 0.99
    assert failed.finished_at.timestamp() - (tmp_path / "a").stat().st_mtime < 3


def test_each_body_in_a_call_runs_once(trusted, tmp_path):
    path = tmp_path / "count"
    enqueue(("count", str(path)), number=500)
    wait_for_all()
    assert len(path.read_text()) == 500
