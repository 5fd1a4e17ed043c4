"""Results as arguments: what an enqueue says of the executions that it waits for, and what its body gets instead.

In the row an argument that is a result is the id of its execution. Where such ids stand is kept apart, in the carrier:
so no value that a stranger passes can be taken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from django_ray.bounds import shown
from django_ray.readers import Needs
from django_ray.results import RayTaskResult
from django_ray.serialization import json_key

__all__ = ["RESULTS", "Upstreams", "filled", "ids_in", "read_after", "taken_out"]

RESULTS = "results"  # The key of the carrier: a list of paths, such as ["args", 0, 3] and ["kwargs", "pages"].

type Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Upstreams:
    """What an enqueue waits for."""

    results: tuple[RayTaskResult[..., Any], ...]  # Each once: those of the arguments, then those of after=.
    paths: tuple[Path, ...]  # Where the arguments are ids.
    needs: Needs = "success"

    @property
    def ids(self) -> list[str]:
        """The executions."""
        return [result.id for result in self.results]


def taken_out(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    after: Iterable[RayTaskResult[..., Any]] = (),
    needs: Needs = "success",
) -> tuple[Sequence[Any], Mapping[str, Any], Upstreams | None]:
    """Return the arguments with ids in the place of results, and what these are; None for no upstream at all."""
    found: list[tuple[Path, RayTaskResult[..., Any]]] = []
    try:
        args = [_without(value, ("args", number), found) for number, value in enumerate(args)]
        kwargs = {name: _without(value, ("kwargs", name), found) for name, value in kwargs.items()}
    except RecursionError:
        raise ValueError("An argument is nested too deeply for JSON, or contains itself.") from None
    results = {result.id: result for _, result in found}
    for result in after:
        results.setdefault(result.id, result)
    if not results:
        return args, kwargs, None
    return args, kwargs, Upstreams(tuple(results.values()), tuple(path for path, _ in found), needs)


def _without(value: Any, path: Path, found: list[tuple[Path, RayTaskResult[..., Any]]]) -> Any:
    match value:
        case RayTaskResult():
            found.append((path, value))
            return value.id
        case Mapping():
            said: Mapping[Any, Any] = value
            where = str(path[0]) + "".join(f"[{step!r}]" for step in path[1:])
            return {key: _without(item, (*path, json_key(key, where)), found) for key, item in said.items()}
        case list() | tuple():
            items = cast("Sequence[Any]", value)
            return [_without(item, (*path, number), found) for number, item in enumerate(items)]
        case _:
            return value


def ids_in(args: Any, kwargs: Any, carrier: Any) -> list[tuple[Path, str]]:
    """Return the ids that the arguments of a row hold, and where; ValueError if the row contradicts itself."""
    paths: Any = cast("dict[str, Any]", carrier).get(RESULTS) if isinstance(carrier, dict) else None
    if not paths:
        return []
    try:
        return [(tuple(path), str(_at({"args": args, "kwargs": kwargs}, path))) for path in paths]
    except (TypeError, LookupError):
        raise ValueError(f"Its carrier says that results stand at {shown(paths)} of its arguments.") from None


def filled(
    args: list[Any], kwargs: dict[str, Any], places: Iterable[tuple[Path, str]], value_of: Callable[[str], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with values in the place of ids. The arguments are changed for it."""
    whole = {"args": args, "kwargs": kwargs}
    for path, task_id in places:
        _at(whole, path[:-1])[path[-1]] = value_of(task_id)
    return args, kwargs


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        value = value[step]
    return value


def read_after(after: Any, where: str) -> tuple[RayTaskResult[..., Any], ...]:
    """Return what after= says; TypeError for what is no result of ours."""
    if isinstance(after, RayTaskResult):
        return (cast("RayTaskResult[..., Any]", after),)
    if isinstance(after, str | bytes | Mapping) or not isinstance(after, Iterable):
        raise TypeError(
            f"{where}: after is {shown(after)}; it must be a result of enqueue() or get_result(), or a list of them."
        )
    given: Iterable[Any] = after
    results = tuple(given)
    for result in results:
        if not isinstance(result, RayTaskResult):
            raise TypeError(f"{where}: after has {shown(result)}, which is no result of enqueue() or get_result().")
    return results
