import math
import pickle
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ray import Backoff, backends, task, task_options
from django_ray.backends import RayTaskBackend
from django_ray.checks import missing_triggers
from django_ray.models import RayTaskExecution
from django_ray.testing import run_tasks
from django_ray_worker.preflight import find_database
from tests import tasks

pytestmark = pytest.mark.django_db


def test_enqueue_is_one_statement_in_the_callers_transaction():
    with CaptureQueriesContext(connection) as queries:
        result = tasks.add.enqueue(1, b=2)
    assert ["django_ray_enqueue" in query["sql"] for query in queries] == [True]
    assert result.status == TaskResultStatus.READY
    assert (result.args, result.kwargs) == ([1], {"b": 2})
    assert result.enqueued_at is not None


def test_get_result_is_one_select_and_equals_what_enqueue_returned():
    result = tasks.add.enqueue(1, 2)
    with CaptureQueriesContext(connection) as queries:
        again = tasks.add.get_result(result.id)
    assert len(queries) == 1
    assert again == result


@pytest.mark.django_db(transaction=True)
async def test_async_callers_have_the_same():
    result = await tasks.add.aenqueue(1, 2)
    assert await tasks.add.aget_result(result.id) == result
    await sync_to_async(connections.close_all)()  # of the thread that Django's async ORM uses


def test_many_are_enqueued_in_order_with_a_statement_per_thousand():
    calls = [(tasks.add.using(priority=number % 3), (number,), {"b": 0}) for number in range(2500)]
    with CaptureQueriesContext(connection) as queries:
        results = task_backends["default"].enqueue_many(calls)
    assert ["django_ray_enqueue" in query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]] == [True] * 3
    assert [result.args for result in results] == [[number] for number in range(2500)]
    assert [result.id for result in results] == sorted(result.id for result in results)
    assert tasks.add.get_result(results[7].id) == results[7]


def test_one_bad_call_among_many_enqueues_none():
    backend = task_backends["default"]
    with pytest.raises(TypeError, match="pass a list"):
        backend.enqueue_many([(tasks.add, (1, 2), {}), (tasks.add, ({1}, 2), {})])
    assert backend.enqueue_many([]) == []
    assert not RayTaskExecution.objects.exists()


def test_a_rolled_back_enqueue_never_was():
    """B4."""

    class Oops(Exception): ...

    with pytest.raises(Oops), transaction.atomic():
        tasks.add.enqueue(1, 2)
        raise Oops
    assert not RayTaskExecution.objects.exists()


@pytest.mark.parametrize("result_id", ["", "nonsense", "00000000-0000-0000-0000-000000000000", None, 7])
def test_an_unknown_or_malformed_id_does_not_exist(result_id):
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result_id)


def test_a_result_of_another_task_is_a_mismatch():
    with pytest.raises(TaskResultMismatch):
        tasks.sleep.get_result(tasks.add.enqueue(1, 2).id)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("a\x00b", "NUL"),
        ("\ud800", "surrogate"),
        (math.nan, "nan"),
        ({"deep": [math.inf]}, "args[0]['deep'][0]"),
        ({1, 2}, "pass a list"),
        (np.zeros(3, np.float32), "ndarray, which is not JSON: pass .tolist()"),
        ([np.float32(0)], "args[0][0] is a float32, which is not JSON: pass .item()"),
        (timezone.now(), "isoformat"),
        (RayTaskExecution(), "primary key"),
        (lambda: None, "__json__"),
        ({(1, 2): 3}, "keys"),
    ],
)
def test_what_json_or_postgresql_cannot_hold_is_refused_before_sql(argument, says):
    """D1."""
    with transaction.atomic():
        with pytest.raises((TypeError, ValueError)) as refusal:
            tasks.add.enqueue(argument, 2)
        assert says in str(refusal.value)
        assert "args[0]" in str(refusal.value)
        tasks.add.enqueue(1, 2)  # the block has survived
    assert RayTaskExecution.objects.count() == 1


def test_run_after_priority_and_queue_are_in_the_row():
    moment = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=moment, priority=7, queue_name="other").enqueue(1, 2)
    row = RayTaskExecution.objects.get(task_id=result.id)
    assert (row.run_after, row.due_at, row.priority, row.queue_name) == (moment, moment, 7, "other")
    assert tasks.add.get_result(result.id).task == result.task


