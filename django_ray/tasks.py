"""RayTask: Django's Task with Ray resources, a retry policy and a timeout.

They are keyword arguments of @task and of using(), and end up in the row's options; None means "as configured".
`django_ray.task` is Django's decorator for those who check types, or who also run on Django 6.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Self, Unpack, cast, overload, override

from asgiref.sync import async_to_sync, sync_to_async
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME, Task, task_backends
from django.tasks.base import DEFAULT_TASK_PRIORITY
from django.tasks.exceptions import InvalidTask

from django_ray.admission import ADMISSION, Admission
from django_ray.admitting import check_names
from django_ray.batching import check_body, columns, results_of, worker_of
from django_ray.bounds import shown
from django_ray.context import RayTaskContext
from django_ray.metadata import checked
from django_ray.naming import foreign, foreign_method
from django_ray.requirements import REQUIREMENTS, Requirements, stored
from django_ray.results import RayTaskResult, import_task
from django_ray.upstreams import read_after

if TYPE_CHECKING:
    _Task = Task
else:
    _Requiring = make_dataclass(
        "_Requiring",
        [(name, Any, field(default=None, hash=False)) for name in REQUIREMENTS],  # a dictionary has no hash
        bases=(Task,),
        frozen=True,
        slots=True,
        kw_only=True,
    )

    class _Task:
        """A Task with a field for each of Requirements. Task is generic in its stubs alone."""

        def __class_getitem__(cls, _: Any) -> type[Task]:
            return _Requiring


__all__ = ["RayTask", "task", "task_options"]

_DECLARED = (*REQUIREMENTS, "atomic", "schedulable")  # What task_options takes.
# Where task_options leaves what it was given until @task makes a task of the function.
_ATTRIBUTE = "_django_ray_options"


def task_options[Function: Callable[..., Any]](
    *, atomic: bool = False, schedulable: bool = False, **options: Unpack[Requirements]
) -> Callable[[Function], Function]:
    """Declare a task's options under @task, for Django 6.0, whose @task takes none but its own.

    InvalidTask is raised by @task when they do not fit. Other backends than RayTaskBackend ignore them.
    """

    def declare(function: Function) -> Function:
        if isinstance(function, Task):
            raise InvalidTask(f"@task_options of {function.name!r} must stand below @task, not above.")
        flags = {name: True for name, is_set in (("atomic", atomic), ("schedulable", schedulable)) if is_set}
        setattr(function, _ATTRIBUTE, {**options, **flags})
        return function

    return declare


@dataclass(frozen=True, slots=True, kw_only=True)
class RayTask[**P, R](_Task[P, R]):
    """A task with the fields of Requirements: what it requires of Ray, and what becomes of it when it fails."""

    # What the body writes in the database of the executions, and that it has succeeded, are one transaction.
    # This is of the code, not of an enqueue: no row says it.
    atomic: bool = False
    # Staff may schedule it in the admin, as what has a @schedule. Of the code, too.
    schedulable: bool = False
    # Kept with each execution; None, as an empty one, is none.
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    # Executions that have to end before it starts, beside those whose results are its arguments.
    after: tuple[RayTaskResult[..., Any], ...] | None = field(default=None, hash=False)
    # A timedelta counts from each enqueue, by the database's clock.
    run_after: datetime | timedelta | None = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __new__(cls, *_: Any, **values: Any) -> Self:
        """Refuse unknown arguments, with what they are called here."""
        for name in values.keys() - cls.__dataclass_fields__.keys():
            raise TypeError(f"A task has no argument {name!r}{foreign(name, cls.__dataclass_fields__)}")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name, value in getattr(self.func, _ATTRIBUTE, {}).items():
            if name not in _DECLARED:
                raise InvalidTask(f"task_options() has no {name!r}{foreign(name, _DECLARED)}")
            if (said := getattr(self, name)) is None or (said is False and name not in REQUIREMENTS):
                object.__setattr__(self, name, value)
        for flag in ("atomic", "schedulable"):
            if not isinstance(value := getattr(self, flag), bool):
                raise InvalidTask(f"The task {self.name!r}: {flag} is {shown(value)}: it must be True or False.")
        if self.atomic and iscoroutinefunction(self.func):
            raise InvalidTask(
                f"The task {self.name!r}: atomic is not for coroutines: Django's transactions belong to a thread. "
                "Make it a function; async_to_sync() calls a coroutine from there."
            )
        try:
            self._check_said()
        except (TypeError, ValueError) as error:
            raise InvalidTask(str(error)) from None
        Task.__post_init__(self)  # super() does not work in a slotted dataclass
        for name in REQUIREMENTS:
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))  # frozen

    def _check_said(self) -> None:
        """Check what an enqueue may say; TypeError or ValueError for what cannot be."""
        where = f"The task {self.name!r}"
        if self.metadata is not None:
            object.__setattr__(self, "metadata", checked(self.metadata, where))
        if self.after is not None:
            object.__setattr__(self, "after", read_after(self.after, where))
        if (admission := self.admission) is not None:
            check_names(admission, self)
        self._check_batch(where)

    def _check_batch(self, where: str) -> None:
        said: Any = self
        for name, other in (("batch_wait", "batch"), ("batch_by", "batch"), ("replicas", "worker"), ("idle", "worker")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise ValueError(f"{where}: {name} is for tasks with a {other}: say {other}=... as well.")
        if said.worker is not None and said.fresh_process:
            raise ValueError(f"{where}: fresh_process ends the process in which its worker is to stay: say one.")
        if said.batch is not None and (self.atomic or self.takes_context or said.stall_timeout is not None):
            what = "atomic" if self.atomic else "takes_context" if self.takes_context else "stall_timeout"
            raise ValueError(f"{where}: {what} is for one execution at a time, and batch=... is for several.")
        if said.worker is not None or said.batch is not None:
            check_body(self)

    @override
    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the body here and now: with an instance of its worker, and as a batch of one, where it wants that."""
        function: Any = async_to_sync(self.func) if iscoroutinefunction(self.func) else self.func
        given, keywords = self._given(args, kwargs)
        return cast("R", self._one(function(*given, **keywords)))

    @override
    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do what call does."""
        function: Any = self.func if iscoroutinefunction(self.func) else sync_to_async(self.func)
        given, keywords = await sync_to_async(self._given)(args, kwargs)
        return cast("R", self._one(await function(*given, **keywords)))

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return what the body gets of who calls it; a context is among these."""
        said: Any = self
        given, keywords = [*args], dict(kwargs)
        if said.batch is not None:
            given, keywords = columns(self, [(given, keywords)])
        if said.worker is not None:
            given.insert(int(self.takes_context), worker_of(self))
        return given, keywords

    def _one(self, returned: Any) -> Any:
        said: Any = self
        if said.batch is None:
            return returned
        (result,) = results_of(self, returned, 1)
        if isinstance(result, BaseException):
            raise result
        return result

    @override
    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | timedelta | None = None,
        backend: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        after: RayTaskResult[..., Any] | Iterable[RayTaskResult[..., Any]] | None = None,
        **options: Unpack[Requirements],
    ) -> Self:
        """Return the task with some of its attributes changed; those that are None stay as they are.

        metadata is a dictionary of JSON that is kept with the execution, of up to 65,536 bytes; it replaces what the
        task had. after is a result, or several, whose executions have to succeed before this one starts; with
        needs="end", to end.
        """
        changes = {
            "priority": priority,
            "queue_name": queue_name,
            "run_after": run_after,
            "backend": backend,
            "metadata": metadata,
            "after": after,
            **options,
        }
        return replace(self, **cast("Any", {name: value for name, value in changes.items() if value is not None}))

    def row_options(self) -> dict[str, Any] | None:
        """Return what the row stores in its options; InvalidTask when they cannot work."""
        try:
            said = {name: value for name in REQUIREMENTS if (value := getattr(self, name)) is not None}
            return stored(said, f"The task {self.name!r}")
        except (TypeError, ValueError) as error:
            raise InvalidTask(str(error)) from None

    @property
    def admission(self) -> Admission | None:
        """What admits its executions, None for nothing; ValueError when that cannot work."""
        said = {name: value for name in ADMISSION if (value := getattr(self, name)) is not None}
        return Admission.read(said, f"The task {self.name!r}") if said else None

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Raise TypeError: whoever calls a task means one of two things."""
        name = self.name
        raise TypeError(f"{name} is a task: {name}.enqueue(...) has it run by a worker, {name}.call(...) here and now.")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            hint = foreign_method(name)
            raise AttributeError(f"A task has no {name!r}{hint}", name=name, obj=self)

    @classmethod
    def _reconstruct(cls, values: dict[str, Any]) -> Self:
        try:
            function: Any = import_task(values["func"]).func
        except (ImportError, TypeError) as error:
            raise ValueError(f"Expected {values['func']!r} to point to a Task instance.") from error
        return cls(**{**values, "func": function})

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # Django 6.0 has none: its default would look for the function and find the task.
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return self._reconstruct, ({**values, "func": self.module_path},)

    if TYPE_CHECKING:

        @override
        def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> RayTaskResult[P, R]: ...
        @override
        async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> RayTaskResult[P, R]: ...
        @override
        def get_result(self, result_id: str) -> RayTaskResult[P, R]: ...
        @override
        async def aget_result(self, result_id: str) -> RayTaskResult[P, R]: ...


@overload
def task[**P, R](function: Callable[P, R], /) -> RayTask[P, R]: ...
@overload
def task[**P, R](
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: Literal[True],
    atomic: bool = ...,
    schedulable: bool = ...,
    **options: Unpack[Requirements],
) -> Callable[[Callable[Concatenate[RayTaskContext, P], R]], RayTask[P, R]]: ...
@overload
def task[**P, R](
    *,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    takes_context: Literal[False] = False,
    atomic: bool = ...,
    schedulable: bool = ...,
    **options: Unpack[Requirements],
) -> Callable[[Callable[P, R]], RayTask[P, R]]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = DEFAULT_TASK_PRIORITY,
    queue_name: str = DEFAULT_TASK_QUEUE_NAME,
    backend: str = DEFAULT_TASK_BACKEND_ALIAS,
    takes_context: bool = False,
    atomic: bool = False,
    schedulable: bool = False,
    **options: Unpack[Requirements],
) -> Any:
    """Do what django.tasks.task does, with types for all arguments, and on Django 6.0 too.

    Where the settings name another kind of backend, as in tests, the options are ignored.
    """

    def declare(function: Callable[..., Any]) -> Any:
        kind: Any = task_backends[backend].task_class
        return kind(
            func=function,
            priority=priority,
            queue_name=queue_name,
            backend=backend,
            takes_context=takes_context,
            run_after=None,  # required by Django 6.0
            **({"atomic": atomic, "schedulable": schedulable, **options} if issubclass(kind, RayTask) else {}),
        )

    return declare if function is None else declare(function)
