"""context.progress(): what a body says of how far it is, and what its result reads."""

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import override_settings
from django.urls import reverse

from django_ray.models import RayProgress, RayTaskExecution
from django_ray.rows import Fence
from django_ray.runtime import reporting
from django_ray.runtime.output import Output
from django_ray.runtime.reporting import Reporter
from django_ray.testing import run_tasks
from tests import steps
from tests.supervisors import until

UPDATES = """
CREATE TABLE progress_update (message text);
CREATE FUNCTION note_progress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO progress_update VALUES (NEW.message); RETURN NULL; END $$;
CREATE TRIGGER note_progress AFTER INSERT OR UPDATE ON django_ray_progress
FOR EACH ROW EXECUTE FUNCTION note_progress();
"""
FORGET = "DROP TRIGGER note_progress ON django_ray_progress; DROP FUNCTION note_progress; DROP TABLE progress_update"


@pytest.mark.django_db
def test_in_a_test_case_the_last_value_is_there():
    walked, silent = steps.walk.enqueue(4), steps.misstep.enqueue(2)
    run_tasks()
    assert (walked.progress.fraction, walked.progress.message, walked.progress.attempt) == (1.0, "4 of 4", 1)
    assert silent.progress is None


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fraction", "message", "error"),
    [
        (1.01, "", "ValueError: progress: the fraction is 1.01; it must be a number of 0 to 1, or None."),
        (-0.1, "", "the fraction is -0.1"),
        ("half", "", "the fraction is 'half'"),
        (True, "", "the fraction is True"),
        (0.5, 5, "TypeError: progress: the message is 5; it must be a text."),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_said(fraction, message, error):
    result = steps.misstep.enqueue(fraction, message)
    run_tasks()
    result.refresh()
    assert error in result.errors[0].traceback
    assert result.progress is None


@pytest.mark.django_db
def test_a_message_that_cannot_be_stored_is_cleaned_and_cut():
    result = steps.misstep.enqueue(None, "a\x00b".replace("\x00", "\ufffd") + "x" * 5000)
    run_tasks()
    assert result.progress.fraction is None
    assert result.progress.message.startswith("a\ufffdb")
    assert len(result.progress.message) <= 1100


@pytest.mark.django_db
def test_what_is_said_while_the_value_before_is_written_is_not_lost(monkeypatch):
    monkeypatch.setattr(reporting, "_writer", lambda: None)  # no thread is to write it: as one that it is added to
    reporter = Reporter("default", Fence(str(uuid4()), 1, 1), Output("a task"))
    with connection.execute_wrapper(lambda execute, *asked: (reporter.report(0.9), execute(*asked))[1]):
        reporter.report(0.5)
        reporter.write()
    assert reporter.has_news
    reporter.write()
    assert not reporter.has_news


def test_the_thread_that_writes_goes_on_after_a_pause(monkeypatch):
    monkeypatch.setattr(reporting, "IDLE_SECONDS", 0.001)
    monkeypatch.setattr(Reporter, "write", lambda reporter: setattr(reporter, "_written", reporter._latest))
    reporting._writer.cache_clear()
    for _ in range(200):
        reporter = Reporter("default", Fence(str(uuid4()), 1, 1), Output("a task"))
        reporter.report(0.5)
        reporter.close()
        assert reporter._has_ended.is_set()
        assert not reporter.has_news
    reporting._writer.cache_clear()


@override_settings(TASKS={"default": {"BACKEND": "django_ray.testing.ImmediateBackend"}})
def test_a_double_keeps_nothing_and_refuses_nothing():
    result = steps.walk.enqueue(3)
    assert (result.return_value, result.progress) == (3, None)


@pytest.mark.django_db
def test_it_goes_with_its_execution():
    results = [steps.walk.enqueue(1) for _ in range(3)]
    run_tasks()
    assert RayProgress.objects.count() == 3
    assert RayTaskExecution.objects.filter(pk=results[0].id).prune() == 1
    assert RayProgress.objects.count() == 2


def test_the_page_of_an_execution_shows_it(client, db):
    result = steps.walk.enqueue(3)
    run_tasks()
    RayProgress.objects.update(fraction=0.999, message="<almost>")
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(reverse("admin:django_ray_raytaskexecution_change", args=[result.id])).text
    assert '<progress max="1" value="0.999"' in page
    assert "99 %" in page
    assert "&lt;almost&gt;" in page


def test_on_ray_it_is_seen_while_the_body_runs_and_in_its_transaction(on_ray, finished, tmp_path):
    result = steps.walk_in_a_transaction.enqueue(str(tmp_path / "go"))
    until(lambda: result.progress, what="progress of a body whose transaction is open")
    assert (result.progress.fraction, result.progress.message) == (0.5, "half, and not committed")
    (tmp_path / "go").touch()
    assert finished(result).status == "SUCCESSFUL"


def test_on_ray_short_ones_end_with_their_last_value(on_ray, finished):
    results = [steps.walk.enqueue(number) for number in range(1, 30)]
    later = steps.walk_later.enqueue()
    assert [finished(result).return_value for result in results] == list(range(1, 30))
    assert [result.progress.message for result in results] == [f"{number} of {number}" for number in range(1, 30)]
    assert finished(later).progress.fraction == 1


def test_on_ray_the_next_attempt_reads_what_the_last_one_said(on_ray, finished):
    result = finished(steps.stumble.enqueue())
    assert result.return_value == [0.25, "a quarter", 1]


def test_on_ray_ten_thousand_a_second_are_two_writes_a_second_and_the_last_is_exact(on_ray, finished):
    with connection.cursor() as cursor:
        cursor.execute(UPDATES)
    try:
        result = finished(steps.hurry.enqueue(2.0))
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM progress_update")
            (writes,) = cursor.fetchone()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(FORGET)
    assert result.return_value > 10_000
    assert result.progress.message == str(result.return_value)
    assert 2 <= writes <= 6  # at once, twice a second, and at the end