def test_task_options_are_in_the_row_and_none_when_default():
    plain = RayTaskExecution.objects.get(task_id=tasks.add.enqueue(1, 2).id)
    assert plain.options is None
    task = tasks.add.using(
        num_cpus=0.5, timeout=3, stall_timeout=2, max_attempts=5, retry_on=(ValueError,), fresh_process=True
    )
    row = RayTaskExecution.objects.get(task_id=task.enqueue(1, 2).id)
    assert row.options == {
        "retry": {"max_attempts": 5, "retry_on": ["builtins.ValueError"]},
        "timeout": 3,
        "stall_timeout": 2,
        "ray": {"num_cpus": 0.5, "max_calls": 1},
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"priority": 101}, "-100 and 100"),
        ({"priority": True}, "whole number"),
        ({"priority": 3.0}, "whole number"),
        ({"priority": "3"}, "whole number"),
        ({"queue_name": "nowhere"}, "nowhere"),
        ({"queue_name": 7}, "1 to 255"),
        ({"run_after": 7}, "timedelta"),
        ({"run_after": timedelta.max}, "9999"),
        ({"run_after": datetime(2030, 1, 1)}, "aware"),  # noqa: DTZ001
        ({"max_attempts": 0}, "at least 1"),
        ({"max_attempts": True}, "at least 1"),
        ({"timeout": -1}, "above 0"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": "soon"}, "above 0"),
        ({"timeout": math.nan}, "above 0"),
        ({"stall_timeout": 0}, "stall_timeout is 0: it must be a number of seconds above 0"),
        ({"stall_timeout": "soon"}, "above 0"),
        ({"stall_timeout": math.inf}, "above 0"),
        ({"stall_timeout": True}, "above 0"),
        ({"num_cpus": -1}, "at least 0"),
        ({"num_cpus": "2"}, "at least 0"),
        ({"num_cpus": math.inf}, "at least 0"),
        ({"num_gpus": 1.5}, "whole GPUs"),
        ({"memory": 1.5}, "at least 1"),
        ({"memory": 0}, "at least 1"),
        ({"resources": ["tpu"]}, "dictionary"),
        ({"resources": {"CPU": 1}}, "num_cpus"),
        ({"resources": {"tpu": "many"}}, "at least 0"),
        ({"accelerator_type": 5}, "text"),
        ({"label_selector": {"zone": 1}}, "texts"),
        ({"runtime_env": "pip"}, "dictionary"),
        ({"runtime_env": {"pip": {1}}}, "JSON"),
        ({"fresh_process": 1}, "True or False"),
        ({"backoff": 60}, "Backoff"),
        ({"backoff": {"bass": 1}}, "bass"),
        ({"retry_on": ValueError}, "list"),
        ({"retry_on": "builtins.ValueError"}, "list"),
        ({"retry_on": ["ValueError"]}, "builtins.ValueError"),
        ({"no_retry_on": [int]}, "exception class"),
    ],
)
def test_an_invalid_task_is_refused_where_it_is_made(changes, says):
    (name,) = changes
    with pytest.raises(InvalidTask) as refusal:
        tasks.add.using(**changes)
    assert says in str(refusal.value)
    assert name in str(refusal.value) or name == "queue_name"  # Django says Queue


@pytest.mark.parametrize("enqueue", ["enqueue", "aenqueue"])
async def test_a_task_is_validated_again_when_it_is_enqueued(enqueue):
    task = tasks.add.using(queue_name="other")
    with override_settings(TASKS={"default": {"BACKEND": "django_ray.backends.RayTaskBackend"}}):
        call = getattr(task, enqueue)
        with pytest.raises(InvalidTask, match="other"):
            if enqueue == "enqueue":
                await sync_to_async(call)(1, 2)
            else:
                await call(1, 2)


