"""A Ray worker that cannot set Django up: a fact about its node, which costs no execution anything."""

import socket
from contextlib import suppress

import psutil
import pytest
from django.db.models import Max
from django.tasks import TaskResultStatus, task_backends

from django_ray.models import RayTaskExecution, State
from tests import tasks
from tests.chaos import faults
from tests.supervisors import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    """The file that breaks the node."""
    return tmp_path_factory.mktemp("switch") / "unready"


@pytest.fixture(scope="module")
def node(switch, listen_for_all):
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings_unready", "UNREADY": str(switch)}
    return listen_for_all("--local", "--concurrency", "2", **environment)


@pytest.fixture
def break_node(node, switch, transactional_db):
    """Have new processes fail, and end those that were set up before; mended when the test is over."""

    def _break(where):
        switch.write_text(where)
        for worker in faults.ray_workers(node):
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        until(lambda: not faults.ray_workers(node), what="the end of the processes")

    yield _break
    switch.unlink(missing_ok=True)


@pytest.mark.parametrize("where", ["settings", "exit", "ready"])
def test_what_a_node_cannot_begin_comes_back_uncharged_and_runs_when_it_can(node, switch, break_node, where):
    """K3."""
    break_node(where)
    result = tasks.add.enqueue(3, 4)
    line = node.wait_for(f"{result.id} was not begun: Django cannot be set up on the host", timeout=120)
    assert all(word in line for word in (socket.gethostname(), "the file is there", "again in")), line
    until(RayTaskExecution.objects.filter(pk=result.id, missing_since__isnull=False).exists)
    switch.unlink()
    until(lambda: result.refresh() or result.is_finished, 120, "the end")
    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 7)
    row = RayTaskExecution.objects.get(pk=result.id)
    # The end of a process may strike a call that was on its way to it.
    assert (row.failures, row.released, row.missing_since, result.attempts) == (0, 0, None, 1 + row.losses)
    assert node.process.poll() is None


@pytest.mark.slow
def test_a_node_that_fails_at_once_does_not_empty_the_queue(node, switch, break_node):
    """K3: neither do those that share a call go round, nor do all have their turn there."""
    backend = task_backends["default"]
    backend.enqueue_many([(tasks.play, ("quick",), {})] * 500)  # now it is known to be short
    rows = RayTaskExecution.objects
    until(lambda: rows.filter(state=State.SUCCESSFUL).count() == 500, 120, what="the end of all")
    rows.all().delete()
    break_node("settings")
    backend.enqueue_many([(tasks.play, ("quick",), {})] * 2000)
    for _ in range(3):
        node.wait_for("was not begun", timeout=120)
    until(lambda: rows.filter(attempt_number__gt=1).exists(), 120, "a second try")
    touched = rows.filter(attempt_number__gt=0).count()
    switch.unlink()
    until(lambda: rows.filter(state=State.SUCCESSFUL).count() == 2000, 240, what="the end of all")
    print(f"{touched} of 2000 were touched, one of them {rows.aggregate(most=Max('attempt_number'))['most']} times")
    assert touched < 2000
    assert rows.filter(failures=0, attempt_number__lte=10).count() == 2000


def test_what_ray_cannot_prepare_is_given_back(node, transactional_db):
    """K3: it may be a moment's; a task that asks for what there never is fails when the grace is over."""
    task_id = RayTaskExecution.objects.create(
        callable_path="tests.tasks.add", args=[3, 4], options={"ray": {"runtime_env": {"conda": "no-such-environment"}}}
    ).pk
    node.wait_for(f"{task_id} was not begun: Ray cannot prepare what the task asks for", timeout=120)
    row = until(RayTaskExecution.objects.filter(pk=task_id, missing_since__isnull=False).first)
    assert (row.failures, row.losses, row.worker_ids) == (0, 0, [])
    RayTaskExecution.objects.filter(pk=task_id).cancel()
    until(RayTaskExecution.objects.filter(pk=task_id, state=State.CANCELLED).exists)


@pytest.mark.slow
def test_what_nobody_can_begin_fails_when_the_grace_is_over(node, break_node):
    """K3."""
    break_node("ready")
    result = tasks.add.enqueue(3, 4)
    RayTaskExecution.objects.filter(pk=result.id).update(options={"retry": {"import_grace": 1}})
    until(lambda: result.refresh() or result.is_finished, 120, "the end")
    row = RayTaskExecution.objects.get(pk=result.id)
    assert (row.state, row.exception_type, row.failures) == (State.FAILED, "django_ray.exceptions.Unprepared", 1)
    assert "ConnectionError: the file is there" in row.error_message
