"""What the driver sees of the hosts: the database, which every task tells when and where it started and ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from tests.chaos import audit

__all__ = ["Watch"]

_NOTE = """
CREATE TABLE nodes_note (
    id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    key text, attempt int, event text, node text
)
"""
_NODES = (
    "SELECT node, min(at) AS at FROM nodes_note WHERE event = 'started' AND at > %s AND node = ANY(%s) GROUP BY node"
)


class Watch:
    """A session of the database; `url` is what the audit of tests.chaos wants of it."""

    def __init__(self, url: str, check: Callable[[], None]) -> None:
        self.url = url
        self._check = check
        self._session = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)

    def install(self) -> None:
        """Make the tables of notes and of changes; those of django_ray must be there."""
        self._session.execute(_NOTE)
        audit.install(self)

    def ask(self, query: str, *values: Any) -> list[Any]:
        return self._session.execute(query, values).fetchall()

    def now(self) -> datetime:
        return self.ask("SELECT clock_timestamp()")[0][0]

    def until[Answer](self, condition: Callable[[], Answer], what: str, *, seconds: float = 600) -> Answer:
        """Return the first true answer; the deadline is for hangs only."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            self._check()
            if time.monotonic() > deadline:
                raise SystemExit(f"After {seconds:g} s still waiting for {what}.")
            time.sleep(0.1)
        return answer

    def until_started(self, nodes: Sequence[str], since: datetime) -> datetime:
        """Return when the first task has started, once one has on each of the nodes."""
        self.until(lambda: len(self._starts(nodes, since)) == len(nodes), f"a start on {' and '.join(nodes)}")
        return min(row.at for row in self._starts(nodes, since))

    def running_on(self, node: str) -> list[str]:
        """Return the keys of the tasks that run on the node."""
        rows = self.ask(
            "SELECT key FROM nodes_note GROUP BY key, attempt HAVING bool_or(event = 'started' AND node = %s)"
            " AND NOT bool_or(event = 'ended')",
            node,
        )
        return [row.key for row in rows]

    def until_started_again(
        self, keys: Sequence[str], nodes: Sequence[str], since: datetime, *, seconds: float
    ) -> datetime | None:
        """Return when the last of these tasks has started on one of the nodes; None when there are none."""
        query = (
            "SELECT key, min(at) AS at FROM nodes_note WHERE event = 'started' AND at > %s AND key = ANY(%s)"
            " AND node = ANY(%s) GROUP BY key"
        )

        def started() -> list[datetime]:
            return [row.at for row in self.ask(query, since, list(keys), list(nodes))]

        self.until(lambda: len(started()) == len(set(keys)), f"{keys} to start on {nodes}", seconds=seconds)
        return max(started(), default=None)

    def _starts(self, nodes: Sequence[str], since: datetime) -> list[Any]:
        return self.ask(_NODES, since, list(nodes))

    def until_ended(self, tasks: int, since: datetime) -> None:
        """Return when that many tasks have ended somewhere."""
        count = "SELECT count(*) FROM nodes_note WHERE event = 'ended' AND at > %s"
        self.until(lambda: self.ask(count, since)[0][0] >= tasks, f"{tasks} tasks that end")

    def until_idle(self) -> None:
        """Return when nothing is RUNNING."""
        running = "SELECT 1 FROM django_ray_execution WHERE state = 'RUNNING' LIMIT 1"
        self.until(lambda: not self.ask(running), "the release of everything")

    def until_finished(self) -> None:
        unfinished = "SELECT 1 FROM django_ray_execution WHERE finished_at IS NULL LIMIT 1"
        self.until(lambda: not self.ask(unfinished), "the end of every task")

    def ledger(self) -> Counter[tuple[str, int, str]]:
        """Return how often each (key, attempt, event) was noted."""
        return Counter(
            (row.key, row.attempt, row.event) for row in self.ask("SELECT key, attempt, event FROM nodes_note")
        )
