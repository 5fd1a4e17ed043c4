"""The signals of a task, and Django's log records of them: made where somebody hears them, and not at all elsewhere."""

import json
import logging
from functools import partial

import pytest
import ray
from django.tasks import task
from django.tasks.signals import task_finished, task_started
from django.utils.log import AdminEmailHandler, RequireDebugFalse, RequireDebugTrue

from django_ray.hearing import is_heard
from django_ray.runtime import entrypoint
from django_ray.runtime.entrypoint import invoke
from tests.test_runtime import payload

HEARD = []


def hear(sender, task_result, **_):
    HEARD.append(task_result.status)


@task
def add(a, b):
    return a + b


@task
def fail():
    raise ValueError("no")


@task(takes_context=True)
def attempt_of(context):
    return context.attempt


@task
def listen_to_the_end():
    task_finished.connect(hear)


class Seen(logging.Handler):
    """Counts what comes through."""

    number = 0

    def emit(self, record):
        self.number += 1


class SeenWithoutFilters(Seen):
    def handle(self, record):
        self.emit(record)
        return True


class Counting(logging.Filter):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def filter(self, record):
        self.seen.emit(record)
        return False


@pytest.fixture
def loggers(monkeypatch):
    """As Django leaves them with its own LOGGING, below a root without the handlers of pytest; as before at the end."""
    found = {"django.tasks": logging.getLogger("django.tasks"), "django": logging.getLogger("django")}
    root = logging.RootLogger("WARNING")
    monkeypatch.setattr(found["django"], "parent", root)
    before = [(one, one.level, one.handlers, one.filters, one.propagate, one.__class__) for one in found.values()]
    console, mail = logging.StreamHandler(), AdminEmailHandler()
    console.addFilter(RequireDebugTrue())
    console.setLevel("INFO")
    mail.setLevel("ERROR")
    for name, level, handlers in (("django.tasks", 0, []), ("django", "INFO", [console, mail])):
        one = found[name]
        one.handlers, one.filters, one.propagate = handlers, [], True
        one.setLevel(level)
    yield {**found, "": root}
    for one, level, handlers, filters, propagate, kind in before:
        one.handlers, one.filters, one.propagate, one.__class__ = handlers, filters, propagate, kind
        one.setLevel(level)


@pytest.fixture
def made(monkeypatch):
    """How many results were made."""
    counted = []

    def task_result(*arguments):
        counted.append(arguments)
        return entrypoint_task_result(*arguments)

    entrypoint_task_result = entrypoint.task_result
    monkeypatch.setattr(entrypoint, "task_result", task_result)
    return counted


def run(name="add", *args):
    return json.loads(invoke(payload(f"{__name__}.{name}", *args))["result"])


def test_a_short_task_of_a_production_site_makes_neither_results_nor_records(loggers, made):
    """What it costs does not depend on the machine: no record, no result."""
    factory = logging.getLogRecordFactory()
    records = []

    def record(*arguments, **options):
        records.append(arguments)
        return factory(*arguments, **options)

    assert run("add", 1, 2) == 3
    logging.setLogRecordFactory(record)
    try:
        assert not made
        assert run("add", 1, 2) == 3
        assert len(records) == 2  # somebody looks at each record: they are made for them
        assert len(made) == 1
    finally:
        logging.setLogRecordFactory(factory)


def test_a_record_factory_of_ray_looks_at_nothing(loggers, monkeypatch):
    """It stands in each Ray worker."""
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    ray._private.log._setup_log_record_factory()
    assert logging.getLogRecordFactory() is not logging.LogRecord
    assert not is_heard(task_started)
    monkeypatch.setattr(logging, "_logRecordFactory", partial(logging.LogRecord))
    ray._private.log._setup_log_record_factory()  # around one that may look
    assert is_heard(task_started)


def test_an_attempt_that_fails_for_good_is_always_told(loggers, made):
    mail = Seen("ERROR")
    loggers["django"].addHandler(mail)
    invoke(payload(f"{__name__}.fail", options={"retry": {"max_attempts": 1}}))
    assert (mail.number, len(made)) == (1, 1)


