"""Flows: results as arguments, order without a value, what becomes of what waits when something ends in another way."""

import json
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.tasks import TaskResultStatus, default_task_backend
from django.tasks.exceptions import InvalidTask

from django_ray import Flow
from django_ray.membership import Membership, membership
from django_ray.models import RayEdge, RayFlow, RayTaskExecution, State
from django_ray.testing import run_tasks
from tests.tasks import add, double, fail, fail_unless, fan_out, look_back, total

pytestmark = pytest.mark.django_db(transaction=True)
FAILED = "django_ray.exceptions.UpstreamFailed"


def row(result):
    return RayTaskExecution.objects.get(pk=result.id)


def state(*results):
    return [row(result).state for result in results]


def value(result):
    result.refresh()
    return result.return_value


def end(execution, to="SUCCESSFUL", **columns):
    """End an execution as somebody who writes SQL."""
    RayTaskExecution.objects.filter(pk=execution.id).update(
        state=to, claimed_by=None, finished_at=row(execution).enqueued_at, **columns
    )


def test_a_result_as_an_argument_is_its_value():
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 10)
    assert state(first, second) == ["READY", "WAITING"]
    assert second.args == [first.id, 10]
    assert [result.id for result in run_tasks()] == [first.id, second.id]
    assert value(second) == 13


def test_results_may_stand_anywhere_in_the_arguments():
    parts = default_task_backend.enqueue_many([(double, [number], {}) for number in range(5)])
    extra = double.enqueue(50)
    merged = total.enqueue((parts[0], *parts[1:]), more=extra)
    nested = total.enqueue(numbers=[parts[4], 1, merged])
    run_tasks()
    assert value(merged) == 20 + 100
    assert value(nested) == 8 + 1 + 120


def test_the_same_result_twice_is_one_edge():
    first = add.enqueue(1, 2)
    second = add.enqueue(first, first)
    assert RayEdge.objects.count() == 1
    run_tasks()
    assert value(second) == 6


def test_a_finished_result_is_an_argument_like_any_other():
    first = add.enqueue(1, 2)
    run_tasks()
    second = add.enqueue(default_task_backend.get_result(first.id), 1)
    assert state(second) == ["READY"]
    run_tasks()
    assert value(second) == 4


def test_what_a_stranger_passes_is_no_result():
    first = add.enqueue(1, 2)
    second = total.enqueue([], first.id)
    assert state(second) == ["READY"]
    assert row(second).carrier is None


def test_a_result_of_somebody_else_is_refused():
    from django.tasks import TaskResult

    stranger = object.__new__(TaskResult)
    with pytest.raises(TypeError, match="TaskResult, which is not JSON: only a result of RayTaskBackend"):
        add.enqueue(stranger, 1)
    with pytest.raises(InvalidTask, match="it must be a result of enqueue"):
        add.using(after="0193").enqueue(1, 2)
    with pytest.raises(InvalidTask, match="which is no result"):
        add.using(after=[1]).enqueue(1, 2)
    with pytest.raises(InvalidTask, match=r'needs is .sometimes.: it must be "success"'):
        add.using(needs="sometimes").enqueue(1, 2)


def test_all_of_it_is_in_the_caller_s_transaction():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add.enqueue(add.enqueue(1, 2), 1)
        1 / 0  # noqa: B018
    assert RayTaskExecution.objects.count() == RayEdge.objects.count() == 0


def test_order_without_a_value():
    first = add.enqueue(1, 2)
    second = add.using(after=first).enqueue(5, 5)
    third = add.using(after=[first, second]).enqueue(1, 1)
    assert state(first, second, third) == ["READY", "WAITING", "WAITING"]
    assert [result.id for result in run_tasks()] == [first.id, second.id, third.id]


