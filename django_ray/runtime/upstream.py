"""What an attempt gets of the executions that it has waited for.

It is read by their ids, through the project's own connection. The supervisor never carries results: it passes on the
row, which holds ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from django_ray.databases import database_of
from django_ray.exceptions import UpstreamFailed
from django_ray.results import RayTaskResult, import_task, missing_task, task_result
from django_ray.rows import ClaimedRow, Row
from django_ray.upstreams import filled, ids_in

__all__ = ["Given", "Passed", "carriers_of", "given", "upstreams_of"]


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments of a row of which some are results, and these."""

    row: ClaimedRow
    places: list[tuple[tuple[str | int, ...], str]]
    upstreams: Mapping[str, Row]
    wants_results: bool  # Not their values: however they have ended.

    def filled(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments for the body; UpstreamFailed when one of the results is not there."""
        return filled(deepcopy(self.row.args), deepcopy(self.row.kwargs), self.places, self._value)

    def _value(self, task_id: str) -> Any:
        row = self.upstreams.get(task_id)
        if row is None:
            raise UpstreamFailed(f"The execution {task_id}, whose result is an argument, is gone.")
        if self.wants_results:
            return _result(row)
        if row.state != "SUCCESSFUL":
            raise UpstreamFailed(f"The execution {task_id}, whose result is an argument, is {row.state}.")
        return deepcopy(row.result)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a double passes, which has the results at hand."""

    results: tuple[RayTaskResult[..., Any], ...]
    filled: Callable[[], tuple[list[Any], dict[str, Any]]]  # As Given's.


def given(row: ClaimedRow) -> Given | None:
    """Return what the arguments of a row get, None where no argument is a result."""
    places = ids_in(row.args, row.kwargs, row.carrier)
    if not places:
        return None
    wants_results = (row.options or {}).get("needs") == "end"
    columns = () if wants_results else ("task_id", "state", "result")
    rows = _rows(database_of(row.backend), {task_id for _, task_id in places}, columns)
    return Given(row, places, rows, wants_results)


def upstreams_of(database: str, task_id: str) -> list[RayTaskResult[..., Any]]:
    """Return the results of what an execution has waited for, in the order of its enqueue; some may be gone."""
    from django_ray.models import RayEdge

    edges = RayEdge._base_manager.using(database).filter(downstream=UUID(task_id)).order_by("place")  # noqa: SLF001
    ids = [str(upstream) for upstream in edges.values_list("upstream_id", flat=True)]
    rows = _rows(database, ids, ())
    return [_result(rows[one]) for one in ids if one in rows]


def carriers_of(database: str, task_id: str, most: int) -> list[Any]:
    """Return what travels with the executions that one has waited for: of the first ones, in the order of its enqueue.

    In one statement, since it is asked before each such body, where somebody traces.
    """
    from django_ray.models import RayEdge

    edges = RayEdge._base_manager.using(database).filter(downstream=UUID(task_id))  # noqa: SLF001
    return list(edges.order_by("place").values_list("upstream__carrier", flat=True)[:most])


def _rows(database: str, ids: Iterable[str], columns: tuple[str, ...]) -> dict[str, Row]:
    from django_ray.models import RayTaskExecution

    rows = RayTaskExecution._base_manager.using(database)  # noqa: SLF001
    found = (rows.only(*columns) if columns else rows).in_bulk([UUID(one) for one in ids])
    return {str(pk): cast("Row", row) for pk, row in found.items()}


def _result(row: Row) -> RayTaskResult[..., Any]:
    path = cast("Any", row).callable_path
    try:
        task = import_task(path)
    except Exception:  # noqa: BLE001 - a result can be read whatever its module does now
        task = missing_task(path)
    return task_result(task, row)
