"""django_ray.testing: what a project's own tests use."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.test import TestCase, override_settings

from django_ray import Backoff, Flow, task, task_options
from django_ray.exceptions import TaskCancelled, TaskRefused, UpstreamFailed
from django_ray.models import RayTaskExecution, State
from django_ray.testing import run_tasks
from tests import tasks


@task()
def create_user(name):
    User.objects.create_user(name)


@task()
def chain(left):
    if left:
        chain.enqueue(left - 1)
    return left


@task()
def endless():
    endless.enqueue()


@task(max_attempts=2, backoff=Backoff(base=60), takes_context=True)
def second_time(context):
    if context.attempt == 1:
        raise ConnectionError("once")
    return context.attempt


@task()
def not_json():
    return {1}


@task()
def with_json():
    class Point:
        def __json__(self):
            return {"x": (1, 2)}

    return [Point()]


@task(unique=True)
def once(a, b=0):
    return a


@task(unique="replace", unique_by="a")
def latest(a, b):
    return b


@task(unique="queued")
def again(left):
    return again.enqueue(left).is_duplicate if left else None


@task(limit=1, limit_by="a", expires=timedelta(minutes=1))
def gated(a, number):
    return number


@task(unique=True, unique_by=lambda a: {a})
def no_key(a):
    return a


class RunTasks(TestCase):
    def test_what_is_unique_is_unique_here_too(self):
        first = once.enqueue(1)
        assert once.enqueue(1).is_duplicate
        latest.enqueue(1, "old"), latest.enqueue(1, "new")
        assert [(result.return_value, result.id == first.id) for result in run_tasks()] == [(1, True), ("new", False)]
        assert not once.enqueue(1).is_duplicate

    def test_what_is_unique_until_it_starts_may_enqueue_itself(self):
        again.enqueue(1)
        with pytest.raises(RuntimeError):
            run_tasks()  # each of them enqueues the next one
        assert RayTaskExecution.objects.filter(state=State.READY).count() == 1

    def test_what_waits_behind_gates_runs_one_after_the_other(self):
        for number in range(3):
            gated.enqueue("a", number), gated.enqueue("b", number)
        results = run_tasks()
        for tenant in "ab":
            assert [one.return_value for one in results if one.args[0] == tenant] == [0, 1, 2]
        assert RayTaskExecution.objects.filter(state=State.SUCCESSFUL).count() == 6

    def test_what_is_queued_runs_in_order_in_this_transaction(self):
        low = tasks.add.using(priority=-1).enqueue(1, 1)
        high = tasks.add.using(priority=1).enqueue(2, 2)
        create_user.enqueue("Ada")
        assert [result.id for result in run_tasks()][::2] == [high.id, low.id]
        assert User.objects.get().username == "Ada"
        low.refresh()
        assert (low.status, low.return_value, low.attempts) == (TaskResultStatus.SUCCESSFUL, 2, 1)

    def test_what_tasks_enqueue_runs_too(self):
        chain.enqueue(3)
        assert [result.return_value for result in run_tasks()] == [3, 2, 1, 0]

    def test_an_endless_chain_is_ended(self):
        endless.enqueue()
        with pytest.raises(RuntimeError, match="without end"):
            run_tasks()

    def test_retries_and_scheduled_tasks_run_when_asked_ahead_of_their_time(self):
        result = second_time.enqueue()
        later = tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
        assert [done.status for done in run_tasks()] == [TaskResultStatus.READY]
        assert run_tasks() == []
        assert [done.return_value for done in run_tasks(ahead=timedelta(minutes=2))] == [2]
        assert [done.id for done in run_tasks(ahead=timedelta(hours=2))] == [later.id]
        result.refresh()
        assert result.errors[0].exception_class is ConnectionError

    def test_other_queues_and_backends_are_left_alone(self):
        other = tasks.add.using(queue_name="other").enqueue(1, 2)
        elsewhere = tasks.add.using(backend="any").enqueue(1, 2)
        assert run_tasks(queue_name="default") == []
        assert [result.id for result in run_tasks()] == [other.id]
        assert [result.id for result in run_tasks(backend="any")] == [elsewhere.id]

    def test_a_task_that_breaks_its_transaction_breaks_no_test(self):
        User.objects.create_user("Ada")
        create_user.enqueue("Ada")
        result = create_user.enqueue("Grace")
        run_tasks()
        assert User.objects.count() == 2
        failed = RayTaskExecution.objects.exclude(task_id=result.id).get()
        assert (failed.state, failed.exception_type) == (State.READY, "django.db.utils.IntegrityError")

    def test_what_a_task_raises_is_raised_when_asked_for(self):
        result = second_time.enqueue()
        with pytest.raises(ConnectionError, match="once") as caught:
            run_tasks(raise_errors=True)
        assert caught.traceback[-1].name == "second_time"
        result.refresh()
        assert (result.attempts, result.errors[0].exception_class) == (1, ConnectionError)
        assert [done.return_value for done in run_tasks(ahead=timedelta(hours=1), raise_errors=True)] == [2]

    def test_what_a_task_breaks_is_mended_before_its_error_is_raised(self):
        User.objects.create_user("Ada")
        create_user.enqueue("Ada")
        with pytest.raises(IntegrityError):
            run_tasks(raise_errors=True)
        assert User.objects.count() == 1

    def test_an_attempt_that_could_not_begin_raises_as_well(self):
        RayTaskExecution.objects.create(callable_path="os.system")
        with pytest.raises(TypeError, match="not a task"):
            run_tasks(raise_errors=True)
        RayTaskExecution.objects.create(callable_path="tests.tasks.add", options={"retry": {"max_attempts": -1}})
        with pytest.raises(TaskRefused, match="max_attempts"):
            run_tasks(raise_errors=True)
        not_json.enqueue()
        with pytest.raises(TypeError, match="The result"):
            run_tasks(raise_errors=True)

    def test_a_row_that_cannot_run_fails_as_it_would(self):
        RayTaskExecution.objects.create(callable_path="os.system")
        RayTaskExecution.objects.create(callable_path="tests.tasks.add", options={"retry": {"max_attempts": -1}})
        assert [result.status for result in run_tasks()] == [TaskResultStatus.FAILED] * 2


@pytest.mark.django_db
def test_the_fixture_is_there_by_itself(run_tasks):
    result = tasks.add.enqueue(1, 2)
    run_tasks()
    result.refresh()
    assert result.return_value == 3


IMMEDIATE = {"default": {"BACKEND": "django_ray.testing.ImmediateBackend", "QUEUES": ["default", "other"]}}
DUMMY = {"default": {"BACKEND": "django_ray.testing.DummyBackend"}}


@override_settings(TASKS=IMMEDIATE)
def test_the_immediate_double_runs_without_a_database_by_our_rules():
    result = tasks.add.using(num_cpus=2, timeout=5).enqueue(1, b=2)
    assert (result.return_value, result.attempts, result.wait()) == (3, 1, result)
    assert with_json.enqueue().return_value == [{"x": [1, 2]}]
    assert second_time.enqueue().errors[0].exception_class is ConnectionError
    with pytest.raises(TypeError, match="pass a list"):
        tasks.add.enqueue({1}, 2)
    with pytest.raises(InvalidTask, match="run_after"):
        tasks.add.using(run_after=timedelta(1))
    with pytest.raises(NotImplementedError):
        result.refresh()


@override_settings(TASKS=IMMEDIATE)
async def test_the_immediate_double_runs_for_async_callers():
    assert (await tasks.add_later.aenqueue(1, 2)).return_value == 3


@override_settings(TASKS=DUMMY)
def test_the_dummy_double_keeps_what_was_enqueued():
    result = tasks.add.using(run_after=timedelta(hours=1), max_attempts=7).enqueue(1, 2)
    backend = task_backends["default"]
    assert backend.results == [result]
    assert result.task.run_after > result.enqueued_at
    assert backend.get_result(result.id) == result
    backend.clear()
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


@pytest.mark.parametrize(
    "backend",
    [
        "django_ray.testing.ImmediateBackend",
        "django_ray.testing.DummyBackend",
        "django.tasks.backends.immediate.ImmediateBackend",
        "django.tasks.backends.dummy.DummyBackend",
    ],
)
def test_modules_with_task_options_import_under_every_double(backend):
    with override_settings(TASKS={"default": {"BACKEND": backend}}):

        def body():
            """Stand at module level, as far as Django looks."""

        body.__qualname__ = "body"
        made = [task(max_attempts=7, timeout=1)(body), task()(task_options(max_attempts=7)(body))]
        assert all(isinstance(one, task_backends["default"].task_class) for one in made)


@pytest.mark.django_db
def test_a_savepoint_of_the_test_survives_a_failing_task():
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create_user("Ada")
        User.objects.create_user("Ada")
    create_user.enqueue("Ada")
    assert [result.status for result in run_tasks()] == [TaskResultStatus.SUCCESSFUL]


@override_settings(TASKS=DUMMY)
def test_the_dummy_keeps_what_is_unique_once_as_long_as_it_is_ready():
    backend = task_backends["default"]
    first = once.enqueue(1)
    second = once.enqueue(a=1, b=0)
    assert (first.is_duplicate, second.is_duplicate, second.id) == (False, True, first.id)
    assert not once.enqueue(2).is_duplicate
    assert [result.args for result in backend.results] == [[1], [2]]
    assert first.cancel()
    assert not once.enqueue(1).is_duplicate
    backend.clear()
    assert not once.enqueue(1).is_duplicate
    backend.results.clear()  # as tests do that know no other way
    assert not once.enqueue(1).is_duplicate


@override_settings(TASKS=DUMMY)
def test_the_dummy_replaces_what_may_be_replaced():
    backend = task_backends["default"]
    results = backend.enqueue_many([(latest, (1, number), {}) for number in range(3)])
    last = latest.using(priority=7, run_after=timedelta(hours=1)).enqueue(1, 3)
    (kept,) = backend.results
    assert (kept.args, kept.task.priority, kept.id) == ([1, 3], 7, results[0].id)
    assert kept.task.run_after - kept.enqueued_at == timedelta(hours=1)
    assert (last.is_duplicate, last.args) == (True, [1, 3])
    assert results[0].args == [1, 0]


@override_settings(TASKS=IMMEDIATE)
def test_what_is_unique_runs_each_time_at_once(db):
    results = [once.enqueue(1), once.enqueue(1), gated.enqueue("a", 2)]
    assert [(result.return_value, result.is_duplicate) for result in results] == [(1, False), (1, False), (2, False)]


@pytest.mark.parametrize("tasks_setting", [IMMEDIATE, DUMMY])
def test_doubles_refuse_what_makes_no_key(tasks_setting):
    with override_settings(TASKS=tasks_setting), pytest.raises(TypeError, match="what unique_by of the task 'no_key'"):
        no_key.enqueue(1)


@task(takes_context=True)
def cancel_and_enqueue(context, flow_id):
    """Cancel the flow that this belongs to, and enqueue into it."""
    Flow.get(flow_id).cancel()
    return tasks.add.enqueue(1, 1).id


class RunFlows(TestCase):
    """All of it in one transaction: nothing is ever committed."""

    def test_a_flow_runs_in_its_order(self):
        with Flow("import") as flow:
            mail = tasks.add.using(priority=100)
            pages = [tasks.double.enqueue(number) for number in range(3)]
            merged = tasks.total.enqueue(pages)
            last = mail.enqueue(merged, 1)
        assert flow.progress().blocked == 2
        assert [result.id for result in run_tasks()] == [*(page.id for page in pages), merged.id, last.id]
        last.refresh()
        assert last.return_value == 7
        assert flow.wait(timeout=1).successful == 5
        assert flow.executions.filter(state=State.SUCCESSFUL).count() == 5

    def test_a_failure_ends_what_waits_and_a_retry_revives_it(self):
        with Flow() as flow:
            first = tasks.fail_unless.enqueue("/no/such/file")
            second = tasks.add.using(after=first).enqueue(1, 1)
            after_all = tasks.look_back.using(needs="end").enqueue(second)
        assert len(run_tasks()) == 2
        assert (flow.progress().failed, flow.progress().successful) == (2, 1)
        RayTaskExecution.objects.filter(pk=first.id).update(args=["/"])
        assert flow.retry() == 2
        assert {result.id for result in run_tasks()} == {first.id, second.id, after_all.id}
        assert flow.progress().successful == 3

    def test_what_is_enqueued_into_a_cancelled_flow_does_not_run(self):
        """Where it is committed the database asks; here nothing is."""
        with Flow() as flow:
            tasks.add.enqueue(1, 1)
        assert flow.cancel() == 1
        later = tasks.fan_out.enqueue([1])
        RayTaskExecution.objects.filter(pk=later.id).update(carrier={"flow": {"id": flow.id}})
        assert [result.id for result in run_tasks()] == [later.id]
        assert flow.progress().cancelled == 2
        assert not flow.progress().unfinished


class TestFlowsOfDoubles:
    @override_settings(TASKS=IMMEDIATE)
    def test_results_are_arguments_and_a_failure_is_passed_on(self):
        first = tasks.add.enqueue(1, 2)
        assert tasks.total.enqueue([first, tasks.double.enqueue(4)], more=first).return_value == 14
        bad = tasks.fail.enqueue("no")
        second = tasks.add.enqueue(bad, 1)
        third = tasks.add.using(after=second).enqueue(1, 1)
        for result in (second, third):
            (error,) = result.errors
            assert error.exception_class is UpstreamFailed
            assert error.traceback == f"django_ray.exceptions.UpstreamFailed: tests.tasks.fail {bad.id} failed.\n"
        seen = tasks.look_back.using(after=[third], needs="end").enqueue(first, bad)
        assert seen.return_value == {
            "arguments": [["SUCCESSFUL", 3], ["FAILED", None]],
            "upstreams": [
                ["add", "SUCCESSFUL", []],
                ["fail", "FAILED", ["builtins.ValueError"]],
                ["add", "FAILED", ["django_ray.exceptions.UpstreamFailed"]],
            ],
        }

    @override_settings(TASKS=IMMEDIATE)
    def test_a_flow_at_once(self):
        with Flow("import") as flow:
            tasks.fan_out.enqueue([1, 2])
            tasks.add.enqueue(tasks.fail.enqueue("no"), 1)
        tasks.add.enqueue(1, 1)
        assert (flow.progress().successful, flow.progress().failed, flow.progress().total) == (3, 2, 5)
        assert flow.wait(timeout=0) == flow.progress()
        assert Flow.get(flow.id) is flow
        assert flow.cancel() == 0
        with pytest.raises(LookupError, match="There is no flow"):
            Flow.get("x")
        for ask in (lambda: flow.executions, flow.retry):
            with pytest.raises(NotImplementedError, match="needs rows, which ImmediateBackend does not keep"):
                ask()

    @override_settings(TASKS=IMMEDIATE)
    def test_what_a_cancelled_flow_enqueues_does_not_run(self):
        with Flow() as flow:
            tasks.add.enqueue(1, 1)
            cancel_and_enqueue.enqueue(flow.id)
            last = tasks.add.using(after=tasks.add.enqueue(1, 1)).enqueue(1, 1)
        assert (flow.progress().successful, flow.progress().cancelled) == (2, 3)
        assert last.errors[0].exception_class is TaskCancelled

    @override_settings(TASKS=IMMEDIATE)
    async def test_a_flow_of_a_coroutine(self):
        async with Flow() as flow:
            first = await tasks.add.aenqueue(1, 2)
            await tasks.add.aenqueue(first, 1)
        assert (await flow.await_end(timeout=0)).successful == 2
        assert (await flow.aprogress()).fraction == 1
        assert await flow.acancel() == 0

    @override_settings(TASKS=DUMMY)
    def test_a_flow_that_nobody_runs(self):
        backend = task_backends["default"]
        with Flow("import") as flow:
            first = tasks.add.enqueue(1, 2)
            second = tasks.add.enqueue(first, 1)
        outside = tasks.add.using(after=second).enqueue(1, 1)
        assert [result.args for result in backend.results] == [[1, 2], [first.id, 1], [1, 1]]
        assert (flow.progress().ready, flow.progress().blocked, flow.progress().total) == (1, 1, 2)
        with pytest.raises(TimeoutError, match=r"0 of 2 .* 'import' have ended after 60 s\. DummyBackend runs nothing"):
            flow.wait(timeout=60)
        assert flow.cancel() == 2
        assert flow.wait(timeout=60).cancelled == 2
        assert flow.cancel() == 0
        assert not backend.get_result(outside.id).is_finished
        with pytest.raises(NotImplementedError, match="needs rows, which DummyBackend does not keep"):
            flow.retry()
        backend.clear()
        assert flow.progress().total == 0

    @override_settings(TASKS=DUMMY)
    def test_flows_are_kept_as_long_as_somebody_holds_them(self):
        with Flow() as flow:
            tasks.add.enqueue(1, 2)
        flow_id = flow.id
        assert Flow.get(flow_id) is flow
        del flow
        with pytest.raises(LookupError):
            Flow.get(flow_id)

    @pytest.mark.parametrize("name", ["immediate.ImmediateBackend", "dummy.DummyBackend"])
    def test_django_s_own_know_no_flows_and_say_so(self, name):
        path = f"django.tasks.backends.{name}"
        with override_settings(TASKS={"default": {"BACKEND": path}}):
            with pytest.raises(InvalidTaskBackend, match=f"'default'. is a {path}, which knows no flows: use"), Flow():
                pass
            with pytest.raises(TypeError, match="Unsupported type"):
                tasks.add.enqueue(tasks.add.enqueue(1, 2), 1)