def test_what_depends_on_a_failure_fails_at_once_and_names_it():
    first = fail.enqueue("no such file")
    second = add.enqueue(first, 1)
    third = add.using(after=second).enqueue(1, 1)
    other = add.enqueue(1, 1)
    run_tasks()
    assert state(first, second, third, other) == ["FAILED", "FAILED", "FAILED", "SUCCESSFUL"]
    for result in (second, third):
        (error,) = row(result).errors
        assert error["exception_class_path"] == FAILED
        assert error["message"] == f"tests.tasks.fail {first.id} failed: builtins.ValueError: no such file"
        assert error["upstream"] == first.id
    third.refresh()
    assert third.errors[0].exception_class_path == FAILED


def test_what_depends_on_a_cancelled_one_fails():
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    assert first.cancel()
    assert state(first, second) == ["CANCELLED", "FAILED"]
    assert row(second).error_message == f"tests.tasks.add {first.id} was cancelled."


def test_what_depends_on_a_deleted_one_fails():
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    end_only = look_back.using(after=first, needs="end").enqueue()
    RayTaskExecution.objects.filter(pk=first.id).delete()
    assert state(second, end_only) == ["FAILED", "READY"]
    assert row(second).error_message == f"The execution {first.id}, which it waited for, is gone."
    gone = add.enqueue(first, 1)
    assert state(gone) == ["FAILED"]


def test_needs_end_runs_whatever_happened_and_sees_it():
    good, bad = add.enqueue(1, 2), fail.enqueue("no")
    seen = look_back.using(needs="end").enqueue(good, bad)
    after = look_back.using(after=[bad, good], needs="end").enqueue()
    run_tasks()
    assert value(seen) == {
        "arguments": [["SUCCESSFUL", 3], ["FAILED", None]],
        "upstreams": [["add", "SUCCESSFUL", []], ["fail", "FAILED", ["builtins.ValueError"]]],
    }
    assert value(after)["upstreams"][0][:2] == ["fail", "FAILED"]


def test_retrying_the_failed_one_revives_what_failed_because_of_it(tmp_path):
    missing, other = tmp_path / "missing", tmp_path / "other"
    first = fail_unless.enqueue(str(missing))
    still = fail_unless.enqueue(str(other))
    done = add.enqueue(1, 2)
    second = total.enqueue([], 1)
    branch = add.using(after=[first, done]).enqueue(1, 1)
    leaf = add.using(after=branch).enqueue(2, 2)
    both = add.using(after=[first, still]).enqueue(3, 3)
    below = add.using(after=[both, leaf]).enqueue(4, 4)
    callback = look_back.using(after=first, needs="end").enqueue()
    ran = [result.id for result in run_tasks()]
    assert state(first, still, branch, leaf, both, below, callback) == ["FAILED"] * 6 + ["SUCCESSFUL"]
    assert done.id in ran
    assert second.id in ran
    missing.touch()
    assert RayTaskExecution.objects.filter(pk=first.id).retry() == 1
    assert state(first, branch, leaf, both, below) == ["READY", "WAITING", "WAITING", "FAILED", "FAILED"]
    again = [result.id for result in run_tasks()]
    assert sorted(again) == sorted([first.id, branch.id, leaf.id, callback.id])
    assert value(callback)["upstreams"] == [["fail_unless", "SUCCESSFUL", ["builtins.ValueError"]]]
    assert state(both, below) == ["FAILED", "FAILED"]
    other.touch()
    RayTaskExecution.objects.filter(pk=still.id).retry()
    assert sorted(result.id for result in run_tasks()) == sorted([still.id, both.id, below.id])


def test_who_is_retried_alone_fails_again_while_its_upstream_has_failed():
    first = fail.enqueue("no")
    second = add.enqueue(first, 1)
    run_tasks()
    RayTaskExecution.objects.filter(pk=second.id).retry()
    assert state(second) == ["FAILED"]
    assert len(row(second).errors) == 2


def test_a_retry_of_both_at_once_is_one_of_the_first(tmp_path):
    first = fail_unless.enqueue(str(tmp_path / "x"))
    second = add.using(after=first).enqueue(1, 1)
    run_tasks()
    (tmp_path / "x").touch()
    RayTaskExecution.objects.all().retry()
    assert state(first, second) == ["READY", "WAITING"]
    run_tasks()
    assert state(first, second) == ["SUCCESSFUL", "SUCCESSFUL"]


