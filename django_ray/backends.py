"""RayTaskBackend: enqueue is one INSERT in the caller's transaction, get_result one SELECT.

The trigger on the table rings the doorbell; nothing here knows of supervisors or Ray. Constructing the backend touches
no model and no database: Django builds it when a module with tasks is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, override
from uuid import UUID

from asgiref.sync import sync_to_async
from django.tasks import Task, TaskResult
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued

from django_ray.options import Options
from django_ray.results import Row, import_task, missing_task, task_result
from django_ray.serialization import jsonable
from django_ray.tasks import RayTask

if TYPE_CHECKING:
    from django_ray.models import RayTaskExecution

__all__ = ["RayTaskBackend"]

ROWS_PER_INSERT = 1000
MAX_NAME = 255  # Characters of a queue's or backend's name: the width of its column.


class RayTaskBackend(BaseTaskBackend):
    """TASKS = {"default": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": [...], "OPTIONS": {...}}}."""

    task_class = RayTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        queues = params.get("QUEUES", ["default"])
        if not isinstance(queues, list | tuple | set | frozenset):
            raise InvalidTaskBackend(
                f'TASKS["{alias}"]["QUEUES"] must be a list of names, not {queues!r}; [] allows any.'
            )
        for name in (alias, *queues):
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "\x00" in name:
                raise InvalidTaskBackend(
                    f'TASKS["{alias}"]: {name!r} is not a name of 1 to {MAX_NAME} characters without NUL.'
                )
        super().__init__(alias, params)
        try:
            self.settings = Options.parse(alias, self.options)
        except ValueError as error:
            raise InvalidTaskBackend(str(error)) from None

    @override
    def validate_task(self, task: Task[..., Any]) -> None:
        """Raise InvalidTask for a task that this backend cannot run."""
        # What users pass is not always what the annotation says.
        if isinstance(task.priority, bool) or not isinstance(task.priority, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidTask(f"priority must be a whole number, not {task.priority!r}.")
        super().validate_task(task)
        if not 0 < len(task.queue_name) <= MAX_NAME or "\x00" in task.queue_name:
            raise InvalidTask(f"A queue name has 1 to {MAX_NAME} characters, not {task.queue_name!r}.")

    @override
    def enqueue[**P, R](self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Insert the execution in the caller's transaction and return its result, READY.

        InvalidTask, TypeError and ValueError are raised before any SQL, so that an atomic block survives them.
        """
        self.validate_task(task)
        row = self._row(task, args, kwargs)
        row.save(force_insert=True)
        result = task_result(task, cast("Row", row))
        task_enqueued.send_robust(type(self), task_result=result)
        return result

    def enqueue_many(self, calls: Iterable[tuple[Task[..., Any], Sequence[Any], Mapping[str, Any]]]) -> list[Any]:
        """Insert many executions, each a (task, args, kwargs), and return their results in the same order.

        All or none, with one statement per 1,000 rows and one ring of the bell per queue. Raises what enqueue raises,
        before any SQL.
        """
        from django_ray.models import RayTaskExecution

        chosen = list(calls)
        for task in dict.fromkeys(task for task, *_ in chosen):
            self.validate_task(task)
        rows = [self._row(task, args, kwargs) for task, args, kwargs in chosen]
        RayTaskExecution._base_manager.bulk_create(rows, batch_size=ROWS_PER_INSERT)  # noqa: SLF001
        results = [task_result(task, cast("Row", row)) for (task, *_), row in zip(chosen, rows, strict=True)]
        for result in results:
            task_enqueued.send_robust(type(self), task_result=result)
        return results

    async def aenqueue_many(
        self, calls: Iterable[tuple[Task[..., Any], Sequence[Any], Mapping[str, Any]]]
    ) -> list[Any]:
        """Do what enqueue_many does."""
        return await sync_to_async(self.enqueue_many, thread_sensitive=True)(calls)

    def _row(self, task: Task[..., Any], args: Any, kwargs: Any) -> RayTaskExecution:
        from django_ray.models import RayTaskExecution, State

        return RayTaskExecution(
            backend=self.alias,
            queue_name=task.queue_name,
            priority=task.priority,
            callable_path=task.module_path,
            args=[jsonable(arg, f"args[{index}]") for index, arg in enumerate(args)],
            kwargs={name: jsonable(arg, f"kwargs[{name!r}]") for name, arg in kwargs.items()},
            options=task.row_options() if isinstance(task, RayTask) else None,
            state=State.READY,
            run_after=task.run_after,
            due_at=task.run_after,
            worker_ids=[],
            errors=[],
        )

    @override
    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return the result with that id, of any alias; TaskResultDoesNotExist for an unknown or malformed one."""
        from django.db import router

        from django_ray.models import RayTaskExecution

        # A replica may lag behind what the caller has just enqueued: read where we write.
        rows = RayTaskExecution._base_manager.using(router.db_for_write(RayTaskExecution))  # noqa: SLF001
        try:
            row = rows.get(task_id=UUID(str(result_id)))
        except (ValueError, RayTaskExecution.DoesNotExist):
            raise TaskResultDoesNotExist(result_id) from None
        try:
            task = import_task(row.callable_path)
        except (ImportError, TypeError):
            task = missing_task(row.callable_path)
        return task_result(task, cast("Row", row))
