"""What the page of a flow shows: how far it is, its graph as it is drawn, and its executions. At a bounded cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.urls import reverse
from django.utils.translation import gettext, ngettext

from django_ray import census
from django_ray.admin.lists import rows_of
from django_ray.databases import database_of_row
from django_ray.folding import Graph, Link, Member, Stack, folded
from django_ray.layout import HEIGHT, WIDTH, arranged
from django_ray.models import RayFlow, RayTaskExecution, State
from django_ray.templatetags.django_ray import count_all
from django_ray.templatetags.django_ray_databases import of_list
from django_ray.templatetags.django_ray_flows import Share, shares_of, states_of

__all__ = ["MOST_LISTED", "Neighbour", "neighbours", "page_of"]

MOST_LISTED = 200  # Executions in the table; of more, the first FEW.
FEW = 50
MOST_READ = 5000  # Of a flow with more there is no graph,
MOST_EDGES = 20_000  # nor of one with more of these,
MOST_BOXES = 200  # nor where it would have more boxes,
MOST_LINES = 1000  # or lines.
MOST_NEIGHBOURS = 20  # On the page of an execution, in each direction.
_MOST_NAME = 24  # Characters of a box.


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A stack, as it is drawn."""

    stack: Stack
    x: float
    y: float
    link: str
    title: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        name = self.stack.first.path.rpartition(".")[2]
        return name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"

    @property
    def state(self) -> str:
        """Its state; of a stack, the first that somebody may want to see."""
        return next(state for state in census.BY_INTEREST if state in self.stack.states)

    @property
    def label(self) -> str:
        """Its state, for people."""
        return str(State(self.state).label)

    @property
    def shares(self) -> list[Share]:
        """The states of a stack."""
        return shares_of(self.stack.states)

    @property
    def marks(self) -> list[tuple[Share, float]]:
        """As many of them as there is room for, with where they stand."""
        marks: list[tuple[Share, float]] = []
        at = 10.0
        for share in self.shares:
            room = 22 + 7.5 * len(count_all(share.number))
            if at + room > WIDTH:
                break
            marks.append((share, at))
            at += room
        return marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A line, as it is drawn."""

    d: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A graph, as it is drawn."""

    boxes: Sequence[Box]
    paths: Sequence[Path]
    width: float
    height: float
    has_outside: bool
    has_parents: bool
    box_width: int = WIDTH
    box_height: int = HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An execution that another one waits for, or that waits for it."""

    id: UUID
    path: str | None  # None is gone.
    state: str | None
    met: bool

    @property
    def label(self) -> str:
        """The state, for people."""
        return "" if self.state is None else str(State(self.state).label)


def page_of(flow: RayFlow, site_name: str, *, sees_executions: bool) -> dict[str, Any]:
    """Return what the page of a flow shows."""
    database = database_of_row(flow)
    progress = census.progress_of(database, [flow.pk])[flow.pk]
    context: dict[str, Any] = {
        "flow": flow,
        "database": database,
        "progress": progress,
        "is_cut": census.is_cut(progress),
        "shares": shares_of(states_of(progress)),
        "members": (),
        "left": 0,
    }
    if not sees_executions or not progress.total:
        return context
    is_small = progress.total <= MOST_READ
    members = census.members_of(database, flow.pk, MOST_READ if is_small else FEW)
    listed = sorted(members, key=lambda one: one.id) if len(members) <= MOST_LISTED and is_small else members[:FEW]
    context["members"] = _rows(database, listed)
    context["left"] = progress.total - len(listed)
    picture, problem = _picture(database, flow, members, site_name) if is_small else (None, _too_many())
    return {**context, "picture": picture, "no_picture": problem}


def _rows(database: str, members: Sequence[Member]) -> list[Any]:
    """Return the rows of the table, in the order of these."""
    heavy = ("args", "kwargs", "options", "carrier", "result", "errors", "output")
    rows = rows_of(RayTaskExecution, database).defer(*heavy).in_bulk([UUID(member.id) for member in members])
    return [rows[UUID(member.id)] for member in members if UUID(member.id) in rows]


def _too_many() -> str:
    return gettext("The graph is drawn of flows with up to %(number)s executions.") % {"number": count_all(MOST_READ)}


def _picture(database: str, flow: RayFlow, members: Sequence[Member], site_name: str) -> tuple[Picture | None, str]:
    """Return the graph, or why there is none."""
    edges = census.edges_of(database, [member.id for member in members if member.needs is not None], MOST_EDGES + 1)
    if len(edges) > MOST_EDGES:
        text = gettext("The graph is not drawn: its executions wait for others more than %(number)s times.")
        return None, text % {"number": count_all(MOST_EDGES)}
    inside = {member.id for member in members}
    outside = census.strangers(database, {upstream for upstream, _, _ in edges} - inside)
    graph = folded([*members, *outside], edges)
    if len(graph.stacks) > MOST_BOXES or len(graph.links) > MOST_LINES:
        text = gettext("The graph is not drawn: with %(boxes)s boxes and %(lines)s lines, nobody could read it.")
        return None, text % {"boxes": count_all(len(graph.stacks)), "lines": count_all(len(graph.links))}
    return _drawn(flow, graph, site_name), ""


def _drawn(flow: RayFlow, graph: Graph, site_name: str) -> Picture:
    drawing = arranged(len(graph.stacks), [(link.source, link.target) for link in graph.links])
    return Picture(
        boxes=[
            Box(stack=stack, x=x, y=y, link=_link(flow, stack, site_name), title=_title(stack))
            for stack, (x, y) in zip(graph.stacks, drawing.boxes, strict=True)
        ],
        paths=[
            Path(d=path, kind=_kind(link), title=_said(link, graph))
            for link, path in zip(graph.links, drawing.paths, strict=True)
        ],
        width=drawing.width,
        height=drawing.height,
        has_outside=any(stack.first.is_outside for stack in graph.stacks),
        has_parents=any(not link.number for link in graph.links),
    )


def _link(flow: RayFlow, stack: Stack, site_name: str) -> str:
    if stack.is_one:
        page = "admin:django_ray_raytaskexecution_change"
        return reverse(page, args=[stack.first.id], current_app=site_name)
    listing = reverse("admin:django_ray_raytaskexecution_changelist", current_app=site_name)
    query = {"callable_path": stack.first.path}
    asked = urlencode(query if stack.first.is_outside else {"flow": str(flow.pk), **query})
    return f"{listing}?{asked}{of_list(database_of_row(flow))}"


def _title(stack: Stack) -> str:
    states = ", ".join(f"{count_all(share.number)} {share.label}" for share in shares_of(stack.states))
    if stack.is_one:
        parts = [stack.first.path, shares_of(stack.states)[0].label]
    else:
        parts = [stack.first.path, gettext("%(number)s alike") % {"number": count_all(len(stack.members))}, states]
    if stack.first.needs == "end":
        parts.append(gettext("runs however what it waits for has ended"))
    if stack.first.is_outside:
        parts.append(gettext("not of this flow"))
    return "\n".join(parts)


def _kind(link: Link) -> str:
    if not link.number:
        return "parent"
    return "met" if link.met == link.number else "unmet"


def _said(link: Link, graph: Graph) -> str:
    names = {
        "one": graph.stacks[link.source].first.path.rpartition(".")[2],
        "other": graph.stacks[link.target].first.path.rpartition(".")[2],
    }
    if not link.number:
        return gettext("%(one)s has enqueued %(other)s") % names
    if link.number == 1:
        met = gettext("%(other)s waits no more for %(one)s") if link.met else gettext("%(other)s waits for %(one)s")
        return met % names
    text = ngettext("%(other)s waits for %(one)s: %(met)s of %(number)s is over",
                    "%(other)s waits for %(one)s: %(met)s of %(number)s are over", link.met)  # fmt: skip
    return text % {**names, "met": count_all(link.met), "number": count_all(link.number)}


def neighbours(database: str, task_id: UUID) -> dict[str, Any]:
    """Return what an execution waits for, and what waits for it, for its page."""
    context: dict[str, Any] = {}
    found = census.neighbours_of(database, task_id, MOST_NEIGHBOURS)
    for name, rows in zip(("upstreams", "downstreams"), found, strict=True):
        context[name] = [Neighbour(**row) for row in rows[:MOST_NEIGHBOURS]]
        context[f"more_{name}"] = len(rows) > MOST_NEIGHBOURS
    return context
