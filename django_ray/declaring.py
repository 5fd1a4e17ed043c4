"""What the code declares becomes rows of schedules: after each migrate, and when a supervisor starts.

The tasks of a project are found where Django's own conventions have them: in the module `tasks` of each application.
What is said of a schedule there, or in OPTIONS["SCHEDULES"], is its definition, with a digest. In a rolling deploy old
and new code run side by side, and each may start again: so a row is changed only by a definition that it has never
seen. Only migrate counts in any case: django_ray_declare() in SQL holds these rules.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from django.apps import apps
from django.conf import settings
from django.db import connections, router
from django.tasks import Task, task_backends

from django_ray.backends import RayTaskBackend
from django_ray.enqueueing import check_importable
from django_ray.plan import Plan
from django_ray.presence import mentions
from django_ray.results import import_task
from django_ray.runtime.foreign import contained, described
from django_ray.schedules import plans_of
from django_ray.serialization import encode, jsonable
from django_ray.signature import check_arguments
from django_ray.tasks import RayTask

if TYPE_CHECKING:
    from django.apps import AppConfig

__all__ = [
    "Declared", "after_migrate", "declare", "declared", "is_there", "reason_of", "schedulable_tasks", "stray_tasks",
]  # fmt: skip

log = logging.getLogger("django_ray.schedules")

_DECLARE = "SELECT django_ray_declare(%s, %s, %s, %s)"
# The tables may be as old as somebody wants them to be.
_KNOWS_ADMISSION = "SELECT to_regclass('django_ray_gate') IS NOT NULL"
# What a module that declares something says somewhere: others need not be imported, and may be large.
_WORD = "schedul"


@dataclass(slots=True)
class Declared:
    """What the code says of the schedules of a backend."""

    definitions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # What may be scheduled: head() of each.
    # The tasks of the definitions, by their names, as they are enqueued.
    planned: dict[str, Task[..., Any]] = field(default_factory=dict[str, "Task[..., Any]"])
    problems: list[str] = field(default_factory=list[str])  # What could not be read.
    unimported: list[str] = field(default_factory=list[str])  # Modules that could not be imported: they may say more.

    @property
    def parameters(self) -> tuple[str, str]:
        """What django_ray_declare() takes of it."""
        return encode(self.definitions), encode(self.tasks)

    def log(self) -> None:
        """Say what is wrong with it."""
        for problem in (*self.problems, *self.unimported):
            log.warning("%s", problem)


def declared(backend: RayTaskBackend, *, imports: bool = True) -> Declared:
    """Return what the code declares for a backend. Without imports, modules that say nothing of schedules stay out."""
    found = Declared()
    tasks: dict[str, Task[..., Any]] = {
        task.module_path: task for task in _tasks(backend.alias, found.unimported, imports=imports)
    }
    plans = [(task, plan) for task in tasks.values() for plan in plans_of(task)]
    for path, plan in backend.settings.schedules.values():
        task = contained(partial(import_task, path), reason_of)
        if isinstance(task, str):
            found.problems.append(f"The schedule {plan.name!r}: its task {path!r} cannot be imported: {task}")
        else:
            tasks[task.module_path] = task
            plans.append((task, plan))
    for task, plan in plans:
        problem = contained(partial(_add, found, backend, task, plan), reason_of)
        if problem is not None:
            found.problems.append(f"The schedule {plan.name or task.name!r} of {task.module_path}: {problem}")
    is_planned = {task.module_path for task, _ in plans}
    found.tasks = [
        head
        for task in tasks.values()
        if (getattr(task, "schedulable", False) or task.module_path in is_planned)
        and isinstance(head := contained(partial(_head, backend, task), reason_of), dict)
    ]
    return found


def schedulable_tasks(backend: RayTaskBackend) -> dict[str, Task[..., Any]]:
    """Return what staff may schedule, by path: what has a @schedule, stands in SCHEDULES, or says schedulable=True."""
    return {head["callable_path"]: import_task(head["callable_path"]) for head in declared(backend).tasks}


def declare(backend: RayTaskBackend, using: str, *, counts: bool) -> Declared:
    """Write what the code declares for a backend, and log what is wrong with it.

    Where it counts, it is applied in any case, and what is not declared any more ends; not so if something could not
    be read.
    """
    found = declared(backend)
    found.log()
    is_all = not (found.problems or found.unimported)
    with connections[using].cursor() as cursor:
        cursor.execute(_DECLARE, [backend.alias, *found.parameters, counts and is_all])
        cursor.execute(_KNOWS_ADMISSION)
        (knows_admission,) = cursor.fetchone()
    if counts and knows_admission:
        _admit_others(backend.alias, using)
    return found


def _admit_others(alias: str, using: str) -> None:
    """Have the schedules that others have made, and that follow their tasks, say what admits executions now.

    In migrate alone: it follows from the arguments of each, so no rule in SQL could tell which version has said it.
    """
    from django_ray.timetable import RaySchedule

    rows = RaySchedule._base_manager.using(using)  # noqa: SLF001
    for row in rows.filter(backend=alias, is_declared=False):
        if not row.follows:
            continue
        said = contained(row.said_admission, reason_of)
        if isinstance(said, str):
            log.warning("The schedule %r cannot be enqueued as its task says: %s", row.name, said)
        elif said != row.admission:
            rows.filter(pk=row.pk, args=row.args, kwargs=row.kwargs).update(admission=said)


def after_migrate(sender: AppConfig, using: str, **_: Any) -> None:
    """Write what the code declares for the backends of a database, if the tables are there. For post_migrate."""
    model = sender.get_model("RaySchedule")
    connection = connections[using]
    if connection.vendor != "postgresql" or not router.allow_migrate_model(using, model):
        return
    with connection.cursor() as cursor:
        # The tables may be as old as somebody wants them to be.
        cursor.execute("SELECT to_regprocedure('django_ray_declare(text, json, json, boolean)') IS NOT NULL")
        if cursor.fetchone() != (True,):
            return
    for alias in settings.TASKS:
        backend = contained(partial(task_backends.__getitem__, alias), reason_of)
        if isinstance(backend, RayTaskBackend) and backend.keeps_rows and backend.database == using:
            declare(backend, using, counts=True)


def is_there(name: str) -> bool:
    """Tell whether there is such a module."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def stray_tasks() -> Iterator[RayTask[..., Any]]:
    """Yield tasks with a @schedule in modules that nobody looks into, as far as these are imported."""
    known = {task.module_path for task in _tasks_in(_modules())}
    for task in _tasks_in([*sys.modules.values()]):
        if task.module_path not in known and plans_of(task):
            known.add(task.module_path)
            yield task


