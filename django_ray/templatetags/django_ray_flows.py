"""Flows for people: what becomes of one, in a word, and how far it is, in a bar. States have signs beside colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from django_ray.flows import FlowProgress
from django_ray.models import RayFlow, State

__all__ = ["Share", "flow_state", "progress_bar", "shares_of", "states_of", "took"]

register = template.Library()

_ORDER = ("SUCCESSFUL", "FAILED", "CANCELLED", "RUNNING", "READY", "WAITING")  # From what has ended to what has not.
_LEAST = 1.0  # Per cent of a bar: one failure among thousands is seen.


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some executions are in a state, and where that stands in a bar."""

    state: str
    number: int
    start: float  # Per cent of the bar.
    width: float

    @property
    def label(self) -> str:
        """The state, for people."""
        return str(State(self.state).label)


def states_of(progress: FlowProgress) -> dict[str, int]:
    """Return how many executions of a flow are in which state."""
    return {
        "SUCCESSFUL": progress.successful, "FAILED": progress.failed, "CANCELLED": progress.cancelled,
        "RUNNING": progress.running, "READY": progress.ready, "WAITING": progress.blocked,
    }  # fmt: skip


def shares_of(states: Mapping[str, int]) -> list[Share]:
    """Return the shares of those states that some are in."""
    numbers = {state: states[state] for state in _ORDER if states.get(state)}
    total = sum(numbers.values())
    widths = {state: max(_LEAST, 100 * number / total) for state, number in numbers.items()}
    scale, start, shares = 100 / (sum(widths.values()) or 1), 0.0, list[Share]()
    for state, number in numbers.items():
        width = widths[state] * scale
        shares.append(Share(state, number, round(start, 3), round(width, 3)))
        start += width
    return shares


@register.simple_tag
def flow_state(progress: FlowProgress, flow: RayFlow) -> SafeString:
    """Return what becomes of a flow, as a word in its colour."""
    kind, word = _state(progress, flow)
    return format_html('<span class="dr-state dr-{}">{}</span>', kind, word)


def _state(progress: FlowProgress, flow: RayFlow) -> tuple[str, str]:
    if not progress.is_finished:
        if flow.cancelled_at is not None:
            return "cancelled", gettext("Cancelling")
        return ("running", gettext("Running")) if progress.running else ("ready", gettext("Waiting"))
    if flow.cancelled_at is not None:
        return "cancelled", gettext("Cancelled")
    if progress.failed:
        return "failed", gettext("Failed")
    if progress.cancelled:
        return "cancelled", gettext("Cancelled")
    return ("successful", gettext("Successful")) if progress.total else ("ready", gettext("Empty"))


@register.filter
def took(row: Any) -> float | None:
    """Return how many seconds the last attempt of an execution took."""
    if row.last_attempted_at is None or row.finished_at is None:
        return None
    seconds: float = (row.finished_at - row.last_attempted_at).total_seconds()
    return max(0.0, seconds)


@register.simple_tag
def progress_bar(progress: FlowProgress) -> SafeString:
    """Draw how many executions are in which state. The numbers stand beside it as text."""
    shares = shares_of(states_of(progress))
    return format_html(
        '<svg class="dr-bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{}</svg>',
        format_html_join(
            "",
            '<rect class="dr-share-{}" x="{}" y="0" width="{}" height="8"/>',
            ((share.state.lower(), share.start, share.width) for share in shares),
        ),
    )
