"""What a body says of its progress is written beside its execution: twice a second at most, and at the end.

And the metadata that it saves is written into its row, at once: the body waits for that.

By one thread of the process, on a connection of its own, so that it is seen while the body's transaction is open; and
fenced: who has lost the attempt writes nothing. The body only leaves the latest value. A database that does not answer
holds up nobody: the last value is waited for a moment.

Whoever watches has marked the execution as awaited. Then, and only then, each value is told on the channel `progress`,
and the lines that the body has written are kept and told as well. Whether it is marked is asked after the value is
committed: who has marked it later than that finds the value in its row.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from django.db import connections

from django_ray import locking
from django_ray.deadline import answered
from django_ray.exceptions import TaskSuperseded
from django_ray.progress import TOLD, checked
from django_ray.rows import Fence
from django_ray.runtime.connections import certain, close_all
from django_ray.runtime.output import MOST_LINES, Output
from django_ray.serialization import encode

__all__ = ["Reporter", "in_this_thread", "save_metadata"]

log = logging.getLogger("django_ray.progress")

PAUSE_SECONDS = 0.5  # Between two writes of one attempt.
LAST_SECONDS = 3.0  # That the end of an attempt waits for its last value.
IDLE_SECONDS = 10.0  # That the connection is kept for the next attempt that says something.
SAVE_SECONDS = 10.0  # That a body waits until its metadata is written.
SAVE_LOCK_SECONDS = 5.0  # That a row which somebody else has locked is waited for then.

_WRITE = """
INSERT INTO django_ray_progress AS progress (task_id, attempt, fraction, message, at)
SELECT task_id, attempt_number, %s, %s, statement_timestamp() FROM django_ray_execution
WHERE task_id = %s AND attempt_number = %s AND claimed_by_id = %s
ON CONFLICT (task_id) DO UPDATE SET
    attempt = excluded.attempt, fraction = excluded.fraction, message = excluded.message, at = excluded.at,
    number = progress.number + 1,
    -- The lines of the attempt before are not those of this one.
    output = CASE WHEN progress.attempt = excluded.attempt THEN progress.output ELSE '' END,
    lines = CASE WHEN progress.attempt = excluded.attempt THEN progress.lines ELSE 0 END
WHERE progress.attempt <= excluded.attempt
"""
_TELL = f"""
SELECT pg_notify(django_ray_channel('progress'), progress.task_id || {TOLD}::text)
FROM django_ray_progress AS progress JOIN django_ray_execution AS execution USING (task_id)
WHERE task_id = %s AND awaited
"""  # noqa: S608 - a constant
_SHOW = """
WITH shown AS (
    UPDATE django_ray_progress AS progress SET output = %s, lines = %s
    FROM django_ray_execution AS execution
    WHERE progress.task_id = execution.task_id AND progress.attempt = attempt_number AND awaited
        AND execution.task_id = %s AND attempt_number = %s AND claimed_by_id = %s
    RETURNING progress.task_id
)
SELECT pg_notify(django_ray_channel('progress'), task_id || told)
FROM shown CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS piece(told, place) ORDER BY place
"""
_MOST_BYTES = 7000  # Of lines in one notification, which holds 8,000.

_SAVE = """
UPDATE django_ray_execution
SET carrier =
    CASE jsonb_typeof(carrier) WHEN 'object' THEN carrier ELSE '{}' END || jsonb_build_object('metadata', %s::jsonb)
WHERE task_id = %s AND attempt_number = %s AND claimed_by_id = %s
"""

_is_in_place = False


@contextmanager
def in_this_thread() -> Generator[None]:
    """Have what is said within written at once, on the caller's connection: nobody else sees the rows of a test."""
    global _is_in_place  # noqa: PLW0603 - of the process that tests
    before, _is_in_place = _is_in_place, True
    try:
        yield
    finally:
        _is_in_place = before


