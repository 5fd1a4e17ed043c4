"""Django's own tests of django.tasks, made to run against RayTaskBackend.

Two backends stand in for Django's doubles, and the source of the tests is changed where it names those: nothing else.
"""

import re
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from unittest import TestCase, skip

import django

from django_ray.backends import RayTaskBackend
from django_ray.models import RayTaskExecution
from django_ray.requirements import TaskOptions
from django_ray.retry import RetryPolicy
from django_ray.testing import run_tasks

SOURCE = Path(__file__).resolve().parent.parent / ".tools" / "django-tests" / django.get_version() / "tasks"

MEMORY = "changes the memory of Django's DummyBackend; ours are rows, and tests/test_backend.py refreshes them"
CAN = "shows what ImmediateBackend cannot do; RayTaskBackend can"
EXCLUDED = {
    "DummyBackendTestCase.test_refresh_result": MEMORY,
    "DummyBackendTestCase.test_refresh_result_async": MEMORY,
    "ImmediateBackendTestCase.test_cannot_get_result": CAN,
    "ImmediateBackendTestCase.test_cannot_refresh_result": CAN,
    "ImmediateBackendTestCase.test_cannot_pass_run_after": CAN,
    "ImmediateBackendTestCase.test_throws_keyboard_interrupt": "in a Ray worker there is no user to interrupt",
    "TaskTestCase.test_refresh_result": "queries the database in a coroutine, which Django forbids",
}

REPLACED = [
    (r"django\.tasks\.backends\.dummy\.DummyBackend", "tests.django_shim.Queued"),
    (r"django\.tasks\.backends\.immediate\.ImmediateBackend", "tests.django_shim.Done"),
    (
        r"from django\.tasks\.backends\.dummy import DummyBackend",
        "from tests.django_shim import Queued as DummyBackend",
    ),
    (
        r"from django\.tasks\.backends\.immediate import ImmediateBackend",
        "from tests.django_shim import Done as ImmediateBackend",
    ),
    (r"\bSimpleTestCase\b", "TestCase"),  # there is a database now
    (r"available_apps = \[\]", "available_apps = None"),
]


class Queued(RayTaskBackend):
    """For DummyBackend: .results holds what was read back from the rows."""

    def __init__(self, alias, params):
        super().__init__(alias, params)
        self.results = []

    def enqueue_many(self, calls):
        results = super().enqueue_many(calls)
        self.results += [self.get_result(result.id) for result in results]
        return results

    def clear(self):
        self.results.clear()
        RayTaskExecution.objects.all().delete()


class Done(RayTaskBackend):
    """For ImmediateBackend: what is enqueued is run at once, from its row, and tried once."""

    def __init__(self, alias, params):
        super().__init__(alias, params)
        object.__setattr__(self.settings, "defaults", TaskOptions(retry=RetryPolicy(max_attempts=1)))

    def enqueue_many(self, calls):
        results = super().enqueue_many(calls)
        run_tasks(backend=self.alias)
        for result in results:
            result.refresh()
        return results


def load(name):
    """Import a module of Django's tests.tasks, with the replacements, as tasks.<name>."""
    path = SOURCE / f"{name}.py" if name else SOURCE / "__init__.py"
    source = path.read_text()
    for pattern, replacement in REPLACED:
        source = re.sub(pattern, replacement, source)
    full = f"tasks.{name}" if name else "tasks"
    module = module_from_spec(ModuleSpec(full, loader=None, is_package=not name))
    sys.modules[full] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def cases():
    """Return Django's test cases by name, with the excluded ones marked as skipped."""
    load("")
    load("tasks")
    found = {}
    for path in sorted(SOURCE.glob("test_*.py")):
        module = load(path.stem)
        found |= {
            name: case
            for name, case in vars(module).items()
            if isinstance(case, type) and issubclass(case, TestCase) and case.__module__ == module.__name__
        }
    for excluded, reason in EXCLUDED.items():
        case, _, method = excluded.partition(".")
        setattr(found[case], method, skip(reason)(getattr(found[case], method)))
    return found


__all__ = ["EXCLUDED", "Done", "Queued", "cases"]