def test_a_task_is_checked_once_and_not_kept_for_a_moment(monkeypatch):
    """What is the same for each enqueue of a task is done once; a backend with other settings does it anew."""
    validated = []

    def validate(backend, task):
        validated.append(task)
        return validate_task(backend, task)

    validate_task = RayTaskBackend.validate_task
    monkeypatch.setattr(RayTaskBackend, "validate_task", validate)
    monkeypatch.setattr(backends, "MOST_CHECKED", 3)
    backend = RayTaskBackend("default", {"QUEUES": ["default", "other"]})
    other = tasks.add.using(queue_name="other", priority=7)
    validated.clear()
    for _ in range(3):
        backend.enqueue(tasks.add, [1, 2], {})
        backend.enqueue_many([(other, [1, 2], {}), (tasks.add, [], {"a": 1, "b": 2})])
    assert validated == [tasks.add, other]
    later = tasks.add.using(run_after=timedelta(hours=1))
    for _ in range(2):
        backend.enqueue(later, [1, 2], {})
    assert validated.count(later) == 2 + 1  # and by using() itself
    for number in range(10):
        backend.enqueue(tasks.add.using(priority=number), [1, 2], {})
    rows = RayTaskExecution.objects.order_by("task_id").values_list("queue_name", "priority", "args", "kwargs")
    first = [("default", 0, [1, 2], {}), ("other", 7, [1, 2], {}), ("default", 0, [], {"a": 1, "b": 2})]
    assert [*rows] == [*3 * first, *2 * [("default", 0, [1, 2], {})], *(("default", n, [1, 2], {}) for n in range(10))]
    with pytest.raises(InvalidTask, match="other"):
        RayTaskBackend("default", {"QUEUES": ["default"]}).enqueue(other, [1, 2], {})


class Shop:
    def order(self):
        """Be a method."""


def named():
    """Stand at module level, under another name than its task."""


renamed = task(named)


def in_main():
    """Look as if it came from a script."""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (Shop.order, "method"),
        (Shop().order, "module level"),
        (lambda: None, "lambda"),
        (print, "module level"),
        (in_main, "script or shell"),
    ],
)
def test_what_a_ray_worker_could_not_import_is_no_task(function, says, monkeypatch):
    monkeypatch.setattr(in_main, "__module__", "__main__")
    with pytest.raises(InvalidTask, match=says):
        task(function)


def test_a_task_whose_path_leads_elsewhere_is_refused_at_enqueue():
    with transaction.atomic():
        with pytest.raises(InvalidTask, match="name of its function"):
            renamed.enqueue()
        tasks.add.enqueue(1, 2)


@pytest.mark.parametrize(
    "delay",
    [
        timedelta(microseconds=1),
        timedelta(seconds=59.999999),
        timedelta(hours=1),
        timedelta(days=1, microseconds=7),
        timedelta(days=36_500),
        timedelta(0),
        -timedelta(minutes=90, microseconds=1),
    ],
    ids=str,
)
def test_a_delay_of_any_length_is_exact(delay):
    result = tasks.add.using(run_after=delay).enqueue(1, 2)
    assert result.task.run_after - result.enqueued_at == delay


def test_a_delay_counts_from_the_insert_by_the_clock_of_the_database():
    """F1: the web server's clock does not matter."""
    later = tasks.add.using(run_after=timedelta(hours=1))
    result = later.enqueue(1, 2)
    assert result.task.run_after - result.enqueued_at == timedelta(hours=1)
    assert RayTaskExecution.objects.get(task_id=result.id).due_at == result.task.run_after
    assert later.get_result(result.id) == result
    bulk = task_backends["default"].enqueue_many([(later, (1, 2), {}), (tasks.add, (1, 2), {})])
    assert [one.task.run_after is None for one in bulk] == [False, True]


@pytest.mark.parametrize("time_zone", ["Asia/Tokyo", "America/New_York"])
def test_a_naive_moment_without_time_zones_is_the_servers(time_zone):
    """F2."""
    with override_settings(USE_TZ=False, TIME_ZONE=time_zone):
        moment = datetime(2030, 1, 1, 12)  # noqa: DTZ001
        result = tasks.add.using(run_after=moment).enqueue(1, 2)
        assert result.task.run_after == moment
    due = RayTaskExecution.objects.get(task_id=result.id).due_at
    assert due == moment.replace(tzinfo=ZoneInfo(time_zone))


@pytest.fixture
def session_time_zone(monkeypatch):
    """Have Django's sessions begin in a time zone of the test's choice."""

    def begin_again():
        connection.close()
        for name in ("timezone", "timezone_name"):
            connections["default"].__dict__.pop(name, None)

    def choose(time_zone):
        monkeypatch.setitem(connection.settings_dict, "TIME_ZONE", time_zone)
        begin_again()

    yield choose
    monkeypatch.undo()
    begin_again()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("time_zone", ["Asia/Tokyo", "America/New_York"])
