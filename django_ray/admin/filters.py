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

from django_ray.admin.lists import rows_of
from django_ray.models import RayTaskExecution, State

__all__ = ["FILTERS", "NEWEST", "ExecutionFilter", "Index", "ScheduleFilter", "bounded"]

NEWEST = 100_000  # Executions that the list looks at when no index serves what is asked.
_RECENT = 2000  # Executions whose queues, tasks and errors are offered as filters.
_MOST_OFFERED = 100  # Values of a filter: there may be a gate for each customer.
_OF_THE_PAGE = {*IGNORED_PARAMS, PAGE_VAR, ERROR_FLAG} - {SEARCH_VAR}  # Parameters that ask for no other rows.


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
    """The state."""

    title = _("state")
    parameter_name = "state"

    @override
    @classmethod
    def index(cls, value: str) -> Index:
        return Index.OWN if value in {State.WAITING, State.READY, State.RUNNING, State.FAILED} else Index.NONE

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return State.choices

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state=self.value()) if self.value() else queryset


class _RecentFilter(ExecutionFilter):
    """The values of a column among the newest executions; whatever the address says is filtered by."""

    @override
    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        newest = rows_of(RayTaskExecution).order_by("-task_id").values_list(self.parameter_name, flat=True)
        values = set(sorted(set(newest[:_RECENT]) - {None})[:_MOST_OFFERED])
        if self.value():
            values.add(self.value())
        return [(value, value) for value in sorted(values)]

    @override
    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


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


class ErrorFilter(_RecentFilter):
    """The class of the last error."""

    title = _("error")
    parameter_name = "exception_type"


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
        return queryset.filter(task_id__gte=_first_id(timezone.now() - timedelta(hours=int(self.value() or 1))))


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


FILTERS = (StateFilter, QueueFilter, GateFilter, TaskFilter, ErrorFilter, TimeFilter)


def bounded(queryset: QuerySet[Any], request: HttpRequest, filters: Iterable[Any]) -> QuerySet[Any]:
    """Keep a list with these filters to the newest executions, unless indexes serve what the request asks for."""
    kinds = [kind for kind in filters if isinstance(kind, type) and issubclass(kind, ExecutionFilter)]
    index_of = {kind.parameter_name: kind.index for kind in kinds}
    asked = [(name, str(value)) for name, value in request.GET.items() if value and name not in _OF_THE_PAGE]
    indexes = {index_of.get(name, ExecutionFilter.index)(value) for name, value in asked}
    if Index.NONE not in indexes or Index.OWN in indexes:
        return queryset
    newest = rows_of(queryset.model).order_by("-pk").values_list("pk", flat=True)
    too_old = newest[NEWEST : NEWEST + 1].first()
    return queryset.filter(pk__gt=too_old) if too_old else queryset


def _first_id(moment: datetime) -> UUID:
    """Return the smallest id of that moment: ids begin with their milliseconds."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
