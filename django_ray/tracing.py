"""OpenTelemetry, where it is installed and a tracer provider is set: a task is traced on from its enqueue to its body.

The context of the enqueue travels in the row, as its carrier. Where nobody traces, each function costs one look at who
the tracer provider is. Tracing never changes what becomes of an execution.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
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

__all__ = ["Carrier", "consumer", "flow", "producer"]

type Carrier = dict[str, Any]

MOST_LINKS = 128  # Of a span, as OpenTelemetry limits them unless told otherwise.
SYSTEM = {"messaging.system": "django_ray"}

_OFF: AbstractContextManager[None] = nullcontext()


def producer(tasks: Sequence[Task[..., Any]]) -> AbstractContextManager[Carrier | None]:
    """Bracket the INSERT of these, however many, with one span, and give the carrier for their rows; None for none."""
    return _producing(tasks) if _is_on() and tasks else _OFF


def flow(name: str, flow_id: str) -> AbstractContextManager[Any]:
    """Bracket the enqueues of a flow with one span, whose children they are."""
    if not _is_on():
        return _OFF
    attributes = {**SYSTEM, "django_ray.flow": flow_id}
    return _tracer().start_as_current_span(f"flow {name or flow_id}", attributes=attributes)


def consumer(row: ClaimedRow, upstreams: Callable[[int], Iterable[Any]] = lambda _: ()) -> AbstractContextManager[None]:
    """Bracket the body of an attempt with a span, the child of its enqueue's.

    upstreams returns the carriers of what it has waited for, up to a number: their enqueues become links.
    """
    return _consuming(row, upstreams) if _is_on() else _OFF


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
def _consuming(row: ClaimedRow, upstreams: Callable[[int], Iterable[Any]]) -> Generator[None]:
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
            links=_links(upstreams),
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


def _links(upstreams: Callable[[int], Iterable[Any]]) -> list[trace.Link]:
    """Return a link to each enqueue, once: many have one together."""
    found: dict[int, trace.Link] = {}
    with suppress(Exception):
        for carrier in upstreams(MOST_LINKS):
            with suppress(Exception):  # whoever inserted that row put something else there
                span = trace.get_current_span(propagate.extract(carrier or {}, context.Context())).get_span_context()
                if span.is_valid:
                    found.setdefault(span.span_id, trace.Link(span))
    return [*found.values()]


def _tracer() -> trace.Tracer:
    return trace.get_tracer("django_ray")