class Reporter:
    """Of one attempt."""

    def __init__(self, database: str, fence: Fence | None, output: Output) -> None:
        self._database = database
        self._fence = fence  # None where nobody keeps rows.
        self._output = output
        self._shown = 0  # Lines that were told.
        self._looked = 0  # Lines that there were when it was asked last whether somebody watches.
        # Each report is a tuple of its own: what is not the one that was written last is still to be written. To take
        # it away when it is written would lose one that comes in that moment.
        self._latest: tuple[float | None, str] | None = None
        self._written: tuple[float | None, str] | None = None
        self._writer: _Writer | None = None  # Who writes it; a child that the body forks needs one of its own.
        self._has_ended = threading.Event()
        self.is_over = False
        self.due = 0.0  # When the next value may be written.

    @property
    def has_news(self) -> bool:
        """Tell whether there is something to write."""
        return self._latest is not self._written or self._lines > self._looked

    @property
    def _lines(self) -> int:
        """How many lines can be told: also the one that has not ended, when no more can come."""
        return self._output.ended if not self.is_over else self._output.begun

    def report(self, fraction: float | None = None, message: str = "") -> None:
        """Leave what is to be written."""
        self._latest = checked(fraction, message)
        if self.is_over or self._fence is None:
            return
        if _is_in_place:
            self.write()
        elif (writer := _writer()) is not self._writer:
            self._writer = writer
            writer.add(self)

    def write(self) -> None:
        """Write the latest value."""
        if self._fence is None:
            return
        attempt = [self._fence.task_id, self._fence.attempt_number, self._fence.worker]
        is_new, latest, lines = self._latest is not self._written, self._latest, self._lines
        self._written, self._looked = latest, lines
        is_watched: int = True  # as far as it is known
        if is_new and latest is not None:
            _execute(self._database, _WRITE, [*latest, *attempt], LAST_SECONDS)
            is_watched = _execute(self._database, _TELL, [self._fence.task_id])
        if is_watched and lines > self._shown:
            text, pieces = "\n".join(self._output.lines(0, lines)), _pieces(self._output, self._shown, lines)
            if _execute(self._database, _SHOW, [text, lines, *attempt, pieces], LAST_SECONDS):
                self._shown = lines

    def end(self) -> None:
        """Say that no more can come."""
        self._has_ended.set()

    def close(self) -> None:
        """Have the last value written before the execution ends: after that, the fence would refuse it."""
        if self._writer is not None and not self.is_over:
            self.is_over = True
            self._writer.look()
            if not self._has_ended.wait(LAST_SECONDS):
                _writer.cache_clear()  # it hangs: the next attempt gets another thread and connection
        self.is_over = True


def _execute(alias: str, statement: str, parameters: Sequence[Any], lock_seconds: float | None = None) -> int:
    """Commit it; return how many rows it has. A row that somebody else has locked is not waited for any longer."""
    connection: Any = connections[alias]
    connection.ensure_connection()
    brief = nullcontext() if lock_seconds is None else locking.waiting_briefly(alias, lock_seconds)
    # Who waits for this thread has given it up by then; so it ends, and its connection with it.
    with answered(connection, SAVE_SECONDS), brief, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: int = cursor.rowcount
    if not connection.get_autocommit() and not connection.in_atomic_block:
        connection.commit()  # where AUTOCOMMIT is off, Django leaves that to us
    return rows


def _pieces(output: Output, first: int, end: int) -> list[str]:
    """Return what notifications say of the lines from first until before end: as many as fit into each."""
    first = max(first, end - MOST_LINES)
    pieces: list[tuple[int, list[str]]] = []
    size = _MOST_BYTES
    for number, line in enumerate(output.lines(first, end), start=first):
        bytes_ = len(json.dumps(line, ensure_ascii=False).encode()) + 2
        if size + bytes_ > _MOST_BYTES:
            pieces.append((number, []))
            size = 0
        size += bytes_
        pieces[-1][1].append(line)
    return [json.dumps({"first": number, "lines": lines}, ensure_ascii=False) for number, lines in pieces]


