"""One call of executions that share a body: they get its lists together, and each has an end of its own.

A body that raises, or returns another number of results, was perhaps made to by one of them: then each of them runs
alone, in the same call. So one that cannot be done fails by itself, and costs the others nothing but time. Of one that
ends the process nobody knows which it was: the supervisor gives all of them back, and each comes alone then.

Executions of one call have the same task. What they were enqueued with is in place around the body: those that differ
in it are batches of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from django.tasks import TaskResultStatus
from django.tasks.signals import task_finished, task_started

from django_ray.batching import columns, results_of, wants_batch
from django_ray.carrying import CONTEXT
from django_ray.exceptions import Unprepared
from django_ray.hearing import is_heard
from django_ray.runtime.call import Report, unprepared
from django_ray.runtime.claimed import claimed_row
from django_ray.runtime.connections import Upkeep
from django_ray.runtime.entrypoint import (
    Envelope,
    Found,
    call_body,
    envelope_of,
    failed,
    finish,
    missing,
    run,
    send,
)
from django_ray.runtime.foreign import contained, ends_process, ignored
from django_ray.runtime.interrupt import overran, protected, was_interrupted
from django_ray.runtime.mark import marked
from django_ray.runtime.preparation import settle_in
from django_ray.runtime.rayworker import end_after_answer
from django_ray.runtime.surroundings import apart, restored, spoiled_by
from django_ray.tracing import consumer

__all__ = ["invoke_batch"]


def invoke_batch(rows: Sequence[str]) -> Report:
    """Run attempts of one task together, each the JSON of its row, on the main thread of a Ray worker."""
    with protected():
        try:
            settle_in()
        except Unprepared as error:
            return unprepared(rows, error)
        report = _Batch(rows).run()
    if spoiled_by():
        end_after_answer()
        report["is_spoiled"] = True
    return report


class _Batch:
    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._envelopes: list[Envelope | None] = [None] * len(rows)
        self._is_unprepared = False

    def run(self) -> Report:
        began = time.monotonic()
        with Upkeep():
            found = [*self._found()]
            for some in self._alike(found):
                if not was_interrupted():
                    # What a body sets in context variables ends with it.
                    apart(self._run, some)
        limit, has_stalled = overran() or (None, False)
        share = (time.monotonic() - began) / len(self._rows)
        return {
            "envelopes": [one or _INTERRUPTED for one in self._envelopes],
            "seconds": [share] * len(self._rows),
            "is_interrupted": was_interrupted(),
            # Of several nobody knows whose fault it was.
            "overran": limit if len(self._rows) == 1 else None,
            "has_stalled": has_stalled,
            "settled": [index for index, one in enumerate(self._envelopes) if one and one.get("is_settled")],
            "is_rest_ready": False,
            "is_unprepared": self._is_unprepared,
        }

    def _found(self) -> Iterator[tuple[int, Found]]:
        """Yield those that can be begun, and note of the others why they cannot."""
        for index, row in enumerate(self._rows):
            found = contained(partial(_found, row), self._cannot)
            if isinstance(found, Found):
                yield index, found
            else:
                self._envelopes[index] = found

    def _cannot(self, error: BaseException) -> Envelope:
        self._is_unprepared |= isinstance(error, Unprepared)
        return missing(None, error)

    @staticmethod
    def _alike(found: Sequence[tuple[int, Found]]) -> Iterator[list[tuple[int, Found]]]:
        """Yield those that may run together, as they come."""
        groups: dict[tuple[str, str], list[tuple[int, Found]]] = {}
        for index, one in found:
            carried: Any = (one.row.carrier or {}).get(CONTEXT)
            key = one.row.callable_path, json.dumps(carried, sort_keys=True)
            groups.setdefault(key, []).append((index, one))
        for some in groups.values():
            if wants_batch(some[0][1].task):
                yield some
            else:
                yield from ([one] for one in some)

    def _run(self, some: list[tuple[int, Found]]) -> None:
        if len(some) > 1:
            some = self._run_together(some)
        for index, found in some:
            if was_interrupted():
                return
            envelope = run(found.row)
            if not was_interrupted() or envelope["kind"] == "returned" or len(self._rows) == 1:
                self._envelopes[index] = envelope

    def _run_together(self, some: list[tuple[int, Found]]) -> list[tuple[int, Found]]:
        """Run them; return those that have to run alone."""
        first = some[0][1]
        calls, ready, alone = [], list[tuple[int, Found]](), list[tuple[int, Found]]()
        for index, found in some:
            try:
                calls.append(found.arguments())
            except BaseException as error:
                if ends_process(error):
                    raise
                alone.append((index, found))  # it says so by itself
            else:
                ready.append((index, found))
        if len(ready) <= 1:
            return some
        stack = ExitStack()
        try:
            if first.carried is not None:
                first.carried.restore(stack)
            for _, found in ready:
                if found.is_start_heard:
                    send(task_started, found)
            with (
                restored(),
                first.output,
                consumer(first.row, first.carriers),
                marked(first.row.task_id, first.row.attempt_number),
            ):
                returned = call_body(first, *columns(first.task, calls))
                results = results_of(first.task, returned, len(ready))
        except BaseException as error:
            if ends_process(error):
                raise
            ignored(f"A batch of {len(ready)} of {first.row.callable_path}, of which each runs alone now,")(error)
            return some
        finally:
            contained(stack.close, ignored("The end of what a class of CONTEXT had restored"))
        for (index, found), result in zip(ready, results, strict=True):
            self._envelopes[index] = _ended(found, result)
        return alone


def _found(row: str) -> Found:
    return Found(claimed_row(row), None)


def _ended(found: Found, result: Any) -> Envelope:
    """Return what becomes of one, by its result."""
    if isinstance(result, BaseException):
        return _raised(found, result)
    try:
        plain, encoded = found.checked(result)
    except BaseException as error:  # noqa: BLE001 - the body's, whose objects are encoded
        return failed(found, "refused", error)
    if is_heard(task_finished):
        finish(found, {"status": TaskResultStatus.SUCCESSFUL, "_return_value": plain})
    return {"kind": "returned", "result": encoded, "output": found.output.text}


def _raised(found: Found, error: BaseException) -> Envelope:
    """Say that it was raised: in an except block, where Django's logger looks for it."""
    where = error.__traceback__
    try:
        raise error  # noqa: TRY301
    except BaseException as raised:  # noqa: BLE001 - the body's, whatever it is
        raised.__traceback__ = where  # it was not raised here
        return failed(found, "raised", raised)


_INTERRUPTED: Any = {**envelope_of("missing", KeyboardInterrupt("It was interrupted.")), "kind": "interrupted"}
