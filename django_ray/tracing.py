"""OpenTelemetry, where it is installed and a tracer provider is set: a task is traced on from its enqueue to its body.

The context of the enqueue travels in the row, as its carrier. Where nobody traces, each function costs one look at who
the tracer provider is. Tracing never changes what becomes of an execution.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from django.tasks import Task

from django_ray.rows import ClaimedRow


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.propagate") is not None
    except ModuleNotFoundError:
        return False


IS_INSTALLED = _is_installed()

if TYPE_CHECKING or IS_INSTALLED:
    from opentelemetry import context, propagate, trace

__all__ = ["Carrier", "consumer", "producer"]

type Carrier = dict[str, Any]

SYSTEM = {"messaging.system": "django_ray"}

_OFF: AbstractContextManager[None] = nullcontext()


def producer(tasks: Sequence[Task[..., Any]]) -> AbstractContextManager[Carrier | None]:
    """Bracket the INSERT of these, however many, with one span, and give the carrier for their rows; None for none."""
    return _producing(tasks) if _is_on() and tasks else _OFF


def consumer(row: ClaimedRow) -> AbstractContextManager[None]:
    """Bracket the body of an attempt with a span, the child of its enqueue's."""
    return _consuming(row) if _is_on() else _OFF


def _is_on() -> bool:
    return IS_INSTALLED and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def _producing(tasks: Sequence[Task[..., Any]]) -> Generator[Carrier]:
    paths = {task.module_path for task in tasks}
    queues = {task.queue_name for task in tasks}
    attributes: dict[str, str | int] = {**SYSTEM, "messaging.operation.type": "send"}
    if len(queues) == 1:
        attributes["messaging.destination.name"] = min(queues)
    if len(tasks) > 1:
        attributes["messaging.batch.message_count"] = len(tasks)
    name = f"enqueue {min(paths)}" if len(paths) == 1 else "enqueue"
    with _tracer().start_as_current_span(name, kind=trace.SpanKind.PRODUCER, attributes=attributes):
        carrier: Carrier = {}
        propagate.inject(carrier)
        yield carrier


@contextmanager
def _consuming(row: ClaimedRow) -> Generator[None]:
    attributes: dict[str, str | int] = {
        **SYSTEM,
        "messaging.operation.type": "process",
        "messaging.destination.name": row.queue_name,
        "messaging.message.id": row.task_id,
        "django_ray.attempt": row.attempt_number,
    }
    token = context.attach(_extracted(row.carrier))
    try:
        with _tracer().start_as_current_span(
            f"run {row.callable_path}",
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                # What ends a body need not be an Exception, and its __str__ may raise anything.
                span.set_status(trace.StatusCode.ERROR, type(error).__qualname__)
                with suppress(BaseException):
                    span.record_exception(error)
                raise
    finally:
        context.detach(token)


def _extracted(carrier: Any) -> context.Context:
    """Return the context of the enqueue; ours, if whoever inserted the row put something else there."""
    with suppress(Exception):
        return propagate.extract(carrier or {})
    return context.get_current()


def _tracer() -> trace.Tracer:
    return trace.get_tracer("django_ray")
