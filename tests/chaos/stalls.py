"""How long work stood still: rows were READY and due, slots were free, and nothing was claimed.

Computed afterwards, from the changes of the rows and the lives of the supervisors. Seconds in which the database was
down do not count; those in which a supervisor had no Ray, or had not noticed that it is cut off, do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.audit import History
from tests.chaos.crew import SLOTS, Life

__all__ = ["Stall", "find"]

type Moment = tuple[float, str, int, int]  # When, what, of which process, and one more or one less.


@dataclass(frozen=True, order=True)
class Stall:
    """So many seconds, and when they began and ended."""

    seconds: float
    begin: float
    end: float


def find(history: History, lives: Iterable[Life], outages: Iterable[tuple[float, float]], until: float) -> list[Stall]:
    """Return all stalls, the longest first."""
    moments = [moment for row in history.rows for moment in _of_row(row, history, until)]
    for life in lives:
        if life.ready_at is not None:
            moments += _span("working", life.pid, life.ready_at, life.ended_at or until)
        for begin, end in life.frozen:
            moments += _span("frozen", life.pid, begin, end)
    for begin, end in outages:
        moments += _span("down", 0, begin, end)
    return sorted(_sweep(sorted(moments)), reverse=True)


def _sweep(moments: Iterable[Moment]) -> Iterator[Stall]:
    counts: Counter[tuple[str, int]] = Counter()
    begin, seconds, before = None, 0.0, 0.0
    for at, what, pid, change in moments:
        if begin is not None and not counts["down", 0]:
            seconds += at - before
        counts[what, pid] += change
        before = at
        is_stalled = counts["ready", 0] > 0 and _has_free_slots(counts)
        if begin is not None and (what == "claimed" or not is_stalled):
            if seconds:
                yield Stall(seconds, begin, at)
            begin = None
        if begin is None and is_stalled:
            begin, seconds = at, 0.0


def _has_free_slots(counts: Mapping[tuple[str, int], int]) -> bool:
    return any(
        count > 0 and counts["frozen", pid] == 0 and counts["running", pid] < SLOTS
        for (what, pid), count in counts.items()
        if what == "working"
    )


def _of_row(row: Mapping[str, Any], history: History, until: float) -> Iterator[Moment]:
    """Return when the row was ready and due, and when and where it ran."""
    changes = history.changes.get(row["task_id"], ())
    state, since = changes[0]["old_state"] if changes else row["state"], row["enqueued_at"].timestamp()
    due = max(since, row["run_after"].timestamp()) if row["run_after"] else since
    pid = 0
    for change in [*changes, None]:
        at = until if change is None else change["at"].timestamp()
        new = "" if change is None else change["new_state"]
        if new == state:
            continue  # promoted, awaited, or somebody wants it cancelled
        if state == "READY":
            yield from _span("ready", 0, due, at)
        elif state == "RUNNING":
            yield from _span("running", pid, since, at)
        if change is None:
            return
        if new == "RUNNING":
            pid = change["new_pid"] or 0
            yield at, "claimed", pid, 0
        state, since = new, at
        due = max(at, change["due_at"].timestamp()) if change["due_at"] else at


def _span(what: str, pid: int, begin: float, end: float) -> Iterator[Moment]:
    if begin < end:
        yield begin, what, pid, 1
        yield end, what, pid, -1
