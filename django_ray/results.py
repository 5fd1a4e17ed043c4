"""A row becomes Django's TaskResult. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Protocol

from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.utils.module_loading import import_string

__all__ = ["Row", "import_task", "missing_task", "task_of", "task_result"]

_STATUS: Mapping[str, TaskResultStatus] = {
    "READY": TaskResultStatus.READY,
    "RUNNING": TaskResultStatus.RUNNING,
    "SUCCESSFUL": TaskResultStatus.SUCCESSFUL,
    "FAILED": TaskResultStatus.FAILED,
    "CANCELLED": TaskResultStatus.FAILED,
}


class Row(Protocol):
    """What a result is made from: a RayTaskExecution, or the payload of a claim in a Ray worker."""

    task_id: Any
    state: str
    backend: str
    queue_name: str
    priority: int
    run_after: datetime | None
    enqueued_at: datetime
    started_at: datetime | None
    last_attempted_at: datetime | None
    finished_at: datetime | None
    args: list[Any]
    kwargs: dict[str, Any]
    result: Any
    errors: list[dict[str, Any]]
    worker_ids: list[str]


def import_task(path: str) -> Task[..., Any]:
    """Import the task that a row names; ImportError when there is none, TypeError when it is anything but a Task.

    A row must never be able to call what is not declared as a task.
    """
    found = import_string(path)
    if not isinstance(found, Task):
        raise TypeError(f"{path!r} is a {type(found).__qualname__}, not a task: decorate it with @task.")
    return found


def missing_task(path: str) -> Task[..., Any]:
    """Return a stand-in for a task whose code is gone, so that its results can still be read."""

    def gone() -> None:
        raise LookupError(f"The task {path!r} is not importable any more.")

    module, _, name = path.rpartition(".")
    gone.__module__, gone.__qualname__, gone.__name__ = module, name, name
    task: Task[..., Any] = _with(Task, func=gone, takes_context=False)
    return task


def task_of(task: Task[..., Any], row: Row) -> Any:
    """Return the task as it was enqueued: with the row's queue, priority, run_after and backend.

    The row is what happened, so nothing is validated against today's settings.
    """
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    values |= {
        "priority": row.priority,
        "queue_name": row.queue_name,
        "run_after": row.run_after,
        "backend": row.backend,
    }
    return _with(type(task), **values)


def _with(kind: type[Task[..., Any]], **values: Any) -> Any:
    task = object.__new__(kind)
    for field in fields(kind):
        object.__setattr__(task, field.name, values.get(field.name))
    return task


def task_result[**P, R](task: Task[P, R], row: Row) -> TaskResult[P, R]:
    """Return the result of a row; task is its task, by import_task."""
    result: TaskResult[P, R] = TaskResult(
        task=task_of(task, row),
        id=str(row.task_id),
        status=_STATUS[row.state],
        enqueued_at=row.enqueued_at,
        started_at=row.started_at,
        last_attempted_at=row.last_attempted_at,
        finished_at=row.finished_at,
        args=row.args,
        kwargs=row.kwargs,
        backend=row.backend,
        errors=[
            TaskError(exception_class_path=error["exception_class_path"], traceback=error["traceback"])
            for error in row.errors
        ],
        worker_ids=list(row.worker_ids),
    )
    object.__setattr__(result, "_return_value", row.result)
    return result
