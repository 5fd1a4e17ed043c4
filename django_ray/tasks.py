"""RayTask: Django's Task with Ray resources, a retry policy and a timeout.

They are keyword arguments of @task and of using(). They end up in the row's options; None means "as configured".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from django.tasks import Task
from django.tasks.exceptions import InvalidTask

from django_ray.options import Options, TaskOptions
from django_ray.retry import Backoff, class_path
from django_ray.serialization import dumps

__all__ = ["RayTask", "task_options"]

if TYPE_CHECKING:
    _Task = Task[..., Any]  # generic in its stubs alone
else:
    _Task = Task

type ExceptionClass = type[BaseException] | str

_POLICY = ("max_attempts", "backoff", "retry_on", "no_retry_on")
_RAY = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector", "runtime_env")


# Where task_options leaves what it was given until @task makes a task of the function.
_ATTRIBUTE = "_django_ray_options"


def task_options[Function: Callable[..., Any]](**options: Any) -> Callable[[Function], Function]:
    """Declare a task's options under @task, for Django 6.0, whose @task takes none but its own.

    The fields of RayTask can be given; InvalidTask or TypeError is raised by @task when they do not fit.
    """

    def declare(function: Function) -> Function:
        setattr(function, _ATTRIBUTE, options)
        return function

    return declare


@dataclass(frozen=True, slots=True, kw_only=True)
class RayTask(_Task):
    """A task that says what it needs of Ray and what becomes of it when it fails."""

    num_cpus: float | None = None  # 1 unless said otherwise.
    num_gpus: float | None = None
    memory: int | None = None  # Bytes that Ray reserves when it places the task; no limit on what it uses.
    resources: Mapping[str, float] | None = field(default=None, hash=False)
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] | None = field(default=None, hash=False)
    runtime_env: Mapping[str, Any] | None = field(default=None, hash=False)
    fresh_process: bool = False  # A new Ray worker process for each attempt.
    timeout: float | None = None  # Seconds that an attempt may run.
    max_attempts: int | None = None
    backoff: Backoff | None = None
    retry_on: tuple[ExceptionClass, ...] | None = None  # Only these classes and what derives from them.
    no_retry_on: tuple[ExceptionClass, ...] | None = None  # Never these; they win over retry_on.

    def __post_init__(self) -> None:
        known = {option.name for option in fields(self)} - {option.name for option in fields(Task)}
        for name, value in getattr(self.func, _ATTRIBUTE, {}).items():
            if name not in known:
                raise InvalidTask(f"task_options() has no {name!r}; there are {', '.join(sorted(known))}.")
            if getattr(self, name) is None or getattr(self, name) is False:
                object.__setattr__(self, name, value)
        self.row_options()
        Task.__post_init__(self)  # super() does not work in a slotted dataclass

    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | None = None,
        backend: str | None = None,
        **options: Any,
    ) -> Self:
        """Return the task with some of its attributes changed; all fields of RayTask can be given."""
        plain = {"priority": priority, "queue_name": queue_name, "run_after": run_after, "backend": backend}
        changes: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
        return replace(self, **changes, **options)

    def row_options(self) -> dict[str, Any] | None:
        """Return what the row stores in its options; InvalidTask when they cannot work."""
        retry = {name: getattr(self, name) for name in _POLICY if getattr(self, name) is not None}
        if "backoff" in retry and isinstance(retry["backoff"], Backoff):
            retry["backoff"] = {name: getattr(retry["backoff"], name) for name in Backoff.__slots__}
        for name in ("retry_on", "no_retry_on"):
            if name in retry:
                retry[name] = [class_path(exception) for exception in retry[name]]
        ray = {name: getattr(self, name) for name in _RAY if getattr(self, name) is not None}
        if self.fresh_process:
            ray["max_calls"] = 1
        options: dict[str, Any] = {}
        if retry:
            options["retry"] = retry
        if self.timeout is not None:
            options["timeout"] = self.timeout
        if ray:
            options["ray"] = ray
        if not options:
            return None
        try:
            TaskOptions.merge(Options(), options)
            stored: dict[str, Any] = json.loads(dumps(options, f"An option of the task {self.name!r}"))
        except (TypeError, ValueError) as error:
            raise InvalidTask(str(error)) from None
        return stored
