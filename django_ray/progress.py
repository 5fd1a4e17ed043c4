"""How far an attempt says it is: what a body reports, what a result reads, and what somebody who watches is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Self
from uuid import UUID

from asgiref.sync import sync_to_async

from django_ray.bounds import is_number, shown
from django_ray.moments import parsed
from django_ray.serialization import clean_text
from django_ray.tables import Tables

__all__ = ["MOST_MESSAGE", "TOLD", "Progress", "checked", "progress_of", "updates_of"]

MOST_MESSAGE = 1000  # Characters.

# What is told of a row of progress, in SQL.
TOLD = """json_build_object(
    'number', number, 'attempt', attempt, 'fraction', fraction, 'message', message, 'at', at
)"""
_READ = f"""
SELECT execution.finished_at IS NOT NULL, {TOLD}::text, progress.output, lines, execution.output
FROM django_ray_execution AS execution LEFT JOIN django_ray_progress AS progress USING (task_id) WHERE task_id = %s
"""  # noqa: S608 - a constant
_ANSWER_SECONDS = 1.0  # That a notification may take from its commit.


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the latest attempt that said anything has said last."""

    fraction: float | None  # Of the whole, 0 to 1; None where only a message was given.
    message: str
    attempt: int  # The number of the attempt.
    at: datetime  # By the database's clock.
    output: str = ""  # In an update: the lines that the body has written since the update before.

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return what TOLD says."""
        at = parsed(told["at"])
        assert at is not None  # noqa: S101
        fraction = told["fraction"]
        return cls(
            fraction=None if fraction is None else float(fraction),
            message=told["message"],
            attempt=told["attempt"],
            at=at,
        )


def checked(fraction: Any, message: Any) -> tuple[float | None, str]:
    """Return what is stored of it. ValueError or TypeError says what does not fit."""
    if fraction is not None and not is_number(fraction, 0, 1):
        raise ValueError(f"progress: the fraction is {shown(fraction)}; it must be a number of 0 to 1, or None.")
    if not isinstance(message, str):
        raise TypeError(f"progress: the message is {shown(message)}; it must be a text.")
    return None if fraction is None else float(fraction), clean_text(message, MOST_MESSAGE)


def progress_of(database: str, result_id: str) -> Progress | None:
    """Return what was said, read now; None for nothing."""
    from django_ray.models import RayProgress

    with Tables(database) as tables:
        row = RayProgress._base_manager.using(tables.alias).filter(pk=UUID(result_id)).first()  # noqa: SLF001
    if row is None:
        return None
    return Progress(fraction=row.fraction, message=row.message, attempt=row.attempt, at=row.at)


async def updates_of(database: str, result_id: UUID, pulse: float) -> AsyncGenerator[Progress]:
    """Yield what was said so far and what is said from now on, until the execution is finished or gone.

    It listens, then looks, then hears. Notifications may be lost, as those of an end may: every pulse seconds it looks.
    """
    from django_ray import ears

    viewer, look, tries = _Viewer(), sync_to_async(partial(_read, database)), 0
    while True:
        try:
            async with ears.hearing(database, result_id, "progress", "results") as heard:
                is_open = await ears.amark(database, result_id)
                for update in viewer.read(await look(result_id)):
                    yield update
                while is_open:
                    told = await heard.next(pulse)
                    if told is None and viewer.is_behind(await look(result_id)):
                        told = await heard.next(_ANSWER_SECONDS)  # perhaps it is on its way
                        if told is None:
                            heard.renew()
                            continue
                    if told:
                        for update in viewer.hear(told):
                            yield update
                        continue
                    found = await look(result_id)
                    if found is None or found.is_finished:
                        is_open = False
                        for update in viewer.read(found):
                            yield update
                return
        except ears.TRANSIENT:
            await sync_to_async(ears.close)(database)
            await asyncio.sleep(ears.pause(tries))
            tries += 1


@dataclass(frozen=True, slots=True)
class _Found:
    """What the tables say of an execution."""

    is_finished: bool
    told: dict[str, Any]
    output: str
    lines: int
    last_output: str  # Of the last attempt, once it has ended.


def _read(database: str, result_id: UUID) -> _Found | None:
    from django_ray import ears

    with ears.answering(ears.connection(database)) as cursor:
        cursor.execute(_READ, [result_id])
        row = cursor.fetchone()
    if row is None:
        return None
    is_finished, told, output, lines, last_output = row
    return _Found(is_finished, json.loads(told), output or "", lines or 0, last_output or "")


class _Viewer:
    """What one has seen of an execution."""

    def __init__(self) -> None:
        self._last: Progress | None = None
        self._number = 0  # Of the last value that was seen.
        self._lines = 0  # Of the attempt of that value.

    def is_behind(self, found: _Found | None) -> bool:
        """Tell whether the tables say more than was seen."""
        return found is not None and (found.told["number"] or 0) > self._number

    def read(self, found: _Found | None) -> Iterator[Progress]:
        """Return what is new in the tables."""
        if found is None or found.told["number"] is None:
            return
        progress = self._progress(found.told)
        kept = found.output.split("\n") if found.output else []
        if found.is_finished and not self._lines and not kept and found.last_output:
            kept = found.last_output.split("\n")
            output = self._output(0, kept)
        else:
            output = self._output(found.lines - len(kept), kept)
        yield from self._update(progress, output)

    def hear(self, told: str) -> Iterator[Progress]:
        """Return what is new in a notification."""
        content = json.loads(told)
        if "lines" in content:
            yield from self._update(None, self._output(content["first"], content["lines"]))
        else:
            yield from self._update(self._progress(content), "")

    def _progress(self, told: Mapping[str, Any]) -> Progress | None:
        """Return what is told if it is new."""
        if told["number"] <= self._number:
            return None
        self._number = told["number"]
        progress = Progress.of(told)
        if self._last is None or self._last.attempt != progress.attempt:
            self._lines = 0
        self._last = progress
        return progress

    def _output(self, first: int, lines: list[str]) -> str:
        """Return those of the lines, numbered from first, that are new."""
        new = lines[max(0, self._lines - first) :]
        self._lines = max(self._lines, first + len(lines))
        return "\n".join(new)

    def _update(self, progress: Progress | None, output: str) -> Iterator[Progress]:
        if self._last is not None and (progress is not None or output):
            yield replace(self._last, output=output)