def _tasks(alias: str, unimported: list[str], *, imports: bool) -> Iterator[RayTask[..., Any]]:
    for application in apps.get_app_configs():
        name = f"{application.name}.tasks"
        if name in sys.modules or not is_there(name) or not (imports or mentions(name, _WORD)):
            continue
        reason = contained(partial(import_module, name), reason_of)
        if isinstance(reason, str):
            unimported.append(f"{name} cannot be imported, and may declare schedules: {reason}")
    yield from (task for task in _tasks_in(_modules()) if task.backend == alias)


def _modules() -> list[ModuleType]:
    """Return the modules of tasks that are imported, with those below them."""
    names = tuple(f"{application.name}.tasks" for application in apps.get_app_configs())
    below = tuple(f"{name}." for name in names)
    return [module for name, module in [*sys.modules.items()] if name in names or name.startswith(below)]


def _tasks_in(modules: list[ModuleType]) -> Iterator[RayTask[..., Any]]:
    seen: set[str] = set()
    for module in modules:
        for value in [*getattr(module, "__dict__", {}).values()]:
            # By its class itself: others may answer isinstance() with code of the project.
            if issubclass(type(value), RayTask) and value.module_path not in seen:
                seen.add(value.module_path)
                yield value


def _add(found: Declared, backend: RayTaskBackend, task: Task[..., Any], plan: Plan) -> None:
    """Add the row of a schedule; what an enqueue would refuse is refused here."""
    changes = {"queue_name": plan.queue_name, "priority": plan.priority, **plan.options}
    said = {name: value for name, value in changes.items() if value is not None}
    changed = task.using(**cast("Any", said)) if said else task
    args, kwargs = jsonable(list(plan.args), "args"), jsonable(dict(plan.kwargs), "kwargs")
    check_arguments(changed, args, kwargs)
    row: dict[str, Any] = {
        **_head(backend, changed),
        "name": plan.name or task.name,
        "args": args,
        "kwargs": kwargs,
        "cron": plan.cron,
        "every": None if plan.every is None else plan.every.total_seconds(),
        "time_zone": plan.time_zone or settings.TIME_ZONE,
        "missed": plan.missed,
        "missed_within": None if plan.missed_within is None else plan.missed_within.total_seconds(),
        "overlap": plan.overlap,
    }
    if (other := found.planned.get(row["name"])) is not None:
        raise ValueError(f"another one, of {other.module_path}, has that name: say name=... of one.")
    # Only where there is one: a definition that says nothing of it is the one that it was before.
    if (admission := backend.admission(changed, args, kwargs, changed.queue_name)) is not None:
        row["admission"] = admission
    found.planned[row["name"]] = changed
    found.definitions.append({**row, "digest": _digest(row)})


def _head(backend: RayTaskBackend, task: Task[..., Any]) -> dict[str, Any]:
    """Return what an enqueue of a task says, but for its arguments."""
    check_importable(task)
    backend.validate_task(task)
    if task.run_after is not None:
        raise ValueError("its run_after has no meaning here: a schedule says when.")
    return {
        "callable_path": task.module_path,
        "queue_name": task.queue_name,
        "priority": task.priority,
        "options": task.row_options() if isinstance(task, RayTask) else None,
    }


def _digest(row: Mapping[str, Any]) -> str:
    return sha256(encode(sorted(row.items())).encode()).hexdigest()[:32]


def reason_of(error: BaseException) -> str:
    """Return what an error of the project's code says."""
    if isinstance(error, KeyboardInterrupt):
        raise error  # of the developer
    found = described(error)
    return found.message or found.class_path
