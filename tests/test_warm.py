"""Workers that stay, and bodies that take several executions at a time, on a real Ray."""

import pytest
from django.tasks import TaskResultStatus

from django_ray.models import RayTaskExecution
from tests import warming
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def warm_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("warming")


@pytest.fixture(scope="module")
def warm(warm_folder, listen_for_all):
    return listen_for_all("--local", "--concurrency", "2", DJANGO_RAY_WARMING=str(warm_folder))


@pytest.fixture
def folder(warm, warm_folder, transactional_db):
    """Where bodies tell what they did; a worker is at hand."""
    warming.attempt_of.enqueue().wait(timeout=90)
    for file in warm_folder.iterdir():
        file.unlink()
    RayTaskExecution.objects.all().delete()
    return warm_folder


def lines(folder, name):
    file = folder / name
    return file.read_text().split() if file.exists() else []


def all_of(results):
    for result in results:
        result.wait(timeout=90)
    return results


def test_a_worker_is_built_once_and_ends_when_it_is_idle(folder, warm, finished):
    values = [result.return_value for result in all_of([warming.double.enqueue(number) for number in range(200)])]
    assert [value for value, _ in values] == [2 * number for number in range(200)]
    assert len({pid for _, pid in values}) == 1
    assert lines(folder, "built") == []
    warm.wait_for("has had no call for 2 s", 20)
    assert finished(warming.double.enqueue(1)).return_value[0] == 2
    assert len(lines(folder, "built")) == 1


@pytest.mark.slow
def test_another_replica_comes_where_one_without_batches_is_not_enough(folder, warm):
    results = all_of([warming.pid_of.enqueue(3.0) for _ in range(6)])
    assert len({result.return_value for result in results}) == 2
    assert len(lines(folder, "built")) == 2


def test_the_context_comes_before_the_worker(folder, warm, finished):
    assert finished(warming.attempt_of.enqueue()).return_value == 2


def test_what_waits_becomes_a_batch(folder, warm):
    results = warming.double_all.get_backend().enqueue_many([(warming.double_all, [n], {}) for n in range(500)])
    assert [result.return_value for result in all_of(results)] == [2 * number for number in range(500)]
    sizes = [int(size) for size in lines(folder, "batches")]
    assert sum(sizes) == 500
    assert max(sizes) == 64
    assert len(sizes) < 30
    assert {result.attempts for result in results} == {1}


@pytest.mark.parametrize("poison", ["raise", pytest.param("exit", marks=pytest.mark.slow), "short", "set", "mine"])
def test_one_poison_call_fails_by_itself(folder, warm, poison):
    task = warming.double_all.using(max_attempts=1)
    calls = [(task, [number], {"pause": 0.0}) for number in range(63)]
    calls.insert(20, (task, [poison], {}))
    results = all_of(task.get_backend().enqueue_many(calls))
    failed = [result for result in results if result.status == TaskResultStatus.FAILED]
    assert [result.args for result in failed] == [[poison]]
    rows = RayTaskExecution.objects.exclude(state="FAILED")
    assert {(row.failures, row.losses) for row in rows} == {(0, 0)}
    assert max(row.attempt_number for row in rows) <= 2


@pytest.mark.slow
def test_what_waits_behind_a_call_that_ends_its_process_is_not_charged(folder, warm, finished):
    """Two tasks of one worker have one replica."""
    poison = warming.double_all.enqueue("exit", 3.0)
    until(lambda: lines(folder, "batches"), what="the body that ends its process begun")
    behind = warming.double.enqueue(4)
    assert finished(behind).return_value[0] == 8
    poison.cancel()
    assert RayTaskExecution.objects.get(pk=behind.id).losses == 0
    assert finished(poison).errors


def test_batches_without_a_worker_wait_for_others_if_they_are_to(folder, warm):
    task = warming.lengths.using(batch=3, batch_wait=30)  # full with the last of them, however late that comes
    results = [task.enqueue(word, extra=1) for word in ("a", "bb", "ccc")]
    assert [result.return_value for result in all_of(results)] == [2, 3, 4]
    assert lines(folder, "lengths") == ["3"]


def test_a_batch_has_one_tenant(folder, warm):
    results = [warming.of_tenant.enqueue(tenant, number) for number in range(5) for tenant in ("a", "b")]
    all_of(results)
    assert sorted(set(lines(folder, "tenants"))) == ["a", "b"]
    assert len(lines(folder, "tenants")) < 10


@pytest.mark.slow
def test_a_worker_that_cannot_be_built_is_waited_for(tmp_path, listen):
    (tmp_path / "broken").touch()
    supervisor = listen("--local", "--backend", "any", DJANGO_RAY_WARMING=str(tmp_path))
    task = warming.fragile.using(backend="any")
    results = [task.enqueue(number) for number in range(3)]
    supervisor.wait_for("Its worker cannot be built: builtins.RuntimeError: the model is not there yet", 120)
    (tmp_path / "broken").unlink()
    assert [result.return_value for result in all_of(results)] == [0, 1, 2]


def test_a_timeout_ends_a_warm_body_and_leaves_its_worker(folder, warm, finished):
    assert "TaskTimeout" in finished(warming.stuck.enqueue()).errors[0].exception_class_path
    assert finished(warming.attempt_of.enqueue()).return_value == 2
    assert lines(folder, "built") == []


def test_a_cancel_interrupts_a_warm_body_and_leaves_its_worker(folder, warm, finished):
    result = warming.slow.enqueue()
    until(lambda: lines(folder, "slow"), what="the body begun")
    assert result.cancel()
    assert finished(result).errors[0].exception_class_path == "django_ray.exceptions.TaskCancelled"
    assert finished(warming.attempt_of.enqueue()).return_value == 2
    assert lines(folder, "built") == []


def test_a_member_of_a_batch_is_cancelled_alone(folder, warm):
    results = warming.double_all.get_backend().enqueue_many([(warming.double_all, [n, 2.0], {}) for n in range(10)])
    until(lambda: RayTaskExecution.objects.filter(state="RUNNING").count() == 10, what="the batch running")
    assert results[3].cancel()
    for result in results:
        result.wait(timeout=60)
    assert [result.status for result in results].count(TaskResultStatus.FAILED) == 1
    assert results[3].errors[0].exception_class_path == "django_ray.exceptions.TaskCancelled"
