"""The project's code outside of bodies: whatever it raises is the outcome of its execution, and of no other."""

import json
import sys

import pytest
from django.tasks import TaskResultStatus, task_backends
from django.tasks.signals import task_finished, task_started

from django_ray.models import RayTaskExecution, State
from django_ray.runtime import entrypoint
from django_ray.runtime.entrypoint import invoke
from django_ray.runtime.foreign import described
from tests import tasks
from tests.evil import NO_EXCEPTIONS
from tests.supervisors import until
from tests.test_runtime import payload

AT_IMPORT = [
    ("tests.at_import.exit.x", "builtins.SystemExit", "3"),
    ("tests.at_import.interrupt.x", "builtins.KeyboardInterrupt", "of the module's own"),
    ("tests.at_import.generator.x", "builtins.GeneratorExit", ""),
    ("tests.at_import.own.x", "tests.at_import.own.NoException", "its __str__ raised SystemExit"),
    ("tests.at_import.attribute.x", "builtins.KeyboardInterrupt", "x"),
    ("unittest.__main__.x", "builtins.SystemExit", ""),
]


@pytest.fixture
def streams():
    kept = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = kept


def path(name):
    return f"tests.evil.{name}"


@pytest.mark.parametrize(("row", "exception", "says"), AT_IMPORT)
def test_what_a_module_raises_at_its_import_is_data(row, exception, says):
    """H1."""
    envelope = invoke(payload(row))
    assert (envelope["kind"], envelope["exception_class_path"]) == ("missing", exception)
    assert says in envelope["message"]


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
@pytest.mark.parametrize("place", ["__str__", "__getattr__", "__notes__"])
def test_what_an_exception_raises_when_it_is_described_is_data(place, name):
    """H2."""
    envelope = invoke(payload(path("raises_evil"), place, name))
    assert (envelope["kind"], envelope["exception_class_path"]) == ("raised", path("Evil"))
    assert "raises_evil" in envelope["traceback"]
    assert envelope["message"] in {f"<no message: its __str__ raised {name}>", "asked politely"}
    assert envelope["mro"][:2] == [path("Evil"), "builtins.Exception"]


def test_a_class_that_does_not_tell_its_name_is_an_exception_all_the_same():
    """H2."""
    envelope = invoke(payload(path("raises_of_evil_class")))
    assert (envelope["kind"], envelope["message"]) == ("raised", "all the same")


def test_a_message_of_a_class_of_its_own_becomes_a_plain_one():
    """H2."""
    envelope = invoke(payload(path("raises_with_a_text_of_its_own")))
    assert (type(envelope["message"]), envelope["message"]) == (str, "a\\x00b")


def test_a_policy_that_names_a_module_that_exits_names_no_base():
    """H1, H2."""
    assert described(ValueError("v"), ["tests.at_import.exit.Error"]).mro[0] == "builtins.ValueError"


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_a_result_raises_when_it_is_made_json_refuses_it(name):
    """H1: the body has returned; another attempt would end the same."""
    envelope = invoke(payload(path("returns_evil"), name))
    assert (envelope["kind"], envelope["exception_class_path"]) == ("refused", f"builtins.{name}")


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("signal", [task_started, task_finished])
def test_what_a_receiver_raises_changes_no_outcome(signal, error, caplog):
    """H1."""

    def explode(**_):
        raise error

    signal.connect(explode)
    try:
        assert json.loads(invoke(payload("tests.tasks.add", 2, 3))["result"]) == 5
        failed = invoke(payload("tests.tasks.fail", options={"retry": {"max_attempts": 1}}))
    finally:
        signal.disconnect(explode)
    assert (failed["kind"], failed["exception_class_path"]) == ("raised", "builtins.ValueError")
    assert f"raised builtins.{type(error).__name__}, which is ignored" in caplog.text


def test_a_stream_that_a_body_has_left_behind_changes_no_outcome(streams):
    """H1."""
    assert invoke(payload(path("leaves_an_evil_stream")))["kind"] == "returned"


def test_an_upkeep_that_fails_keeps_the_outcome(monkeypatch, caplog):
    """H1: a database engine is the project's as well."""

    class Broken(entrypoint.Upkeep):
        def __exit__(self, *_):
            raise SystemExit(5)

    monkeypatch.setattr(entrypoint, "Upkeep", Broken)
    assert json.loads(invoke(payload("tests.tasks.add", 2, 3))["result"]) == 5
    assert "SystemExit" in caplog.text


def insert_row(callable_path, *args):
    options = {"retry": {"max_attempts": 1}}
    return RayTaskExecution.objects.create(callable_path=callable_path, args=list(args), options=options).pk


@pytest.mark.django_db
def test_a_result_can_be_read_whatever_its_module_raises():
    """H1."""
    result = task_backends["default"].get_result(str(insert_row("tests.at_import.exit.x")))
    assert (result.status, result.task.name) == (TaskResultStatus.READY, "x")


def assert_that_each_fails_alone(supervisor):
    before = tasks.add.enqueue(1, 1)
    evil = [(insert_row(row), exception) for row, exception, _ in AT_IMPORT]
    evil += [
        (insert_row(path("raises_evil"), place, name), path("Evil"))
        for place, name in (
            ("__str__", "SystemExit"),
            ("__getattr__", "KeyboardInterrupt"),
            ("__notes__", "GeneratorExit"),
        )
    ]
    after = tasks.add.enqueue(2, 2)
    unfinished = RayTaskExecution.objects.filter(finished_at=None)
    until(lambda: not unfinished.exists(), 120, "the end of all")
    for task_id, exception in evil:
        row = RayTaskExecution.objects.get(pk=task_id)
        assert (row.state, row.exception_type, row.attempt_number) == (State.FAILED, exception, 1), row.errors
    for neighbour in (before, after):
        assert neighbour.wait(timeout=60).status == TaskResultStatus.SUCCESSFUL
        assert RayTaskExecution.objects.get(pk=neighbour.id).attempt_number == 1
    assert supervisor.process.poll() is None


@pytest.mark.django_db(transaction=True)
def test_without_ray_the_supervisor_outlives_what_only_its_row_meant(listen):
    """H1, H2."""
    supervisor = listen("--sync")
    supervisor.wait_for("is ready")
    assert_that_each_fails_alone(supervisor)
    supervisor.signal()
    assert supervisor.wait() == 0


@pytest.mark.django_db(transaction=True)
def test_on_ray_nobody_dies_and_nothing_is_claimed_again(on_ray):
    """H1, H2."""
    assert_that_each_fails_alone(on_ray)
