"""What a running execution does now: asked of the supervisor that runs it, which looks on the host of the body.

    found = snapshot(result.id)
    print(found.text)

Question and answer are notifications: no row is written. Needs psycopg 3.
"""

from __future__ import annotations

import json
import selectors
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import OperationalError

from django_ray.clock import seconds
from django_ray.databases import database_of_row
from django_ray.driver import need_psycopg
from django_ray.tables import find

__all__ = ["ANSWERS", "QUESTION", "NoSnapshot", "Snapshot", "snapshot"]

QUESTION = "snapshot"  # A message to a supervisor: this, a space and the id.
ANSWERS = "snapshots"  # The bell. What is said there begins with the id.
ANSWER_SECONDS = 15.0


class NoSnapshot(Exception):  # noqa: N818 - nothing has failed
    """It cannot be said what an execution does; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the body of one execution does."""

    host: str
    process: int  # Its number on that host.
    stack: Sequence[str]  # Lines of a traceback, the innermost last.
    output: Sequence[str]  # The last lines that it has written.
    is_locked: bool  # It keeps Python's lock, as code in C may: then lines of code and output are not known.

    @property
    def text(self) -> str:
        """All of it, for people."""
        where = f"Process {self.process} on {self.host}"
        note = [f"{where}, in code that keeps Python's lock:" if self.is_locked else f"{where}:"]
        output = ["Its last lines:", *self.output] if self.output else []
        return "\n".join([*note, *self.stack, *output])


def snapshot(task_id: UUID | str, *, timeout: float = ANSWER_SECONDS) -> Snapshot:
    """Return what the body of an execution does now.

    The supervisor gets timeout seconds to answer. NoSnapshot says that there is none, and why: the execution does not
    run, or nobody answered. Works on Linux, with psycopg 3.
    """
    from django_ray.models import RayTaskExecution, State

    need_psycopg("A snapshot")
    row: Any = find(RayTaskExecution, UUID(str(task_id)))
    if row is None:
        raise NoSnapshot(f"There is no execution {task_id}.")
    if row.state != State.RUNNING:
        raise NoSnapshot(f"It does not run: it is {State(row.state).label}.")
    said = _ask(database_of_row(row), row.claimed_by_id, str(row.pk), timeout)
    if said is None:
        raise NoSnapshot(
            f"Supervisor {row.claimed_by_id} has not answered within {timeout:g} s: it stands still, or its version "
            "of django-ray is an earlier one. Its log says what it does."
        )
    try:
        found: Any = json.loads(said)
        if found is not None:
            return Snapshot(**{name: found[name] for name in Snapshot.__slots__})
    except (KeyError, TypeError, ValueError):  # anybody may notify
        raise NoSnapshot("What came for an answer cannot be read.") from None
    raise NoSnapshot("No process was found that runs it: it has not begun, has just ended, or is not on Linux.")


def _ask(database: str, worker: int, task_id: str, timeout: float) -> str | None:
    import psycopg

    from django_ray.ears import connection_parameters, drain

    ends = seconds() + timeout
    try:
        with closing(psycopg.connect(**connection_parameters(database), autocommit=True)) as session:
            # The answer may come so soon that psycopg reads it together with the end of the question.
            heard: list[str] = []
            session.add_notify_handler(lambda notification: heard.append(notification.payload))
            cursor: Any = session.execute("SELECT quote_ident(django_ray_channel(%s))", [ANSWERS])
            session.execute(f"LISTEN {cursor.fetchone()[0]}".encode())
            session.execute(
                "SELECT pg_notify(django_ray_channel(%s), %s)", [f"worker:{worker}", f"{QUESTION} {task_id}"]
            )
            with selectors.DefaultSelector() as selector:
                # psycopg's own notifies() would wake up ten times a second.
                selector.register(session.fileno(), selectors.EVENT_READ)
                while (left := ends - seconds()) > 0:
                    if answer := next((said for said in heard if said.startswith(task_id)), None):
                        return answer.removeprefix(task_id)
                    heard.clear()
                    selector.select(left)
                    drain(session.pgconn, heard.append)
    except psycopg.OperationalError as error:
        raise OperationalError(*error.args) from error
    return None
