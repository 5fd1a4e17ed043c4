"""OpenTelemetry: one trace from the enqueue to the body, in whatever process that runs."""

import json
import subprocess
import sys

import pytest
from django.tasks import task, task_backends
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from django_ray import Flow, tracing
from django_ray.models import RayTaskExecution
from django_ray.testing import run_tasks
from tests import tasks
from tests.poison import Unhelpful

pytestmark = pytest.mark.django_db


@task
def current():
    span = trace.get_current_span()
    return [f"{span.get_span_context().trace_id:032x}", baggage.get_baggage("customer")]


@task
async def current_later():
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


@task
def raise_unhelpful():
    raise Unhelpful(1, 2)


@task
def return_set():
    return {1}


@pytest.fixture
def spans(monkeypatch):
    """Trace, and return what returns the spans that have ended, by name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # may be set but once in a process
    yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    provider.shutdown()


def test_the_trace_goes_from_the_request_through_the_enqueue_to_the_body(spans):
    with trace.get_tracer("web").start_as_current_span("request"):
        result = current.enqueue()
    run_tasks()
    result.refresh()
    found = spans()
    request, sent, ran = found["request"], found[f"enqueue {__name__}.current"], found[f"run {__name__}.current"]
    assert {span.context.trace_id for span in (request, sent, ran)} == {request.context.trace_id}
    assert (sent.parent.span_id, ran.parent.span_id) == (request.context.span_id, sent.context.span_id)
    assert ran.parent.is_remote
    assert (sent.kind, ran.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert result.return_value[0] == f"{request.context.trace_id:032x}"
    assert dict(sent.attributes) == {
        "messaging.system": "django_ray",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
    }
    assert dict(ran.attributes) == {
        "messaging.system": "django_ray",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": result.id,
        "django_ray.attempt": 1,
    }
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_coroutine_is_inside_the_span_too(spans):
    result = current_later.enqueue()
    run_tasks()
    result.refresh()
    assert result.return_value == f"{spans()[f'run {__name__}.current_later'].context.trace_id:032x}"


def test_baggage_travels_along(spans):
    token = context.attach(baggage.set_baggage("customer", "42"))
    result = current.enqueue()
    context.detach(token)
    run_tasks()
    result.refresh()
    assert result.return_value[1] == "42"
    assert baggage.get_baggage("customer") is None


def test_many_calls_have_one_span(spans):
    backend = task_backends["default"]
    backend.enqueue_many([(tasks.add, [n, n], {}) for n in range(1500)])
    (span,) = spans().values()
    assert span.name == "enqueue tests.tasks.add"
    assert span.attributes["messaging.batch.message_count"] == 1500
    carriers = RayTaskExecution.objects.values_list("carrier", flat=True).distinct()
    assert [carrier["traceparent"].split("-")[1] for carrier in carriers] == [f"{span.context.trace_id:032x}"]
    backend.enqueue_many([(tasks.add, [1, 1], {}), (tasks.sleep.using(queue_name="other"), [1], {})])
    mixed = spans()["enqueue"]
    assert "messaging.destination.name" not in mixed.attributes
    before = len(spans())
    backend.enqueue_many([])
    assert len(spans()) == before


@pytest.mark.parametrize(
    ("what", "name"), [(tasks.fail, "ValueError"), (tasks.exit_politely, "SystemExit"), (return_set, "TypeError")]
)
def test_what_failed_is_recorded_in_the_span(spans, what, name):
    what.enqueue()
    run_tasks()
    span = spans()[f"run {what.module_path}"]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, name)
    (event,) = span.events
    assert event.attributes["exception.type"] == name


def test_a_flow_is_one_trace_and_links_lead_to_what_was_waited_for(spans):
    with Flow("import") as flow:
        pages = task_backends["default"].enqueue_many([(tasks.double, [number], {}) for number in range(3)])
        other = current.enqueue()
        tasks.total.enqueue(pages, more=pages[0])
        tasks.look_back.using(after=[pages[0], other], needs="end").enqueue()
    run_tasks()
    found = spans()
    whole = found["flow import"]
    assert dict(whole.attributes) == {"messaging.system": "django_ray", "django_ray.flow": flow.id}
    names = ["tests.tasks.double", f"{__name__}.current", "tests.tasks.total", "tests.tasks.look_back"]
    for name in names:
        sent, ran = found[f"enqueue {name}"], found[f"run {name}"]
        assert (sent.parent.span_id, ran.parent.span_id) == (whole.context.span_id, sent.context.span_id)
    links = {name: [link.context.span_id for link in found[f"run {name}"].links] for name in names}
    sent_double, sent_current = (found[f"enqueue {name}"].context.span_id for name in names[:2])
    assert links == dict(zip(names, [[], [], [sent_double], [sent_double, sent_current]], strict=True))
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_flow_without_a_name_is_called_by_its_id_and_what_it_raises_is_recorded(spans):
    flow = Flow()
    with pytest.raises(LookupError), flow:
        raise LookupError
    assert spans()[f"flow {flow.id}"].status.status_code is StatusCode.ERROR


async def test_a_flow_of_a_coroutine_is_a_span_too(spans, settings):
    settings.TASKS = {"default": {"BACKEND": "django_ray.testing.ImmediateBackend"}}
    async with Flow("later"):
        assert trace.get_current_span().name == "flow later"
        await current.aenqueue()
    assert trace.get_current_span() is trace.INVALID_SPAN
    found = spans()
    # A double enqueues without a span of its own.
    assert found[f"run {__name__}.current"].kind is SpanKind.CONSUMER


def test_carriers_of_upstreams_that_are_none_stop_nothing(spans):
    first = tasks.add.enqueue(1, 2)
    second = tasks.add.enqueue(first, 3)
    RayTaskExecution.objects.filter(pk=first.id).update(carrier=["traceparent"])
    run_tasks()
    second.refresh()
    assert second.return_value == 6
    assert not [span for span in spans().values() if span.links]


def test_an_exception_that_cannot_be_recorded_is_the_outcome_all_the_same(spans):
    result = raise_unhelpful.enqueue()
    run_tasks()
    result.refresh()
    assert result.errors[-1].exception_class_path == "tests.poison.Unhelpful"
    assert spans()[f"run {__name__}.raise_unhelpful"].status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("carrier", [{"traceparent": 5}, [], "x", {"traceparent": "nonsense"}, {"": None}, 7])
def test_a_carrier_that_is_none_stops_nothing(spans, carrier):
    result = tasks.add.enqueue(1, 2)
    RayTaskExecution.objects.update(carrier=carrier)
    run_tasks()
    result.refresh()
    assert result.return_value == 3
    assert spans()["run tests.tasks.add"].parent is None


def test_an_enqueue_that_fails_is_recorded(spans, monkeypatch):
    monkeypatch.setattr("django_ray.enqueueing._ENQUEUE", "SELECT 1 / 0, %s, %s")
    with pytest.raises(Exception, match="division by zero"):
        tasks.add.enqueue(1, 2)
    assert spans()["enqueue tests.tasks.add"].status.status_code is StatusCode.ERROR


def test_without_a_tracer_provider_nothing_is_carried_or_made(monkeypatch):
    monkeypatch.setattr(tracing, "_tracer", None)
    result = tasks.add.enqueue(1, 2)
    run_tasks()
    row = RayTaskExecution.objects.get(pk=result.id)
    assert (row.carrier, row.state) == (None, "SUCCESSFUL")


def test_without_opentelemetry_all_is_as_before():
    code = (
        "import sys, json; sys.modules['opentelemetry'] = None\n"
        "from django_ray import tracing\n"
        "with tracing.producer(['a']) as carrier, tracing.consumer(None) as nothing: pass\n"
        "print(json.dumps([tracing.IS_INSTALLED, carrier, nothing]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [False, None, None]