def test_who_takes_the_context_gets_it(loggers, made):
    assert run("attempt_of") == 1
    assert len(made) == 1


def instrument(monkeypatch, name, seen):
    usual = getattr(logging.Logger, name)

    def instrumented(*arguments, **options):
        seen.number += 1
        return usual(*arguments, **options)

    monkeypatch.setattr(logging.Logger, name, instrumented)


def everything(loggers, settings, seen, monkeypatch):
    """Yield ways in which a site may look at the records, by name."""

    class Other(logging.Logger):
        def handle(self, record):
            seen.number += 1

    def factory(*arguments, **options):
        seen.number += 1
        return logging.LogRecord(*arguments, **options)

    filtered = Seen()
    filtered.addFilter(Counting(seen))
    shut = SeenWithoutFilters()
    shut.emit = seen.emit
    shut.addFilter(RequireDebugTrue())
    return {
        "a handler": lambda: loggers["django.tasks"].addHandler(seen),
        "a handler of the root logger": lambda: loggers[""].addHandler(seen),
        "a filter that lets nothing pass": lambda: loggers["django"].addHandler(filtered),
        "a filter of the logger": lambda: loggers["django.tasks"].addFilter(Counting(seen)),
        "a handler that asks no filter": lambda: loggers["django"].addHandler(shut),
        "a class of loggers": lambda: setattr(loggers["django.tasks"], "__class__", Other),
        "a record factory": lambda: monkeypatch.setattr(logging, "_logRecordFactory", factory),
        **{
            f"an instrumented {name}": lambda name=name: instrument(monkeypatch, name, seen)
            for name in ("info", "log", "_log", "makeRecord", "handle", "callHandlers", "filter")
        },
        "an instance's method": lambda: monkeypatch.setattr(
            loggers["django.tasks"], "handle", seen.emit, raising=False
        ),
    }  # fmt: skip


WAYS = [*everything({}, None, Seen(), None)]


@pytest.mark.parametrize("way", WAYS)
def test_whoever_looks_at_the_records_gets_them(loggers, settings, monkeypatch, way):
    seen = Seen()
    everything(loggers, settings, seen, monkeypatch)[way]()
    assert run("add", 1, 2) == 3
    assert seen.number in {1, 2}  # one of the two methods; both signals otherwise


def test_a_site_in_debug_shows_them(loggers, settings):
    assert not is_heard(task_started)
    settings.DEBUG = True
    assert is_heard(task_started)
    assert is_heard(task_finished)


@pytest.mark.parametrize("level", ["WARNING", "INFO"])
def test_the_level_of_a_logger_counts(loggers, level):
    loggers[""].addHandler(Seen())
    loggers["django.tasks"].setLevel(level)
    assert is_heard(task_started) == (level == "INFO")


def test_the_opposite_filter_is_open(loggers):
    handler = Seen()
    handler.addFilter(RequireDebugFalse())
    loggers["django"].addHandler(handler)
    assert is_heard(task_started)
    run("add", 1, 2)
    assert handler.number == 2


def test_what_does_not_propagate_is_not_shown(loggers):
    loggers[""].addHandler(Seen())
    loggers["django.tasks"].propagate = False
    assert not is_heard(task_started)


def test_without_any_handler_the_last_resort_shows_warnings_alone(loggers, monkeypatch):
    loggers["django"].handlers = []
    assert not is_heard(task_started)
    monkeypatch.setattr(logging, "lastResort", Seen())
    assert is_heard(task_started)


@pytest.mark.parametrize("signal", [task_started, task_finished])
def test_a_receiver_is_told(loggers, signal):
    HEARD.clear()
    signal.connect(hear)
    try:
        run("add", 1, 2)
    finally:
        signal.disconnect(hear)
    assert (["RUNNING"] if signal is task_started else ["SUCCESSFUL"]) == HEARD
    run("add", 1, 2)
    assert len(HEARD) == 1


def test_a_receiver_that_a_body_connects_is_told_of_its_end(loggers):
    HEARD.clear()
    try:
        run("listen_to_the_end")
    finally:
        task_finished.disconnect(hear)
    assert HEARD == ["SUCCESSFUL"]
