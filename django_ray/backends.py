"""RayTaskBackend: enqueue is one statement in the caller's transaction, get_result one SELECT.

The trigger on the table rings the doorbell; nothing here knows of supervisors or Ray. Constructing the backend touches
no model and no database: Django builds it when a module with tasks is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast, override
from uuid import UUID

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.db import connections
from django.tasks import Task, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone

from django_ray import locking
from django_ray.admitting import admitted
from django_ray.bounds import shown
from django_ray.carrying import CONTEXT, captured
from django_ray.databases import database_of, databases, routed
from django_ray.enqueueing import (
    Checked,
    Enqueue,
    admission_of,
    check_function,
    check_run_after,
    checked,
    enqueued,
    insert,
)
from django_ray.hearing import is_heard
from django_ray.metadata import with_metadata
from django_ray.naming import near
from django_ray.options import OPTION_NAMES, Options
from django_ray.progress import Progress, progress_of
from django_ray.results import RESULT, RayTaskResult, changed, import_task, missing_task, task_result
from django_ray.rows import Row
from django_ray.serialization import jsonable, storable
from django_ray.signature import check_arguments
from django_ray.tables import Tables, execution_model, find
from django_ray.tasks import RayTask
from django_ray.tracing import Carrier
from django_ray.upstreams import Upstreams, taken_out

__all__ = ["RayTaskBackend"]

_KEYS = ("BACKEND", "QUEUES", "OPTIONS")
MOST_CHECKED = 1000  # Tasks that are remembered: each call of using() makes another one.
MAX_NAME = 255  # Characters of a queue's or backend's name: the width of its column.


NAME = f"1 to {MAX_NAME} characters without NUL and lone surrogates"


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and storable(name)


def _plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    return (
        [jsonable(arg, f"args[{index}]") for index, arg in enumerate(args)],
        {
            jsonable(name, "the name of a keyword argument"): jsonable(arg, f"kwargs[{name!r}]")
            for name, arg in kwargs.items()
        },
    )


class RayTaskBackend(BaseTaskBackend):
    """TASKS = {"default": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": [...], "OPTIONS": {...}}}."""

    task_class = RayTask
    keeps_rows = True  # and needs PostgreSQL for them
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        for key in params.keys() - _KEYS:
            place = f': it belongs into TASKS["{alias}"]["OPTIONS"].' if key in OPTION_NAMES else ""
            raise InvalidTaskBackend(f'TASKS["{alias}"] has the unknown key {key!r}{place or near(key, _KEYS)}')
        queues = params.get("QUEUES", ["default"])
        if not isinstance(queues, list | tuple | set | frozenset):
            raise InvalidTaskBackend(
                f'TASKS["{alias}"]["QUEUES"] must be a list of names, not {queues!r}; [] allows any.'
            )
        for name in (alias, *queues):
            if not _is_name(name):
                raise InvalidTaskBackend(f'TASKS["{alias}"]: {name!r} is not a name of {NAME}.')
        super().__init__(alias, params)
        # By their ids: what is kept here lends its own to no other.
        self._checked: dict[int, Checked] = {}
        try:
            self.settings = Options.parse(alias, self.options)
        except ValueError as error:
            raise InvalidTaskBackend(str(error)) from None
        if (database := self.settings.database) is not None and database not in connections.settings:
            raise InvalidTaskBackend(
                f'TASKS["{alias}"]["OPTIONS"]["DATABASE"] is {database!r}: DATABASES has no such alias'
                f"{near(database, connections.settings)}"
            )
        if self.queues and (unknown := self.settings.queue_defaults.keys() - self.queues):
            raise InvalidTaskBackend(
                f'TASKS["{alias}"]["OPTIONS"]["QUEUE_DEFAULTS"] names {min(unknown)!r}, which is not in its "QUEUES".'
            )

    @property
    def database(self) -> str:
        """The database in which its executions live, by its alias in DATABASES."""
        return self.settings.database or routed()

    @override
    def validate_task(self, task: Task[..., Any]) -> None:
        """Raise InvalidTask for a task that this backend cannot run."""
        check_function(task.func)
        # What users pass is not always what the annotation says.
        priority: Any = task.priority
        if isinstance(priority, bool) or (isinstance(priority, float) and not 0 < priority % 1 < 1):
            raise InvalidTask(f"priority must be a whole number, not {priority!r}.")
        if not isinstance(priority, int | float):
            raise InvalidTask(f"priority must be a whole number, not {priority!r}.")
        queue_name: Any = task.queue_name
        if not _is_name(queue_name):
            raise InvalidTask(f"A queue name is a text of {NAME}, not {queue_name!r}.")
        if self.queues and queue_name not in self.queues:
            raise InvalidTask(
                f"Queue {queue_name!r} is not valid for backend. "
                f'TASKS["{self.alias}"]["QUEUES"] has no {queue_name!r}{near(queue_name, self.queues)}'
            )
        run_after: Any = task.run_after
        check_run_after(run_after)
        # Django knows moments only.
        super().validate_task(changed(task, run_after=timezone.now()) if isinstance(run_after, timedelta) else task)
        if isinstance(task, RayTask):
            task.row_options()

    @override
    def enqueue[**P, R](self, task: Task[P, R], args: Any, kwargs: Any) -> RayTaskResult[P, R]:
        """Insert the execution in the caller's transaction and return its result, READY.

        Where an equal one is unfinished, as unique=... of the task has it, nothing is inserted, and the result is the
        one of that, with is_duplicate.

        InvalidTask, TypeError and ValueError are raised before any SQL, so that an atomic block survives them. So is
        RuntimeError, when a class of CONTEXT cannot capture.
        """
        (result,) = self.enqueue_many([(task, args, kwargs)])
        return cast("RayTaskResult[P, R]", result)

    def enqueue_many(
        self, calls: Iterable[tuple[Task[..., Any], Sequence[Any], Mapping[str, Any]]]
    ) -> list[RayTaskResult[..., Any]]:
        """Insert many executions, each a (task, args, kwargs), and return their results in the same order.

        All or none, with one statement per 1,000 rows and one ring of the bell per queue. Raises what enqueue raises,
        before any SQL.
        """
        given = [(task, *self._arguments(task, args, kwargs)) for task, args, kwargs in calls]
        enqueues: list[Enqueue] = []
        for task, args, kwargs, upstreams in given:
            enqueues.append(self._enqueue(task, args, kwargs, upstreams))
        # Once for all of them, and after what else may be refused.
        context = captured(self.settings.context) if self.settings.context and enqueues else None
        results = self._store(enqueues, {CONTEXT: context} if context else None)
        if is_heard(task_enqueued):
            for result in results:
                if result.is_duplicate:
                    continue
                task_enqueued.send_robust(type(self), task_result=result)
        return results

    def _enqueue(
        self, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any], upstreams: Upstreams | None = None
    ) -> Enqueue:
        one = self._check(task)
        check_arguments(task, args, kwargs)
        return enqueued(one, args, kwargs, upstreams)

    def admission(
        self, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any], queue_name: str
    ) -> dict[str, Any] | None:
        """Return what an enqueue with these, in this queue, says of its admission; raises what that raises."""
        admission = admission_of(task, self.settings, queue_name)
        if admission is None:
            return None
        check_arguments(task, args, kwargs)
        return admitted(admission, task, args, kwargs)

    def _check(self, task: Task[..., Any]) -> Checked:
        """Check a task, once: it is immutable, and the same one is enqueued again and again."""
        found = self._checked.get(id(task))
        if found is None:
            self.validate_task(task)
            found = checked(task, self.settings)
            # Made for one enqueue, most of them; and what a naive moment means depends on the time zone of the moment.
            if task.run_after is None and not found.metadata and not found.after:
                if len(self._checked) >= MOST_CHECKED:
                    self._checked.clear()
                self._checked[id(task)] = found
        return found

    async def aenqueue_many(
        self, calls: Iterable[tuple[Task[..., Any], Sequence[Any], Mapping[str, Any]]]
    ) -> list[RayTaskResult[..., Any]]:
        """Do what enqueue_many does."""
        return await sync_to_async(self.enqueue_many, thread_sensitive=True)(calls)

    def _arguments(
        self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any], Upstreams | None]:
        """Return the arguments as JSON, and what the enqueue waits for."""
        after = getattr(task, "after", None) or ()
        try:
            if not after:
                return *_plain(args, kwargs), None
        except TypeError:
            pass  # there may be results among them
        args, kwargs, upstreams = taken_out(args, kwargs, after, getattr(task, "needs", None) or "success")
        if upstreams is not None and self.keeps_rows:
            self._refuse_far(task, upstreams)
        return *_plain(args, kwargs), upstreams

    def _refuse_far(self, task: Task[..., Any], upstreams: Upstreams) -> None:
        """Raise InvalidTask for an upstream in another database: nothing there would tell of its end here."""
        here = self.database
        for result in upstreams.results:
            if (there := database_of(result.backend)) != here:
                raise InvalidTask(
                    f"The task {task.name!r} of backend {self.alias!r}, in the database {here!r}, cannot wait for "
                    f"{result.task.module_path} {result.id} of backend {result.backend!r}, which is in the database "
                    f"{there!r}. Enqueue both in one database, or have the body of the first one enqueue the second."
                )

    def _store(self, enqueues: list[Enqueue], carrier: Carrier | None) -> list[RayTaskResult[..., Any]]:
        rows = insert(self.alias, self.database, enqueues, carrier)
        results: list[RayTaskResult[..., Any]] = [
            RayTaskResult(
                task=changed(enqueue.checked.task, run_after=row.run_after, backend=self.alias),
                id=str(row.task_id),
                status=TaskResultStatus.READY,
                enqueued_at=row.enqueued_at,
                started_at=None,
                last_attempted_at=None,
                finished_at=None,
                args=enqueue.args,
                kwargs=enqueue.kwargs,
                backend=self.alias,
                errors=[],
                worker_ids=[],
            )
            for enqueue, row in zip(enqueues, rows, strict=True)
        ]
        if any(enqueue.checked.metadata for enqueue in enqueues):
            for enqueue, result in zip(enqueues, results, strict=True):
                if metadata := enqueue.checked.metadata:
                    object.__setattr__(result, "_carrier", with_metadata(None, metadata))
        if any(row.is_duplicate for row in rows):
            return self._with_twins(results, [row.is_duplicate for row in rows])
        return results

    def _with_twins(
        self, results: list[RayTaskResult[..., Any]], are_duplicates: Sequence[bool]
    ) -> list[RayTaskResult[..., Any]]:
        """Put the results of what was there already in the place of those that were not inserted."""
        ids = {result.id for result, is_duplicate in zip(results, are_duplicates, strict=True) if is_duplicate}
        with Tables(self.database) as tables:
            rows = execution_model()._base_manager.using(tables.alias).in_bulk([UUID(one) for one in ids])  # noqa: SLF001
        found: list[RayTaskResult[..., Any]] = []
        for result, is_duplicate in zip(results, are_duplicates, strict=True):
            twin = rows.get(UUID(result.id)) if is_duplicate else None
            chosen = result if twin is None else task_result(result.task, cast("Row", twin))
            object.__setattr__(chosen, "is_duplicate", is_duplicate)
            found.append(chosen)
        return found

    @override
    def get_result(self, result_id: str) -> RayTaskResult[..., Any]:
        """Return the result with that id, of any alias; TaskResultDoesNotExist for an unknown or malformed one.

        Its own database is asked first, and then those of the other backends.
        """
        try:
            task_id = UUID(str(result_id))
        except ValueError:
            raise TaskResultDoesNotExist(result_id) from None
        row = find(execution_model(), task_id, first=self.database, sql=RESULT)
        if row is None:
            raise TaskResultDoesNotExist(result_id)
        try:
            task = import_task(row.callable_path)
        except KeyboardInterrupt:
            raise  # of the developer
        except BaseException:  # noqa: BLE001 - a result can be read whatever its module does now
            task = missing_task(row.callable_path)
        try:
            return task_result(task, cast("Row", row))
        except RecursionError:  # of Django's: arguments written by SQL may be nested deeper than it follows
            row.args, row.kwargs = shown(row.args), shown(row.kwargs)
            return task_result(task, cast("Row", row))

    def cancel(self, result_id: str) -> bool:
        """Cancel the execution unless it is finished; tell whether it was not.

        A READY one is cancelled at once, a RUNNING one is stopped by its supervisor. Its result is then FAILED, with
        TaskCancelled as its last error. TaskResultDoesNotExist for an unknown id. Locked, an OperationalError, when
        another transaction has locked its row for 10 s.
        """
        try:
            task_id = UUID(str(result_id))
        except ValueError:
            raise TaskResultDoesNotExist(result_id) from None
        for database in databases(self.database):
            with Tables(database) as tables:
                with locking.waiting_briefly(tables.alias), connections[tables.alias].cursor() as cursor:
                    cursor.execute("SELECT django_ray_cancel(%s)", [task_id])
                    if cursor.fetchone() == (True,):
                        return True
                rows = execution_model()._base_manager.using(tables.alias)  # noqa: SLF001
                if rows.filter(task_id=task_id).exists():
                    return False
        raise TaskResultDoesNotExist(result_id)

    def why(self, result_id: str) -> str:
        """Return in one sentence why an execution does not run, or what it is doing."""
        from django_ray.why import UNKNOWN, why

        try:
            return why(UUID(str(result_id)), first=self.database)
        except ValueError:
            return UNKNOWN

    def progress(self, result_id: str) -> Progress | None:
        """Return what the body of an execution has said last of how far it is; None for nothing."""
        return progress_of(self.database, result_id)

    @override
    def check(self, **_: Any) -> list[CheckMessage]:
        """E003: without the application there is no table."""
        if apps.is_installed("django_ray"):
            return []
        return [
            Error(
                f'TASKS["{self.alias}"] uses django_ray, which is not in INSTALLED_APPS.',
                hint='Add "django_ray" to INSTALLED_APPS and run manage.py migrate.',
                id="django_ray.E003",
            )
        ]
