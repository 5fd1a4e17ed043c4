"""invoke(), called as the Ray worker calls it, in this process."""

import json
import math
import threading
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.tasks import task
from django.tasks.signals import task_finished, task_started

from django_ray.backends import RayTaskBackend
from django_ray.runtime import interrupt
from django_ray.runtime.entrypoint import invoke
from django_ray.watch import Watch
from tests.poison import Unhelpful
from tests.tasks import CALLED

NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()


Alias = ValueError


@task
def raise_(name):
    raise {
        "nul": ValueError("a\x00b"),
        "surrogate": ValueError("a\ud800b"),
        "long": ValueError("x" * 10_000_000),
        "unhelpful": Unhelpful(1, 2),
        "exit": SystemExit(3),
        "generator": GeneratorExit(),
    }[name]


@task
def return_(name):
    return {
        "nan": math.nan, "nul": "a\x00", "lambda": lambda: None, "bytes": b"\xff", "set": {1}, "huge": "x" * 20_000_000,
    }[name]  # fmt: skip


@task
async def async_double(number):
    return number * 2


@task(takes_context=True)
def context_of(context):
    return [context.attempt, context.task_result.id, context.task_result.status]


@task
def leave_transaction_open(how):
    if how == "autocommit":
        connection.set_autocommit(False)
    elif how == "atomic":
        from django.db.transaction import atomic

        atomic().__enter__()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN" if how == "begin" else "SELECT 1")


@task
def close_connection():
    connection.close()


@task
def kill_connection():
    from django.db import connections

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    other = connections.create_connection("default")
    other.cursor().execute("SELECT pg_terminate_backend(%s)", [pid])
    other.close()


@task
def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 41 + 1")
        return cursor.fetchone()[0]


def payload(path, *args, **changes):
    row = {
        "task_id": "01a21104-1c8a-7625-9c09-11d7be1bd0c3", "state": "RUNNING", "backend": "default",
        "queue_name": "default", "priority": 0, "callable_path": path, "args": list(args), "kwargs": {},
        "options": None, "run_after": None, "enqueued_at": NOW, "started_at": NOW, "last_attempted_at": NOW,
        "attempt_number": 1, "failures": 0, "worker_ids": ["1"], "errors": [],
    }  # fmt: skip
    return json.dumps({**row, **changes})


def path(name):
    return f"tests.test_runtime.{name}"


@pytest.fixture
def signals():
    seen = []

    def record(signal, sender, task_result, **_):
        seen.append((signal, sender, task_result.status))

    for signal in (task_started, task_finished):
        signal.connect(record)
    yield seen
    for signal in (task_started, task_finished):
        signal.disconnect(record)


def test_a_body_returns_json():
    assert invoke(payload(path("async_double"), 4)) == {"kind": "returned", "result": "8", "output": ""}


def test_a_body_that_takes_context_gets_its_result():
    envelope = invoke(payload(path("context_of"), worker_ids=["1", "2"]))
    assert json.loads(envelope["result"]) == [2, "01a21104-1c8a-7625-9c09-11d7be1bd0c3", "RUNNING"]


@pytest.mark.parametrize(
    ("name", "exception", "says"),
    [
        ("nul", "builtins.ValueError", "\\x00"),
        ("surrogate", "builtins.ValueError", "\\ud800"),
        ("long", "builtins.ValueError", "characters left out"),
        ("unhelpful", "tests.poison.Unhelpful", "its __str__ raised RuntimeError"),
        ("exit", "builtins.SystemExit", "3"),
        ("generator", "builtins.GeneratorExit", ""),
    ],
)
def test_whatever_a_body_raises_becomes_storable_data(name, exception, says):
    """D3, D4."""
    envelope = invoke(payload(path("raise_"), name))
    assert (envelope["kind"], envelope["exception_class_path"]) == ("raised", exception)
    assert says in envelope["message"]
    assert "raise_" in envelope["traceback"]
    text = json.dumps(envelope, ensure_ascii=False)
    text.encode()
    assert len(text) < 200_000