def test_a_held_execution_cannot_be_made_ready_by_hand():
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    RayTaskExecution.objects.filter(pk=second.id).update(state=State.READY)
    assert state(second) == ["WAITING"]


def test_a_gate_comes_after_what_it_waits_for():
    first = add.enqueue(1, 2)
    second = add.using(after=first, limit=1, gate="g", when_full="cancel_new").enqueue(1, 1)
    held = row(second)
    assert (held.state, held.gate) == ("WAITING", None)
    end(first, result=3)
    freed = row(second)
    assert (freed.state, freed.gate, freed.gate_rule) == ("WAITING", "g", {"limit": 1, "full": "cancel_new"})
    run_tasks()
    assert state(second) == ["SUCCESSFUL"]


def test_a_time_and_an_upstream_are_both_waited_for():
    from datetime import timedelta

    first = add.enqueue(1, 2)
    second = add.using(after=first, run_after=timedelta(hours=1)).enqueue(1, 1)
    assert row(second).due_at is None
    end(first, result=3)
    late = row(second)
    assert (late.state, late.due_at) == ("READY", late.run_after)


def test_unique_and_results(tmp_path):
    first = add.enqueue(1, 2)
    second = add.using(unique=True).enqueue(first, 1)
    twin = add.using(unique=True).enqueue(first, 1)
    assert twin.is_duplicate
    assert twin.id == second.id
    assert RayEdge.objects.count() == 1
    with pytest.raises(InvalidTask, match='unique="replace"'):
        add.using(unique="replace").enqueue(first, 1)


def test_results_that_somebody_waits_for_are_not_pruned():
    first = add.enqueue(1, 2)
    run_tasks()
    second = add.enqueue(first, 1)
    assert RayTaskExecution.objects.prune() == 0
    run_tasks()
    assert RayTaskExecution.objects.prune() == 2
    assert RayEdge.objects.count() == 0
    assert second


def test_a_result_that_is_gone_is_a_failure_without_a_second_attempt():
    first = add.enqueue(1, 2)
    run_tasks()
    second = add.using(max_attempts=5).enqueue(first, 1)
    RayTaskExecution.objects.filter(pk=first.id).delete()
    run_tasks()
    assert state(second) == ["FAILED"]
    assert row(second).errors[-1]["exception_class_path"] == FAILED
    assert row(second).attempt_number == 1


def test_a_version_without_flows_gives_it_back():
    second = add.enqueue(add.enqueue(1, 2), 1)
    assert row(second).options == {"needs": "success"}


