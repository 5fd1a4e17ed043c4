"""The flows of a double, which keeps no rows: their results in memory, as long as somebody holds the Flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from django.tasks import TaskResultStatus

from django_ray.flows import Flow
from django_ray.membership import Membership
from django_ray.results import RayTaskResult

__all__ = ["Flows", "is_cancelled"]

type Result = RayTaskResult[..., Any]

_CANCELLED = "django_ray.exceptions.TaskCancelled"


@dataclass(slots=True)
class _Members:
    results: dict[str, Result] = field(default_factory=dict[str, Any])  # By their ids.
    is_cancelled: bool = False


class Flows:
    """The flows that have begun with a double, and the latest result of each execution in them."""

    def __init__(self) -> None:
        self._members: WeakKeyDictionary[Flow, _Members] = WeakKeyDictionary()

    def begin(self, flow: Flow) -> None:
        """Keep what is enqueued into a flow from now on."""
        self._members[flow] = _Members()

    def get(self, flow_id: str) -> Flow | None:
        """Return the flow of that id; None when there is none, or nobody holds it any more."""
        return next((flow for flow in self._members if flow.id == flow_id), None)

    def clear(self) -> None:
        """Forget what was enqueued; the flows go on."""
        for members in self._members.values():
            members.results.clear()

    def note(self, result: Result) -> None:
        """Keep a result, in the place of an earlier one of the same execution, where it belongs to a flow."""
        if (members := self._of(result)) is not None:
            members.results[result.id] = result

    def takes_no_more(self, result: Result) -> bool:
        """Tell whether the flow that a result belongs to was cancelled."""
        members = self._of(result)
        return members is not None and members.is_cancelled

    def count(self, flow: Flow, state_of: Callable[[Result], str]) -> Counter[str]:
        """Return how many of its executions are in which state."""
        return Counter(map(state_of, self._members[flow].results.values()))

    def cancel(self, flow: Flow, cancel_one: Callable[[Result], bool]) -> int:
        """Cancel each that has not ended, and what comes; return how many were there."""
        members = self._members[flow]
        members.is_cancelled = True
        return sum(cancel_one(result) for result in members.results.values())

    def _of(self, result: Result) -> _Members | None:
        membership = Membership.of_row(result.id, getattr(result, "_carrier"))  # noqa: B009 - for the type checkers
        flow = None if membership is None else self.get(membership.flow)
        return None if flow is None else self._members[flow]


def is_cancelled(result: Result) -> bool:
    """Tell whether an execution, which is FAILED, was cancelled."""
    return result.status == TaskResultStatus.FAILED and any(
        error.exception_class_path == _CANCELLED for error in result.errors[-1:]
    )