def test_the_time_zone_of_the_session_changes_no_moment(session_time_zone, time_zone):
    """F2: neither does the one of the moment that is given."""
    session_time_zone(time_zone)
    moment = datetime(2030, 1, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    at = tasks.add.using(run_after=moment).enqueue(1, 2)
    later = tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    with connection.cursor() as cursor:
        cursor.execute("SHOW timezone")
        assert cursor.fetchone() == (time_zone,)
        cursor.execute("SELECT due_at AT TIME ZONE 'UTC' FROM django_ray_execution WHERE run_after = %s", [moment])
        assert cursor.fetchone() == (datetime(2030, 1, 1, 11),)  # noqa: DTZ001
    assert later.task.run_after - later.enqueued_at == timedelta(hours=1)
    assert abs(later.enqueued_at - timezone.now()) < timedelta(minutes=1)
    assert tasks.add.get_result(at.id) == at
    assert tasks.add.get_result(later.id) == later


def test_a_naive_moment_is_refused_at_enqueue_too():
    """F2: with time zones in use, by whatever way it came into the task."""
    naive = replace(tasks.add.using(run_after=timezone.now()), run_after=None)
    object.__setattr__(naive, "run_after", datetime(2030, 1, 1))  # noqa: DTZ001
    with transaction.atomic():
        with pytest.raises(InvalidTask, match="aware"):
            naive.enqueue(1, 2)
        tasks.add.enqueue(1, 2)


class Lagging:
    """A router with a replica to read from, which here is not even there."""

    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"


@pytest.mark.django_db(transaction=True)
@override_settings(DATABASE_ROUTERS=[Lagging()])
def test_our_own_reads_go_where_the_writes_go():
    """F5: a replica may not know yet what has just been enqueued."""
    assert RayTaskExecution.objects.db == "replica"
    first, second = task_backends["default"].enqueue_many([(tasks.add, (1, 2), {}), (tasks.add, (3, 4), {})])
    assert tasks.add.get_result(first.id) == first
    assert first.cancel()
    assert not first.cancel()
    first.refresh()
    assert first.status == TaskResultStatus.FAILED
    (ran,) = run_tasks()
    assert ran.return_value == 7
    second.refresh()
    assert second.wait(timeout=1).return_value == 7
    assert async_to_sync(second.await_result)(timeout=1).return_value == 7
    assert missing_triggers(connection) == []
    assert find_database(task_backends["default"]) is not None


@pytest.mark.parametrize("options", [{}, {"timeout": 3, "backoff": Backoff(base=1), "retry_on": [ValueError]}])
def test_tasks_and_results_can_be_pickled(options):
    made = tasks.add.using(**options)
    assert pickle.loads(pickle.dumps(made)) == made
    result = made.enqueue(1, 2)
    assert pickle.loads(pickle.dumps(result)) == result
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))


def test_objects_with_json_are_encoded_by_it_before_anything_else():
    class Money:
        def __json__(self):
            return {"amount": (1, 2)}

    result = tasks.add.enqueue(Money(), b=[Money()])
    assert (result.args, result.kwargs) == ([{"amount": [1, 2]}], {"b": [{"amount": [1, 2]}]})
    assert tasks.add.get_result(result.id) == result


def test_defaults_of_a_queue_stand_between_the_backend_and_the_task():
    options = RayTaskBackend(
        "work",
        {
            "QUEUES": ["default", "reports"],
            "OPTIONS": {
                "MAX_ATTEMPTS": 5,
                "QUEUE_DEFAULTS": {"reports": {"timeout": 60, "num_cpus": 2, "no_retry_on": [KeyError]}},
            },
        },
    ).settings
    plain, report = options.of("default", None), options.of("reports", None)
    assert (plain.retry.max_attempts, plain.timeout, plain.ray) == (5, None, {})
    assert (report.retry.max_attempts, report.timeout, report.ray) == (5, 60, {"num_cpus": 2})
    assert report.retry.no_retry_on == ("builtins.KeyError",)
    own = options.of("reports", tasks.add.using(timeout=1, num_gpus=1, max_attempts=1).row_options())
    assert (own.retry.max_attempts, own.timeout, own.ray) == (1, 1, {"num_cpus": 2, "num_gpus": 1})


def test_a_ray_worker_finds_both_timeouts_as_the_supervisor_does():
    defaults = {"reports": {"timeout": 60, "stall_timeout": 5}}
    options = RayTaskBackend(
        "work", {"QUEUES": ["default", "reports"], "OPTIONS": {"QUEUE_DEFAULTS": defaults}}
    ).settings
    for queue_name in ("default", "reports"):
        for said in ({}, {"timeout": 1}, {"stall_timeout": 2}, {"timeout": 1, "stall_timeout": 2}, {"num_cpus": 1}):
            row = tasks.add.using(**said).row_options()
            whole = options.of(queue_name, row)
            assert options.timeouts(queue_name, row) == (whole.timeout, whole.stall_timeout)


