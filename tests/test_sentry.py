"""Errors to Sentry: the files of docs/monitoring.md, on a real Ray, with a server in the place of Sentry."""

import os
import sys

import pytest
from django.tasks import task_backends

from django_ray.carrying import traveller
from django_ray.models import RayTaskExecution, State
from tests import sentries, settings_sentry
from tests.sentries import Sentry
from tests.supervisors import ROOT, until
from tests.test_docs import files_of_all_pages

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def sentry():
    with Sentry() as sentry:
        yield sentry


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the two files of the page."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "library").mkdir()
    (folder / "library" / "__init__.py").touch()
    for path in ("library/errors.py", "library/apps.py"):
        (folder / path).write_text(files_of_all_pages()[path])
    return folder


@pytest.fixture(scope="module")
def environment(project, sentry):
    return {
        "DJANGO_SETTINGS_MODULE": settings_sentry.__name__,
        "PYTHONPATH": os.pathsep.join(map(str, (project, ROOT, ROOT / "example"))),
        "SENTRY_DSN": sentry.dsn,
    }


@pytest.fixture(scope="module")
def ray_listen(listen_for_all, environment):
    """One process for all bodies."""
    return listen_for_all("--local", "--concurrency", "1", "--queue", "default", **environment)


@pytest.fixture
def another(listen, environment):
    """Start a supervisor of the other queue, for a test to stop."""

    def start(*arguments):
        supervisor = listen("--local", "--concurrency", "1", "--queue", "other", *arguments, **environment)
        supervisor.wait_for("is ready", 180)
        return supervisor

    return start


@pytest.fixture(autouse=True)
def enqueuing(project, settings, monkeypatch, sentry):
    """Enqueue as the project does, and leave nothing of it behind."""
    settings.TASKS = settings_sentry.TASKS
    monkeypatch.syspath_prepend(project)
    sentry.events.clear()
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "library"]:
        del sys.modules[module]
    traveller.cache_clear()


def told(events):
    """Return what they say, in short: the class of an error, or the message."""
    return [
        event["exception"]["values"][-1]["type"] if event.get("exception") else event.get("message") for event in events
    ]


def through(sentry, finished):
    """Return when the supervisor has sent whatever it was about to: it sends one after the other."""
    last = finished(sentries.vanish.enqueue())
    until(lambda: sentry.about(last), what="the event of a lost execution")
    return last


def test_what_a_body_raises_arrives_once_with_its_task(on_ray, sentry, finished):
    result = finished(sentries.fail_here.enqueue())
    until(lambda: sentry.about(result), what="the event")
    last = through(sentry, finished)
    first, second = sentry.events
    assert first["tags"] == {"task": "tests.sentries.fail_here", "task_id": result.id}
    (error,) = first["exception"]["values"]
    assert (error["type"], error["module"]) == ("ValueError", None)
    assert error["stacktrace"]["frames"][-1]["function"] == "fail_here"
    assert second["tags"] == {"task": "tests.sentries.vanish", "task_id": last.id}


def test_an_attempt_that_will_be_tried_again_sends_nothing(on_ray, sentry, finished):
    result = sentries.fail_twice.enqueue()
    until(lambda: RayTaskExecution.objects.get(pk=result.id).failures)
    through(sentry, finished)
    assert sentry.about(result) == []
    RayTaskExecution.objects.filter(pk=result.id).update(due_at=None)
    until(lambda: sentry.about(finished(result)), what="the event")


@pytest.mark.slow
def test_what_no_body_can_tell_the_supervisor_does(on_ray, sentry, finished):
    lost, late = sentries.vanish.enqueue(), sentries.take_too_long.enqueue()
    for result, kind in ((lost, "Lost"), (late, "TimedOut")):
        until(lambda: sentry.about(finished(result)), what="the event")  # noqa: B023
        (event,) = sentry.about(result)
        assert event["tags"]["task"] == result.task.module_path
        assert event["fingerprint"] == [result.task.module_path, kind]
    through(sentry, finished)
    assert len(sentry.about(lost)) == len(sentry.about(late)) == 1


