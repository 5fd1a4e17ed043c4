"""Flows with a real Ray: one django-ray-listen --local serves this module."""

from pathlib import Path

import pytest
from django.tasks import task_backends

from django_ray import Flow
from django_ray.models import RayTaskExecution, State
from tests.flowing import after, gather, leaf, merge, shelf, spread, tell, tell_slowly
from tests.supervisors import until
from tests.tasks import add, double, fail_unless, total

pytestmark = pytest.mark.django_db(transaction=True)


def noted(path):
    return Path(path).read_text(encoding="utf-8").split() if Path(path).exists() else []


def states(flow):
    return set(flow.executions.values_list("state", flat=True))


def test_the_results_of_a_fan_in_pass_through_ray(on_ray, tmp_path):
    """Texts of a thousand characters, which no claim carries; and each body runs once."""
    path = str(tmp_path / "ledger")
    with Flow("shelves") as flow:
        shelves = task_backends["default"].enqueue_many([(shelf, [number, path], {}) for number in range(20)])
        merged = merge.enqueue(shelves, path)
        summed = total.enqueue([double.enqueue(number) for number in range(20)], more=add.enqueue(1, 2))
    assert flow.wait(timeout=60).successful == 43
    assert merged.wait(timeout=60).return_value == [[number, number, True] for number in range(20)]
    assert summed.wait(timeout=60).return_value == 383
    ledger = noted(path)
    assert ledger[-1] == "merge"
    assert sorted(ledger[:-1]) == sorted(f"shelf{number}" for number in range(20))


def test_a_flow_that_is_cancelled_while_its_bodies_enqueue_leaves_none(on_ray, connect, tmp_path):
    """S8: what they enqueue meanwhile, and afterwards, is cancelled; nothing of it runs any more."""
    path = str(tmp_path / "ledger")
    with Flow("spreading") as flow:
        spreading = [spread.enqueue(path, str(tmp_path)) for _ in range(2)]
        tell.using(after=spreading).enqueue(path)
    until(lambda: "gather" in noted(path), what="the first of what they enqueue has run")
    assert flow.cancel() > 0
    progress = flow.wait(timeout=60)
    assert (progress.unfinished, progress.failed) == (0, 0)
    begun = noted(path)
    total_then = progress.total
    # All that has been enqueued is there by now: the bodies have ended. A task that comes later overtakes nobody.
    assert {one.state for one in RayTaskExecution.objects.filter(pk__in=[one.id for one in spreading])} == {"CANCELLED"}
    assert add.enqueue(1, 1).wait(timeout=60).return_value == 2
    assert noted(path) == begun
    assert flow.progress().total == total_then
    assert states(flow) == {State.SUCCESSFUL, State.CANCELLED}
    assert "tell" not in "".join(begun)
    # Whoever has not run has not begun; each that has run is SUCCESSFUL, or was stopped.
    ran = flow.executions.filter(state=State.SUCCESSFUL).count()
    assert ran <= len(begun) <= ran + flow.executions.filter(started_at__isnull=False, state=State.CANCELLED).count()


def test_a_retry_of_the_failed_one_revives_the_branch_and_runs_nothing_twice(on_ray, tmp_path):
    """S3, S4: callbacks run once more, since there is a new end."""
    path, there = str(tmp_path / "ledger"), tmp_path / "there"
    with Flow("branches") as flow:
        failing = fail_unless.enqueue(str(there))
        good = leaf.enqueue(path, 1)
        last = after.enqueue(after.enqueue(failing, path), path)
        both = gather.enqueue([good, failing], path)
        tell.using(after=[failing, good]).enqueue(path)
    progress = flow.wait(timeout=60)
    assert (progress.successful, progress.failed) == (2, 4)
    assert sorted(noted(path)) == ["leaf1", "tell:FAILED,SUCCESSFUL"]
    there.touch()
    assert RayTaskExecution.objects.filter(pk=failing.id).retry() == 1
    assert flow.wait(timeout=60).successful == 6
    assert sorted(noted(path)) == [
        "after", "after", "gather", "leaf1", "tell:FAILED,SUCCESSFUL", "tell:SUCCESSFUL,SUCCESSFUL",
    ]  # fmt: skip
    assert last.wait(timeout=60).return_value == "it is"
    assert both.wait(timeout=60).status == "SUCCESSFUL"


def test_a_callback_that_runs_while_there_is_a_new_end_runs_once_more(on_ray, tmp_path):
    """S4: it had seen the old one."""
    path, there = str(tmp_path / "ledger"), tmp_path / "there"
    with Flow() as flow:
        failing = fail_unless.enqueue(str(there))
        telling = tell_slowly.using(after=failing).enqueue(path, str(tmp_path))
    until(lambda: noted(path) == ["tell:FAILED"], what="the callback runs")
    there.touch()
    assert RayTaskExecution.objects.filter(pk=failing.id).retry() == 1
    assert failing.wait(timeout=60).return_value == "it is"
    assert RayTaskExecution.objects.get(pk=telling.id).state == State.RUNNING
    (tmp_path / "told").touch()
    until(lambda: flow.progress().successful == 2 and len(noted(path)) == 2, what="the second run")
    assert noted(path) == ["tell:FAILED", "tell:SUCCESSFUL"]