class TestFlow:
    def test_it_has_what_is_enqueued_in_it(self):
        outside = add.enqueue(1, 1)
        with Flow("import 42") as flow:
            pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(3)])
            total.enqueue(pages)
        add.enqueue(1, 1)
        assert flow.executions.count() == 4
        assert RayFlow.objects.get().name == "import 42"
        assert row(outside).flow_id is None
        progress = flow.progress()
        assert (progress.blocked, progress.ready, progress.total, progress.fraction) == (1, 3, 4, 0.0)
        run_tasks()
        assert flow.wait(timeout=1).is_finished
        assert Flow.get(flow.id).progress().successful == 4

    def test_what_its_executions_enqueue_belongs_to_it(self):
        with Flow() as flow:
            parent = fan_out.enqueue([1, 2, 3])
        run_tasks()
        assert flow.progress().successful == 4
        children = flow.executions.exclude(pk=parent.id)
        assert {child.carrier["flow"]["parent"] for child in children} == {parent.id}

    def test_the_block_is_a_transaction(self):
        with pytest.raises(ZeroDivisionError), Flow():
            add.enqueue(1, 1)
            1 / 0  # noqa: B018
        assert RayFlow.objects.count() == RayTaskExecution.objects.count() == 0

    def test_cancel_takes_all_that_has_not_ended_and_what_comes(self):
        with Flow() as flow:
            first = add.enqueue(1, 1)
            second = add.enqueue(first, 1)
        outside = add.using(after=second).enqueue(1, 1)
        assert flow.cancel() == 2
        assert state(first, second, outside) == ["CANCELLED", "CANCELLED", "FAILED"]
        carrier = {"flow": {"id": flow.id}}
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO django_ray_execution (callable_path, carrier, flow_id) VALUES ('tests.tasks.add', %s, %s)",
                [json.dumps(carrier), flow.id],
            )
        assert set(flow.executions.values_list("state", flat=True)) == {"CANCELLED"}
        assert flow.cancel() == 0

    def test_retry_runs_what_failed_and_not_what_succeeded(self, tmp_path):
        with Flow() as flow:
            good = add.enqueue(1, 1)
            bad = fail_unless.enqueue(str(tmp_path / "x"))
            last = add.using(after=[good, bad]).enqueue(1, 1)
        run_tasks()
        assert state(good, bad, last) == ["SUCCESSFUL", "FAILED", "FAILED"]
        (tmp_path / "x").touch()
        assert flow.retry() == 2
        assert sorted(result.id for result in run_tasks()) == sorted([bad.id, last.id])
        assert flow.progress().successful == 3

    def test_what_comes_after_a_cancel_is_cancelled_with_what_waits_for_it(self):
        """As a body does that still runs: what it enqueues first is cancelled before the other one is there."""
        with Flow() as flow:
            add.enqueue(1, 1)
        flow.cancel()
        token = membership.set(Membership(flow.id))
        first = add.enqueue(1, 1)
        assert state(first) == ["CANCELLED"]
        second = add.enqueue(first, 1)
        membership.reset(token)
        outside = add.enqueue(second, 1)
        assert state(second, outside) == ["CANCELLED", "FAILED"]
        assert row(second).errors[-1]["message"] == "The flow was cancelled."
        assert flow.retry() >= 3
        assert state(first, second, outside) == ["READY", "WAITING", "WAITING"]

    def test_retry_after_a_cancel_goes_on(self):
        with Flow() as flow:
            first = add.enqueue(1, 1)
            second = add.enqueue(first, 1)
        flow.cancel()
        assert flow.retry() == 2
        assert state(first, second) == ["READY", "WAITING"]
        run_tasks()
        assert value(second) == 3

    def test_waiting_takes_no_longer_than_it_may(self):
        with Flow("slow") as flow:
            add.enqueue(1, 1)
        with pytest.raises(TimeoutError, match=r"0 of 1 executions of the flow 'slow' have ended after 0\.01 s"):
            flow.wait(timeout=0.01)

    def test_what_has_come_back_between_two_looks_is_waited_for(self, monkeypatch):
        """It was RUNNING when READY was looked for, and READY when RUNNING was."""
        looks, unfinished = [None], Flow._unfinished
        monkeypatch.setattr(Flow, "_unfinished", lambda flow: looks.pop() if looks else unfinished(flow))
        with Flow("slow") as flow:
            add.enqueue(1, 1)
        with pytest.raises(TimeoutError, match="0 of 1 executions"):
            flow.wait(timeout=0.01)
        assert looks == []

    def test_errors(self):
        with pytest.raises(LookupError, match="There is no flow"):
            Flow.get(uuid4())
        with pytest.raises(LookupError):
            Flow.get("x")
        with pytest.raises(ValueError, match="255 characters"):
            Flow("x" * 256)
        with pytest.raises(RuntimeError, match="has not begun"):
            Flow().id  # noqa: B018
        with Flow() as flow:
            pass
        with pytest.raises(RuntimeError, match="has been used"), flow:
            pass
        assert flow.progress().is_finished


def test_the_status_is_ready_for_django():
    second = add.enqueue(add.enqueue(1, 2), 1)
    second.refresh()
    assert second.status == TaskResultStatus.READY


def test_why_says_what_it_waits_for():
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    assert second.why() == f"It waits for tests.tasks.add {first.id} to succeed, which has not started."
    many = default_task_backend.enqueue_many([(add, [1, 2], {}) for _ in range(3)])
    third = look_back.using(after=many, needs="end").enqueue()
    assert third.why() == (
        f"It waits for 3 executions to end: the first of them, tests.tasks.add {many[0].id}, has not started."
    )