def test_the_options_below_the_decorator_are_those_of_the_task():
    @task_options(timeout=3)
    def below():
        """Look as if it stood at module level."""

    below.__qualname__ = "below"
    assert task(below).timeout == 3
    assert task(below).using(timeout=4).timeout == 4
    below = task_options(timeout=3, nonsense=1)(below)
    with pytest.raises(InvalidTask, match="nonsense"):
        task(below)


def test_the_backend_is_built_without_apps_database_or_ray():
    code = (
        "import sys\n"
        "from django.conf import settings\n"
        "settings.configure(TASKS={'default': {'BACKEND': 'django_ray.backends.RayTaskBackend'}})\n"
        "from django.tasks import task_backends\n"
        "task_backends['default']\n"
        "print([name for name in ('django_ray.models', 'ray', 'anyio', 'psycopg_pool') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_forgotten_application_is_said_by_the_system_check():
    with override_settings(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"]):
        (error,) = task_backends["default"].check()
    assert error.id == "django_ray.E003"
    assert task_backends["default"].check() == []


class InATestCase(TestCase):
    def test_enqueueing_behaves_in_a_test_case(self):
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: tasks.add.enqueue(1, 2))
        assert RayTaskExecution.objects.count() == 1

    def test_and_leaves_nothing_for_the_next(self):
        assert not RayTaskExecution.objects.exists()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"QUEUES": "default"}, "must be a list"),
        ({"QUEUES": [""]}, "1 to 255"),
        ({"OPTIONS": {"CONCURENCY": 3}}, "did you mean CONCURRENCY?"),
        ({"OPTIONS": {"CONCURRENCY": 0}}, "at least 1"),
        ({"OPTIONS": {"BACKOFF": {"base": -1}}}, "at least 0"),
        ({"OPTIONS": {"BACKOFF": {"bass": 1}}}, "bass"),
        ({"OPTIONS": {"GRACE": "long"}}, "seconds"),
        ({"OPTIONS": []}, "dictionary"),
        ({"OPTIONS": {"QUEUE_DEFAULTS": []}}, "queue name -> dictionary"),
        ({"OPTIONS": {"QUEUE_DEFAULTS": {"default": 3}}}, "dictionary of task options"),
        ({"OPTIONS": {"QUEUE_DEFAULTS": {"default": {"timeot": 3}}}}, "timeout"),
        ({"OPTIONS": {"QUEUE_DEFAULTS": {"default": {"timeout": -3}}}}, "above 0"),
        ({"OPTIONS": {"QUEUE_DEFAULTS": {"default": {"stall_timeout": -3}}}}, "stall_timeout is -3: it must be"),
        ({"OPTIONS": {"QUEUE_DEFAULTS": {"elsewhere": {"timeout": 3}}}}, 'not in its "QUEUES"'),
    ],
)
def test_a_bad_setting_names_the_setting_the_value_and_the_fix(params, says):
    with pytest.raises(InvalidTaskBackend) as refusal:
        RayTaskBackend("work", params)
    assert says in str(refusal.value)
    assert 'TASKS["work"]' in str(refusal.value)


def test_any_queue_is_valid_for_a_backend_without_queues():
    name = "Überall 'quoted' \"x\" " + "🦀" * 50
    result = tasks.add.using(backend="any", queue_name=name).enqueue(1, 2)
    assert task_backends["any"].get_result(result.id).task.queue_name == name


def test_a_raising_receiver_changes_nothing(caplog):
    def explode(**_):
        raise RuntimeError("receiver")

    task_enqueued.connect(explode, sender=RayTaskBackend)
    try:
        result = tasks.add.enqueue(1, 2)
    finally:
        task_enqueued.disconnect(explode, sender=RayTaskBackend)
    assert RayTaskExecution.objects.filter(task_id=result.id).exists()
    assert "receiver" in caplog.text


def test_the_result_of_a_task_whose_code_is_gone_can_still_be_read():
    row = RayTaskExecution.objects.create(callable_path="tests.gone.never", worker_ids=[], errors=[])
    result = task_backends["default"].get_result(str(row.pk))
    assert result.task.module_path == "tests.gone.never"


def test_ids_are_made_by_the_database_in_the_order_of_enqueueing():
    ids = [tasks.add.enqueue(number, 0).id for number in range(50)]
    assert ids == sorted(ids)
    assert all(task_id[14] == "7" for task_id in ids)