@pytest.mark.parametrize(
    ("name", "exception"),
    [
        ("nan", "builtins.ValueError"),
        ("nul", "builtins.ValueError"),
        ("lambda", "builtins.TypeError"),
        ("bytes", "builtins.ValueError"),
        ("set", "builtins.TypeError"),
        ("huge", "django_ray.exceptions.InvalidResult"),
    ],
)
def test_a_result_that_cannot_be_stored_is_refused_with_the_reason(name, exception):
    """D1, D5. With Django's classes where Django has one."""
    envelope = invoke(payload(path("return_"), name))
    assert (envelope["kind"], envelope["exception_class_path"]) == ("refused", exception)
    assert "The result" in envelope["message"]


@pytest.mark.parametrize("row", ["os.system", "tests.tasks.not_a_task", "no.such.module", "tests.tasks.nothing"])
def test_a_path_that_is_not_a_task_is_refused_and_never_called(row):
    """C10."""
    # Without an argument, so that not_a_task could be called.
    assert invoke(payload(row))["kind"] == "missing"
    assert not CALLED.exists()


def test_arguments_that_no_longer_fit_are_a_failure_of_the_task():
    """C10."""
    assert invoke(payload(path("async_double"), 1, 2))["exception_class_path"] == "builtins.TypeError"


@pytest.mark.parametrize(
    ("named", "finishes"),
    [
        ("builtins.ValueError", True),
        ("builtins.Exception", True),
        ("tests.test_runtime.Alias", True),
        ("no.such", False),
    ],
)
def test_a_policy_names_classes_by_any_path_and_by_their_bases(signals, named, finishes):
    invoke(payload(path("raise_"), "nul", options={"retry": {"no_retry_on": [named]}}))
    assert (signals[-1][0] is task_finished) == finishes


def test_signals_are_sent_with_the_backend_class(signals):
    invoke(payload(path("async_double"), 4))
    assert signals == [(task_started, RayTaskBackend, "RUNNING"), (task_finished, RayTaskBackend, "SUCCESSFUL")]


def test_an_attempt_that_will_be_retried_is_not_finished(signals):
    invoke(payload(path("raise_"), "nul"))
    assert [signal for signal, *_ in signals] == [task_started]
    invoke(payload(path("raise_"), "nul", failures=2))
    assert signals[-1] == (task_finished, RayTaskBackend, "FAILED")


def test_a_raising_receiver_changes_no_outcome(caplog):
    """D7."""

    def explode(**_):
        raise RuntimeError("receiver")

    task_started.connect(explode)
    try:
        assert invoke(payload(path("async_double"), 4))["result"] == "8"
    finally:
        task_started.disconnect(explode)
    assert "receiver" in caplog.text


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("leave_transaction_open", ["autocommit"]),
        ("leave_transaction_open", ["atomic"]),
        ("leave_transaction_open", ["begin"]),
        ("close_connection", []),
        ("kill_connection", []),
    ],
)
def test_the_next_task_finds_a_clean_connection(name, args):
    """D6."""
    assert invoke(payload(path(name), *args)) == {"kind": "returned", "result": "null", "output": ""}
    assert invoke(payload(path("query"))) == {"kind": "returned", "result": "42", "output": ""}
    assert connection.get_autocommit()


def test_a_watch_goes_on_after_something_that_it_calls_has_failed(caplog):
    watch, is_done = Watch("django-ray-test"), threading.Event()

    def fail():
        raise SystemExit

    watch.guard(0, fail)
    watch.guard(0.01, is_done.set)
    assert is_done.wait(20)
    assert "What django-ray-test had to do has failed." in caplog.text


def test_who_asks_before_there_is_anything_to_stop_is_heeded(monkeypatch):
    """A worker that stays would be killed with its model two seconds later."""
    attempt = interrupt._Attempt()
    attempt.is_asked = True
    monkeypatch.setattr(interrupt, "_attempt", attempt)
    with pytest.raises(KeyboardInterrupt), interrupt.interruptible():
        raise AssertionError
    assert interrupt.was_interrupted()
