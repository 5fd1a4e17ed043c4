"""Bodies that take several executions at a time, and bodies that get an instance that stays.

A body with batch=... gets for each of its parameters a list with the value of each execution, and returns a list with
the result of each; one of these may be an exception. A body with worker=... gets an instance of that class first, which
is built once in each process that runs such bodies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from inspect import Parameter
from threading import RLock
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from django_ray.exceptions import InvalidResult
from django_ray.signature import bound, parameters, takes_given

if TYPE_CHECKING:
    from django.tasks import Task

__all__ = ["built", "check_body", "columns", "results_of", "wants_batch", "worker_of"]

type Arguments = tuple[list[Any], dict[str, Any]]

_VARIABLE = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
_building = RLock()  # One may be built while another one is: by the constructor of that.
# What bodies return for a list, and how it becomes one.
_REMEDIES = {
    "generator": ": list(...)",
    "map": ": list(...)",
    "ndarray": ": .tolist()",
    "Tensor": ": .tolist()",
}


def wants_batch(task: Task[..., Any]) -> bool:
    """Tell whether the body of a task takes lists."""
    return getattr(task, "batch", None) is not None


def worker_of(task: Task[..., Any]) -> Any:
    """Return the instance that its body gets, built if there is none yet in this process; whatever that raises."""
    worker: type | str = getattr(task, "worker")  # noqa: B009 - a RayTask has it
    return built(worker if isinstance(worker, str) else f"{worker.__module__}.{worker.__qualname__}")


def built(path: str) -> Any:
    """Return the instance of the class at a path: one in a process; whatever importing and building it raises."""
    with _building:  # two threads of --sync or of tests shall not build two
        return _built(path)


@cache
def _built(path: str) -> Any:
    return import_string(path)()


def columns(task: Task[..., Any], calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]) -> Arguments:
    """Return the arguments for a body that takes these calls at a time, without what we give it ourselves."""
    values = [bound(task, args, kwargs) for args, kwargs in calls]
    args, kwargs = list[Any](), dict[str, Any]()
    for parameter in (parameters(task) or {}).values():
        column = [None if value is None else value[parameter.name] for value in values]
        if parameter.kind is Parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = column
        else:
            args.append(column)
    return args, kwargs


def results_of(task: Task[..., Any], returned: Any, number: int) -> list[Any]:
    """Return what the body of a batch has returned for each of so many; InvalidResult when it has not."""
    if not isinstance(returned, list | tuple):
        kind = type(returned).__qualname__
        raise InvalidResult(
            f"The body of {task.name} got {number} in a batch and returned a {kind}: it must "
            f"return a list with a result for each{_REMEDIES.get(kind, '')}."
        )
    if len(returned) != number:
        raise InvalidResult(
            f"The body of {task.name} got {number} in a batch and returned {len(returned)}: it must return a list with "
            "a result for each."
        )
    return [*returned]


def check_body(task: Task[..., Any]) -> None:
    """Raise ValueError for a function that cannot be the body of batches, or get an instance."""
    known = parameters(task)
    if not takes_given(task):
        raise ValueError(
            f"The task {task.name!r}: its function must take the instance of its worker as its first parameter"
            f"{', after the context' if task.takes_context else ''}."
        )
    if wants_batch(task) and (not known or any(one.kind in _VARIABLE for one in known.values())):
        raise ValueError(f"The task {task.name!r}: the function of a batch must name its parameters, each gets a list.")