def test_what_the_supervisor_tells_holds_no_arguments(on_ray, sentry, finished):
    result = finished(sentries.vanish.enqueue("a secret"))
    until(lambda: sentry.about(result), what="the event")
    (event,) = sentry.about(result)
    assert result.id in event["logentry"]["formatted"]
    assert "a secret" not in str(event)


def test_of_a_batch_each_one_that_fails_arrives_with_its_own_name(on_ray, sentry, finished):
    many = [(sentries.fail_those_below, [number, 2], {}) for number in range(4)]
    results = [finished(result) for result in task_backends["default"].enqueue_many(many)]
    for number, result in enumerate(results[:2]):
        until(lambda: sentry.about(result), what="the event")  # noqa: B023
        (event,) = sentry.about(result)
        assert event["tags"]["task"] == "tests.sentries.fail_those_below"
        (error,) = event["exception"]["values"]
        assert (error["type"], error["value"]) == ("ValueError", str(number))
        # It was returned, and raised nowhere.
        assert "stacktrace" not in error
        assert result.errors[-1].traceback == f"ValueError: {number}\n"
    assert [sentry.about(result) for result in results[2:]] == [[], []]


@pytest.mark.parametrize(
    "told_by", [sentries.tell_and_fail.using(fresh_process=True), sentries.tell_and_fail_where_one_stays]
)
def test_a_process_that_ends_by_itself_sends_everything_first(on_ray, sentry, finished, tmp_path, told_by):
    """With its task, or when it has been idle."""
    ending = tmp_path / "ending"
    with sentry.held_up():
        result = told_by.enqueue(str(ending))
        until(lambda: "before" in told(sentry.held), what="the first event under way")
        finished(result)
        until(ending.exists, what="the end of the process")
        assert sentry.about(result) == []
    until(lambda: told(sentry.about(result)) == ["before", "ValueError"], what="both events")


def test_what_one_body_tells_does_not_stay_for_the_next_one(on_ray, sentry, finished):
    there = finished(sentries.leave_a_crumb.enqueue()).return_value
    result = finished(sentries.fail_here.enqueue())
    until(lambda: sentry.about(result), what="the event")
    (event,) = sentry.about(result)
    assert event["exception"]["values"][0]["value"] == str(there)  # the same process
    assert "of another task" not in str(event)


@pytest.mark.slow
def test_a_body_that_is_interrupted_by_a_stop_has_sent_what_it_told(another, sentry, tmp_path):
    ending = tmp_path / "ending"
    supervisor = another("--grace", "0")
    with sentry.held_up():
        result = sentries.tell_when_interrupted.using(queue_name="other").enqueue(str(ending))
        until(lambda: "before" in told(sentry.held), what="the first event under way")
        supervisor.signal()
        until(ending.exists, what="the end of the process")
    assert supervisor.wait() == 0, supervisor.log
    assert told(sentry.events) == ["before", "interrupted"]
    assert {event["tags"]["task_id"] for event in sentry.events} == {result.id}
    assert RayTaskExecution.objects.get(pk=result.id).state == State.READY


@pytest.mark.slow
def test_a_supervisor_that_stops_sends_everything_first(another, sentry, finished):
    supervisor = another()
    with sentry.held_up():
        first = finished(sentries.vanish.using(queue_name="other").enqueue())
        until(lambda: sentry.held, what="the first event under way")
        second = finished(sentries.vanish.using(queue_name="other").enqueue())
        supervisor.signal()
        supervisor.wait_for("has ended")
        supervisor.wait_for("Sentry is attempting to send")  # at the end of the process
        assert sentry.events == []
    assert supervisor.wait() == 0, supervisor.log
    assert [len(sentry.about(result)) for result in (first, second)] == [1, 1]
