"""Tasks that misbehave in every way we know of, on a real Ray: each ends readably, and alone."""

import time

import pytest
from django.tasks import TaskResultStatus, task_backends

from django_ray.models import RayTaskExecution, State
from tests import tasks
from tests.poison import dies, leaves, raises, raises_later, returns
from tests.tasks import CALLED, not_a_task

pytestmark = pytest.mark.django_db(transaction=True)

POISON = [
    (raises, "nul", "builtins.ValueError", "a\\x00b"),
    (raises, "surrogate", "builtins.ValueError", "a\\ud800b"),
    (raises, "10 MB", "builtins.ValueError", "characters left out"),
    (raises, "unpicklable", "tests.poison.Unhelpful", "__str__ raised"),
    (raises, "SystemExit", "builtins.SystemExit", "3"),
    (raises, "KeyboardInterrupt", "builtins.KeyboardInterrupt", "not Ray's"),
    (raises, "CancelledError", "asyncio.exceptions.CancelledError", "not Ray's"),
    (raises, "GeneratorExit", "builtins.GeneratorExit", "odd"),
    (raises_later, "SystemExit", "builtins.SystemExit", "3"),
    (raises_later, "CancelledError", "asyncio.exceptions.CancelledError", ""),
    (returns, "NaN", "builtins.ValueError", "The result is nan"),
    (returns, "NUL", "builtins.ValueError", "NUL"),
    (returns, "lambda", "builtins.TypeError", "function"),
    (returns, "bytes", "builtins.ValueError", "base64"),
    (returns, "set", "builtins.TypeError", "pass a list"),
    (returns, "20 MB", "django_ray.exceptions.InvalidResult", "20,000,002 bytes"),
    (dies, "os._exit", "django_ray.exceptions.TaskLost", "died"),
    pytest.param(dies, "SIGSEGV", "django_ray.exceptions.TaskLost", "died", marks=pytest.mark.slow),
    (leaves, "autocommit off", None, ""),
    (leaves, "atomic open", None, ""),
    (leaves, "connection closed", None, ""),
    ("no.such.task", None, "builtins.ModuleNotFoundError", "no"),
    ("tests.tasks.gone", None, "builtins.ImportError", "gone"),
    ("tests.tasks.not_a_task", None, "builtins.TypeError", "not a task"),
    ("os.system", None, "builtins.TypeError", "not a task"),
]


@pytest.mark.parametrize(
    "options", [{"ray": {"num_cpus": "x"}}, {"ray": {"resources": [1]}}, {"ray": {"num_returns": 2}}]
)
def test_options_that_somebody_wrote_into_the_row_harm_no_neighbour(on_ray, options):
    before = tasks.backend_pid.enqueue()
    row = RayTaskExecution.objects.create(callable_path="tests.tasks.add", args=[1, 2], options=options)
    after = tasks.backend_pid.enqueue()
    assert task_backends["default"].get_result(str(row.pk)).wait(timeout=60).status == TaskResultStatus.FAILED
    row.refresh_from_db()
    assert (row.exception_type, row.failures) == ("django_ray.exceptions.TaskRefused", 1)
    for neighbour in (before, after):
        assert neighbour.wait(timeout=60).status == TaskResultStatus.SUCCESSFUL
    assert on_ray.process.poll() is None


def put(poison, argument):
    if isinstance(poison, str):
        return task_backends["default"].get_result(str(RayTaskExecution.objects.create(callable_path=poison).pk))
    return poison.enqueue(argument)


@pytest.mark.parametrize(("poison", "argument", "exception", "says"), POISON)
def test_poison_ends_readably_and_harms_no_neighbour(on_ray, poison, argument, exception, says):
    """C10, D1, D3, D4, D5, D6."""
    before = [tasks.backend_pid.enqueue() for _ in range(3)]
    began = time.monotonic()
    result = put(poison, argument).wait(timeout=60)
    seconds = time.monotonic() - began
    after = [tasks.backend_pid.enqueue() for _ in range(3)]
    row = RayTaskExecution.objects.get(task_id=result.id)
    print(f"{poison if isinstance(poison, str) else poison.name}({argument}): {row.state} in {seconds:.2f} s")
    if exception is None:
        assert result.return_value == argument
    else:
        assert result.status == TaskResultStatus.FAILED
        assert (row.state, row.exception_type) == (State.FAILED, exception)
        assert says in row.error_message
        assert len(row.error_traceback) < 200_000
        assert len(result.errors) == result.attempts
    for neighbour in before + after:
        assert neighbour.wait(timeout=60).status == TaskResultStatus.SUCCESSFUL
    assert on_ray.process.poll() is None
    assert not CALLED.exists(), not_a_task
