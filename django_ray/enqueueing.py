"""Enqueues become rows: one statement per 1,000, which returns what the database alone knows.

Ids and moments are the database's: the order of enqueueing then follows one clock, and a run_after that is a timedelta
counts from the INSERT, however wrong the clock of the web server is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connections, transaction
from django.tasks import Task
from django.tasks.exceptions import InvalidTask
from django.utils import timezone

from django_ray.admission import Admission
from django_ray.admitting import admitted
from django_ray.membership import FLOW, Membership, membership
from django_ray.metadata import with_metadata
from django_ray.moments import held
from django_ray.options import Options
from django_ray.results import RayTaskResult
from django_ray.serialization import encode
from django_ray.tables import Tables
from django_ray.tasks import RayTask
from django_ray.tracing import Carrier, producer
from django_ray.upstreams import RESULTS, Upstreams

__all__ = [
    "Checked", "Enqueue", "Inserted", "admission_of", "check_function", "check_run_after", "checked", "enqueued",
    "insert",
]  # fmt: skip


class Checked(NamedTuple):
    """A task that can be enqueued, and what is the same in each of its rows: JSON, but for the closing brace."""

    task: Task[..., Any]
    head: str
    bare: str  # The same without its options.
    options: dict[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    admission: Admission | None = None
    after: tuple[RayTaskResult[..., Any], ...] = ()


class Enqueue(NamedTuple):
    """A task with arguments that JSON can hold and that fit its function, what admits it, and what it waits for."""

    checked: Checked
    args: list[Any]
    kwargs: dict[str, Any]
    admission: dict[str, Any] | None = None
    upstreams: Upstreams | None = None

    @property
    def key(self) -> str | None:
        """What makes it equal to others."""
        return None if self.admission is None else self.admission.get("unique")


ROWS_PER_INSERT = 1000

_ENQUEUE = "SELECT task_id, enqueued_at, run_after FROM django_ray_enqueue(%s, %s)"
_ENQUEUE_ADMITTED = "SELECT task_id, enqueued_at, run_after, is_duplicate FROM django_ray_enqueue_admitted(%s, %s)"


class Inserted(NamedTuple):
    """What the database made of an enqueue."""

    task_id: UUID
    enqueued_at: datetime
    run_after: datetime | None
    is_duplicate: bool = False  # Nothing was inserted: an equal execution is there.


def insert(backend: str, database: str, enqueues: Sequence[Enqueue], carrier: Carrier | None = None) -> list[Inserted]:
    """Insert the enqueues, all or none, in the caller's transaction; return what became of each, in their order.

    The carrier is what travels with them, beside the context of a trace and the flow that is enqueued into here.
    InvalidTask in the block of a flow that lives in another database.
    """
    flow = _flow_in(database, backend)
    if flow is not None:
        carrier = {**(carrier or {}), FLOW: flow.carried}
    tables, inserted = Tables(database), list[Inserted]()
    places = None
    if len(enqueues) > ROWS_PER_INSERT and any(one.admission and one.key for one in enqueues):
        enqueues, places = _in_order(enqueues)
    block = (
        transaction.atomic(using=tables.alias, savepoint=False) if len(enqueues) > ROWS_PER_INSERT else nullcontext()
    )
    cursor_of = connections[tables.alias].cursor
    with producer([one.checked.task for one in enqueues]) as trace, tables, block, cursor_of() as cursor:
        if trace:
            carrier = {**trace, **carrier} if carrier else trace
        for start in range(0, len(enqueues), ROWS_PER_INSERT):
            some = enqueues[start : start + ROWS_PER_INSERT]
            is_plain = flow is None and all(one.admission is None and one.upstreams is None for one in some)
            rows = _rows(some, carrier, None if flow is None else flow.flow)
            cursor.execute(_ENQUEUE if is_plain else _ENQUEUE_ADMITTED, [backend, rows])
            inserted += [Inserted(*row) for row in cursor.fetchall()]
    return inserted if places is None else [inserted[place] for place in places]


def _flow_in(database: str, backend: str) -> Membership | None:
    """Return the flow that is enqueued into here. What a body enqueues into another database belongs to none."""
    flow = membership.get()
    if flow is None or flow.database in {None, database}:
        return flow
    if flow.is_block:
        raise InvalidTask(
            f"The flow {flow.flow} lives in the database {flow.database!r}, and what is enqueued with backend "
            f"{backend!r} in {database!r}: a flow is of one database. Enqueue it outside of the block, or say "
            "Flow(..., backend=...) of a backend that lives there."
        )
    return None


def _in_order(enqueues: Sequence[Enqueue]) -> tuple[Sequence[Enqueue], Sequence[int]]:
    """Return them as they are inserted, and where each of them is then.

    Over many statements, too, keys come in their order: two who enqueue the same ones wait in a line, not in a ring.
    """
    order = sorted(range(len(enqueues)), key=lambda number: enqueues[number].key or "~")  # those without one come last
    places = [0] * len(order)
    for place, number in enumerate(order):
        places[number] = place
    return [enqueues[number] for number in order], places


def checked(task: Task[..., Any], settings: Options) -> Checked:
    """Return a task that has been validated, as it is enqueued; InvalidTask when no Ray worker could find it."""
    check_importable(task)
    row = {
        "queue_name": task.queue_name,
        "priority": task.priority,
        "callable_path": task.module_path,
        **_due(task.run_after),
    }
    options, bare = task.row_options() if isinstance(task, RayTask) else None, encode(row).removesuffix("}")
    return Checked(
        task=task,
        head=f'{bare}, "options": {encode(options)}' if options else bare,
        bare=bare,
        options=options,
        metadata=getattr(task, "metadata", None),
        admission=admission_of(task, settings, task.queue_name),
        after=getattr(task, "after", None) or (),
    )


def admission_of(task: Task[..., Any], settings: Options, queue_name: str) -> Admission | None:
    """Return what admits the executions of a task in a queue, where the queue says what the task does not."""
    admission, options = (task.admission, task.row_options()) if isinstance(task, RayTask) else (None, None)
    if (queue := settings.queue_admission.get(queue_name)) is not None:
        admission = (admission or Admission()).over(queue, queue_name)
    if (required := settings.of(queue_name, options)).has_lane:
        admission = replace(admission or Admission(), lane=required.shape)
    return admission


def enqueued(checked: Checked, args: list[Any], kwargs: dict[str, Any], upstreams: Upstreams | None = None) -> Enqueue:
    """Return an enqueue; whatever a function of its arguments raises, and TypeError or ValueError for what it returns.

    Before any SQL, so that a transaction survives it.
    """
    if checked.admission is None:
        return Enqueue(checked, args, kwargs, None, upstreams)
    if checked.admission.unique == "replace" and upstreams is not None:
        raise InvalidTask(
            f'The task {checked.task.name!r} has unique="replace": what an execution waits for cannot be replaced. '
            'Use unique=True or "queued", or do not pass results to it.'
        )
    return Enqueue(checked, args, kwargs, admitted(checked.admission, checked.task, args, kwargs), upstreams)


def _rows(enqueues: Sequence[Enqueue], carrier: Carrier | None, flow: str | None) -> str:
    tail = _tail(carrier)
    linked = "" if flow is None else f', "link": {encode({"flow": flow})}'
    rows = (
        f'{enqueue.checked.head}, "args": {encode(enqueue.args)}, "kwargs": {encode(enqueue.kwargs)}{linked}{tail}'
        if enqueue.admission is None and enqueue.upstreams is None and not enqueue.checked.metadata
        else _row(enqueue, carrier, flow)
        for enqueue in enqueues
    )
    return f"[{','.join(rows)}]"


def _row(enqueue: Enqueue, carrier: Carrier | None, flow: str | None) -> str:
    """Return the row of an enqueue that says more than most."""
    one, args, kwargs, admission, upstreams = enqueue
    options = one.options
    link: dict[str, Any] = {} if flow is None else {"flow": flow}
    if one.metadata:
        carrier = with_metadata(carrier, one.metadata)
    if upstreams is not None:
        # In its options, too: a version that does not know the word gives the execution back. It would run it with ids.
        options = {**(options or {}), "needs": upstreams.needs}
        link |= {"needs": upstreams.needs, "upstreams": upstreams.ids}
        if upstreams.paths:
            carrier = {**(carrier or {}), RESULTS: upstreams.paths}
    said = f', "admission": {encode(admission)}' if admission is not None else ""
    if link:
        said += f', "link": {encode(link)}'
    head = f'{one.bare}, "options": {encode(options)}' if upstreams is not None else one.head
    return f'{head}, "args": {encode(args)}, "kwargs": {encode(kwargs)}{said}{_tail(carrier)}'


def _tail(carrier: Carrier | None) -> str:
    return f', "carrier": {encode(carrier)}}}' if carrier else "}"


def _due(run_after: datetime | timedelta | None) -> dict[str, str]:
    match run_after:
        case None:
            return {}
        case timedelta():
            # In units that no time zone makes longer or shorter, and whose numbers fit PostgreSQL 14.
            hours, rest = divmod(run_after, timedelta(hours=1))
            return {"delay": f"{hours} hours {rest.seconds}.{rest.microseconds:06} seconds"}
        case datetime():
            aware = timezone.make_aware(run_after) if timezone.is_naive(run_after) else run_after  # USE_TZ = False
            return {"moment": held(aware).isoformat()}


def check_function(function: Callable[..., Any]) -> None:
    """Raise InvalidTask for a function that a Ray worker could not import by its path."""
    path = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
    name = path.rpartition(".")[2]
    if name == "<lambda>":
        raise InvalidTask("A lambda has no name to import it by: define the task with def, at the level of a module.")
    if path.startswith("__main__.") and "<locals>" not in path:
        raise InvalidTask(
            f"{name!r} is defined in the script or shell that was started, where no Ray worker finds it: define the "
            "task in a module of an application, such as tasks.py."
        )
    if getattr(getattr(function, "__code__", None), "co_filename", "").startswith("<"):
        raise InvalidTask(
            f"{name!r} was typed into a shell, where no Ray worker finds it: define the task in a module of an "
            "application, such as tasks.py."
        )
    if "." in getattr(function, "__qualname__", "") and "<locals>" not in path:
        raise InvalidTask(
            f"Task function must be defined at a module level. {path!r} is a method, which no Ray worker could find."
        )


def check_importable(task: Task[..., Any]) -> None:
    """Raise InvalidTask when another thing than this task stands at its path, as far as this process knows."""
    module = sys.modules.get(task.func.__module__)
    found: Any = getattr(module, task.func.__name__, task)
    if not isinstance(found, Task):
        raise InvalidTask(
            f"At {task.module_path!r} a Ray worker would find a {type(found).__qualname__}, not this task: give the "
            "task the name of its function."
        )


def check_run_after(run_after: Any) -> None:
    """Raise InvalidTask for what is no moment and no delay, or beyond what PostgreSQL and Python count."""
    if run_after is None or isinstance(run_after, datetime):
        return
    if not isinstance(run_after, timedelta):
        raise InvalidTask(f"run_after must be a datetime or a timedelta, not {run_after!r}.")
    try:
        _ = timezone.now() + run_after + timedelta(days=366)
    except OverflowError:
        raise InvalidTask(f"run_after is {run_after!r}, which ends after the year 9999 or before the year 1.") from None