def save_metadata(database: str, fence: Fence, metadata: dict[str, Any]) -> None:
    """Write the metadata of an attempt, and wait for that. TaskSuperseded, TimeoutError or one of the database."""
    save = _Save(database, fence, metadata)
    if _is_in_place:
        save.write()
        return
    _writer().save(save)
    if not save.has_ended.wait(SAVE_SECONDS):
        save.is_given_up = True
        _writer.cache_clear()  # it hangs: what comes next gets another thread and connection
        raise TimeoutError(f"The database has not answered for {SAVE_SECONDS:g} s: the metadata may not be saved.")
    if save.error is not None:
        raise save.error


class _Save:
    """Metadata to be written."""

    def __init__(self, database: str, fence: Fence, metadata: dict[str, Any]) -> None:
        self._database = database
        self._fence = fence
        self._metadata = encode(metadata)
        self.has_ended = threading.Event()
        self.error: Exception | None = None
        self.is_given_up = False

    def write(self) -> None:
        """Write it."""
        fence = self._fence
        parameters = [self._metadata, fence.task_id, fence.attempt_number, fence.worker]
        if not _execute(self._database, _SAVE, parameters, SAVE_LOCK_SECONDS):
            raise TaskSuperseded(
                f"Attempt {fence.attempt_number} of {fence.task_id} has ended, or is not this process's any more: its "
                "metadata is not saved."
            )

    def end(self) -> None:
        """Write it, unless nobody waits any more."""
        if self.is_given_up:
            return
        try:
            self.write()
        except Exception as error:  # noqa: BLE001 - it is the body's to know
            self.error = error
            close_all()
        self.has_ended.set()


class _Writer:
    """The thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reporters: list[Reporter] = []
        self._saves: list[_Save] = []

    def save(self, save: _Save) -> None:
        """Write it at once."""
        with self._changed:
            self._saves.append(save)
            self._changed.notify()

    def add(self, reporter: Reporter) -> None:
        """Write what this one says, until it is over."""
        with self._changed:
            self._reporters.append(reporter)
            self._changed.notify()

    def look(self) -> None:
        """Somebody is over."""
        with self._changed:
            self._changed.notify()

    def run(self) -> None:
        """Write for ever."""
        while True:
            saves, reporters = self._next()
            with certain():
                for save in saves:
                    save.end()
                for reporter in reporters:
                    self._write(reporter)

    def _write(self, reporter: Reporter) -> None:
        try:
            reporter.write()
        except Exception as error:  # noqa: BLE001 - what cannot be written is no matter of the body
            log.warning("The progress of a task could not be written: %s", error)
            close_all()
        reporter.due = time.monotonic() + PAUSE_SECONDS
        if reporter.is_over and not reporter.has_news:
            with self._changed:
                self._reporters.remove(reporter)
            reporter.end()

    def _next(self) -> tuple[list[_Save], list[Reporter]]:
        """Wait for those that have something to write, or are over."""
        with self._changed:
            while True:
                now = time.monotonic()
                ready = [one for one in self._reporters if one.is_over or (one.has_news and one.due <= now)]
                if ready or self._saves:
                    saves, self._saves = self._saves, []
                    return saves, ready
                if self._reporters:
                    self._changed.wait(PAUSE_SECONDS / 2)
                elif not self._changed.wait(IDLE_SECONDS):
                    close_all()
                    # One may have come between the end of the wait and this line.
                    if not self._reporters and not self._saves:
                        self._changed.wait()


@cache
def _writer() -> _Writer:
    writer = _Writer()
    threading.Thread(target=writer.run, name="django-ray-progress", daemon=True).start()
    return writer


# A child has none of its parent's threads.
os.register_at_fork(after_in_child=_writer.cache_clear)
