"""The filters of the list of executions, and how many rows the list looks at because of them.

A filter says which index serves it. Whatever does not say so, be it a filter, a search or a lookup in the address,
keeps the list to the newest executions: then it costs the same however full the table is.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, override
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import ERROR_FLAG, IGNORED_PARAMS, PAGE_VAR, SEARCH_VAR
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_ray.admin.lists import chosen_database, rows_of, shows
from django_ray.census import flows_with
from django_ray.models import RayFlow, RayTaskExecution, State
from django_ray.probing import planned_by_index, select
from django_ray.situation import SITUATIONS, rows_in
from django_ray.templatetags.django_ray import count_all, short_class
from django_ray.templatetags.django_ray_databases import DATABASE

__all__ = [
    "FILTERS", "FLOW_FILTERS", "NEWEST", "NEWEST_FLOWS", "ExecutionFilter", "Index", "ScheduleFilter", "bounded",
    "newest_id",
]  # fmt: skip

NEWEST = 100_000  # Executions that the list looks at when no index serves what is asked.
MOST_NUMBERED = 2000  # Executions of an index that are counted for the numbers beside the states.
NEWEST_FLOWS = 10_000  # The same of flows: each may hold many executions.
_MOST_FLOWS = 1000  # That a filter by what they hold finds.
_RECENT = 2000  # Executions whose queues, tasks and errors are offered as filters.
_MOST_NAMED = 20  # Flows.
_MOST_OFFERED = 100  # Values of a filter: there may be a gate for each customer.
# Parameters that ask for no other rows.
_OF_THE_PAGE = {*IGNORED_PARAMS, PAGE_VAR, ERROR_FLAG, DATABASE} - {SEARCH_VAR}


class Index(Enum):
    """What leads to the rows of a filter."""

    NONE = auto()  # Any row may be one of them.
    KEY = auto()  # The primary key, in whose order the list is.
    OWN = auto()  # An index that leads to them alone: what else is asked looks at no others.


class ExecutionFilter(admin.SimpleListFilter):
    """A filter of executions, which no index serves unless it says so."""

    parameter_name: str  # pyright: ignore[reportIncompatibleVariableOverride]

    @classmethod
    def index(cls, value: str) -> Index:  # noqa: ARG003 - for those who override it
        """Return what leads to the rows with that value."""
        return Index.NONE


class StateFilter(ExecutionFilter):
    """The state; or of READY and WAITING a part, by what has to happen first."""

    title = _("state")
    parameter_name = "state"

    @override
    @classmethod
    def index(cls, value: str) -> Index:
        is_served = value in {State.WAITING, State.READY, State.RUNNING, State.FAILED, "gate", "lane", "held"}
        return Index.OWN if is_served else Index.NONE

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        numbers = _numbers(chosen_database(request))
        parts = [(one.name, one.label) for one in SITUATIONS]
        whole = [choice for choice in State.choices if choice[0] not in {State.READY, State.WAITING}]
        # All of READY, or of WAITING, is asked for by what leads here, and is offered where it is.
        named = [choice for choice in State.choices if choice[0] == self.value() and choice not in whole]
        return [
            (name, f"{label} ({numbers[name]})" if name in numbers else label)
            for name, label in (*named, *parts, *whole)
        ]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        part = rows_in(self.value() or "", timezone.now(), queryset.db)
        return queryset.filter(state=self.value()) if part is None else queryset.filter(part)


# Of each index the first rows: in their order, so that it is read whatever the statistics say.
_NUMBERS = """
WITH paused AS MATERIALIZED (
    SELECT backend, name FROM django_ray_queue WHERE paused_at IS NOT NULL
), ready AS MATERIALIZED (
    SELECT backend, queue_name, missing_since FROM django_ray_execution WHERE state = 'READY' AND due_at IS NULL
    ORDER BY backend, queue_name, priority DESC, task_id LIMIT %(most)s
), due AS MATERIALIZED (
    SELECT
        backend, queue_name, missing_since, worker_ids <> '[]' AS is_again, due_at > statement_timestamp() AS is_later
    FROM django_ray_execution WHERE state = 'READY' AND due_at IS NOT NULL
    ORDER BY backend, queue_name, due_at LIMIT %(most)s
), claimable AS MATERIALIZED (
    SELECT name IS NOT NULL AS is_paused FROM (
        SELECT backend, queue_name FROM ready WHERE missing_since IS NULL
        UNION ALL SELECT backend, queue_name FROM due WHERE missing_since IS NULL AND NOT is_later
    ) AS known LEFT JOIN paused ON paused.backend = known.backend AND name = queue_name
), blocked AS MATERIALIZED (
    SELECT gate, needs FROM django_ray_execution WHERE state = 'WAITING' ORDER BY backend, queue_name LIMIT %(most)s
), running AS MATERIALIZED (
    SELECT FROM django_ray_execution WHERE state = 'RUNNING' ORDER BY claimed_by_id LIMIT %(most)s
), failed AS MATERIALIZED (
    SELECT FROM django_ray_execution WHERE state = 'FAILED' ORDER BY finished_at DESC LIMIT %(most)s
), sizes AS (
    SELECT
        (SELECT count(*) FROM ready) AS ready, (SELECT count(*) FROM due) AS due,
        (SELECT count(*) FROM blocked) AS blocked, (SELECT count(*) FROM running) AS running,
        (SELECT count(*) FROM failed) AS failed
)
SELECT name, number, looked >= %(most)s AS is_cut FROM sizes, LATERAL (VALUES
    ('waiting', (SELECT count(*) FROM claimable WHERE NOT is_paused), greatest(ready, due)),
    ('paused', (SELECT count(*) FROM claimable WHERE is_paused), greatest(ready, due)),
    ('scheduled', (SELECT count(*) FROM due WHERE is_later AND NOT is_again AND missing_since IS NULL), due),
    ('retrying', (SELECT count(*) FROM due WHERE is_later AND is_again AND missing_since IS NULL), due),
    (
        'unknown', (SELECT count(missing_since) FROM ready) + (SELECT count(missing_since) FROM due),
        greatest(ready, due)
    ),
    ('gate', (SELECT count(*) FROM blocked WHERE gate NOT LIKE '!%%'), blocked),
    ('lane', (SELECT count(*) FROM blocked WHERE gate LIKE '!%%'), blocked),
    ('held', (SELECT count(*) FROM blocked WHERE gate IS NULL AND needs IS NOT NULL), blocked),
    ('RUNNING', running, running),
    ('FAILED', failed, failed)
) AS counted(name, number, looked)
"""


def _numbers(database: str) -> dict[str, str]:
    """Return how many executions there are of each state that an index leads to, among the first of each index."""
    with planned_by_index(database):
        rows = select(database, _NUMBERS, most=MOST_NUMBERED)
    return {row["name"]: f"{count_all(row['number'])}{'+' if row['is_cut'] else ''}" for row in rows}


class _RecentFilter(ExecutionFilter):
    """The values of a column among the newest executions; whatever the address says is filtered by."""

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        recent = _newest(request).values_list(self.parameter_name, flat=True)
        values = set(sorted(set(recent[:_RECENT]) - {None})[:_MOST_OFFERED])
        if self.value():
            values.add(self.value())
        return [(value, value) for value in sorted(values)]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


def _newest(request: HttpRequest) -> Any:
    return rows_of(RayTaskExecution, chosen_database(request)).order_by("-task_id")


class QueueFilter(_RecentFilter):
    """The queue."""

    title = _("queue")
    parameter_name = "queue_name"


class GateFilter(_RecentFilter):
    """The gate, of those behind which the newest wait or ran."""

    title = _("gate")
    parameter_name = "gate"


class TaskFilter(_RecentFilter):
    """The path of the function."""

    title = _("task")
    parameter_name = "callable_path"


class FlowFilter(_RecentFilter):
    """The flow, by its id; those of the newest executions are offered by their names."""

    title = _("flow")
    parameter_name = "flow"

    @override
    @classmethod
    def index(cls, value: str) -> Index:
        return Index.OWN

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        recent = _newest(request).values_list("flow_id", flat=True)
        ids = sorted(set(recent[:_RECENT]) - {None}, reverse=True)[:_MOST_NAMED]
        if (chosen := _uuid(self.value())) is not None and chosen not in ids:
            ids.insert(0, chosen)
        sees_names = shows(model_admin.admin_site, RayFlow, request)
        flows = rows_of(RayFlow, chosen_database(request)).in_bulk(ids) if ids and sees_names else {}
        return [(str(one), str(flows.get(one, one))) for one in ids]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        chosen = _uuid(self.value())
        return queryset.none() if chosen is None else queryset.filter(flow=chosen)


class ErrorFilter(_RecentFilter):
    """The class of the last error."""

    title = _("error")
    parameter_name = "exception_type"

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(value, short_class(value)) for value, _label in super().lookups(request, model_admin)]


class TimeFilter(ExecutionFilter):
    """How long ago it was enqueued at most."""

    title = _("enqueued")
    parameter_name = "within"
    _HOURS = (("1", _("In the last hour")), ("24", _("In the last day")), ("168", _("In the last week")))

    @override
    @classmethod
    def index(cls, value: str) -> Index:
        return Index.KEY

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return self._HOURS

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in dict(self._HOURS):
            return queryset
        return queryset.filter(pk__gte=_first_id(timezone.now() - timedelta(hours=int(self.value() or 1))))


class ScheduleFilter(admin.SimpleListFilter):
    """What becomes of a schedule. No index serves it."""

    title = _("state")
    parameter_name = "now"
    _CHOICES = (
        ("active", _("Active"), Q(paused_at=None, gone_at=None)),
        ("paused", _("Paused"), Q(paused_at__isnull=False)),
        ("gone", _("Not declared any more"), Q(gone_at__isnull=False)),
        ("problem", _("Has a problem"), Q(problem__isnull=False)),
    )

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(value, label) for value, label, _ in self._CHOICES]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = [condition for value, _, condition in self._CHOICES if value == self.value()]
        return queryset.filter(*chosen)


class HeldFilter(ExecutionFilter):
    """What a flow holds. It looks at the newest flows, by itself."""

    title = _("state")
    parameter_name = "holds"
    _CHOICES = (
        ("unfinished", _("Unfinished"), (State.RUNNING, State.READY, State.WAITING)),
        ("failed", _("Has failures"), (State.FAILED,)),
        ("cancelled", _("Cancelled"), ()),
    )

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [choice[:2] for choice in self._CHOICES]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "cancelled":
            return queryset.filter(cancelled_at__isnull=False)
        for states in (states for value, _label, states in self._CHOICES if value == self.value()):
            return queryset.filter(pk__in=flows_with(queryset.db, states, NEWEST_FLOWS, _MOST_FLOWS))
        return queryset


class CreatedFilter(TimeFilter):
    """How long ago a flow was begun at most."""

    title = _("created")


FILTERS = (StateFilter, QueueFilter, GateFilter, TaskFilter, FlowFilter, ErrorFilter, TimeFilter)
FLOW_FILTERS = (HeldFilter, CreatedFilter)


def bounded(
    queryset: QuerySet[Any], request: HttpRequest, filters: Iterable[Any], number: int | None = None
) -> QuerySet[Any]:
    """Keep a list with these filters to the newest rows, unless indexes serve what the request asks for."""
    number = number or NEWEST
    kinds = [kind for kind in filters if isinstance(kind, type) and issubclass(kind, ExecutionFilter)]
    index_of = {kind.parameter_name: kind.index for kind in kinds}
    asked = [(name, str(value)) for name, value in request.GET.items() if value and name not in _OF_THE_PAGE]
    indexes = {index_of.get(name, ExecutionFilter.index)(value) for name, value in asked}
    if Index.NONE not in indexes or Index.OWN in indexes:
        return queryset
    too_old = newest_id(queryset, number)
    return queryset.filter(pk__gt=too_old) if too_old else queryset


def newest_id(queryset: QuerySet[Any], number: int) -> Any:
    """Return the id after which so many newer ones come; None where there are not so many."""
    ids = rows_of(queryset.model, queryset.db).order_by("-pk").values_list("pk", flat=True)
    with planned_by_index(queryset.db):
        return ids[number : number + 1].first()


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(text)
    except (AttributeError, TypeError, ValueError):
        return None


def _first_id(moment: datetime) -> UUID:
    """Return the smallest id of that moment: ids begin with their milliseconds."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
