"""Metadata: what using(metadata=...) says of an execution, and what its body saves."""

import pickle
import threading
from copy import deepcopy
from dataclasses import replace

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_finished
from django.test import override_settings
from django.urls import reverse

from django_ray.exceptions import TaskSuperseded
from django_ray.locking import Locked
from django_ray.models import RayTaskExecution
from django_ray.rows import Fence
from django_ray.runtime import reporting
from django_ray.runtime.reporting import save_metadata
from django_ray.testing import run_tasks
from tests import notes, tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db
IMMEDIATE = {"default": {"BACKEND": "django_ray.testing.ImmediateBackend"}}
DUMMY = {"default": {"BACKEND": "django_ray.testing.DummyBackend"}}


def ran(result):
    run_tasks()
    result.refresh()
    return result


def carrier_of(result):
    return RayTaskExecution.objects.get(pk=result.id).carrier


def test_it_is_kept_with_the_execution_and_read_with_its_result():
    result = tasks.add.using(metadata={"by": 5, "tags": ("a", "b")}).enqueue(1, 2)
    found = tasks.add.get_result(result.id)
    assert result.metadata == found.metadata == {"by": 5, "tags": ["a", "b"]}
    assert carrier_of(result) == {"metadata": {"by": 5, "tags": ["a", "b"]}}
    with pytest.raises(TypeError, match="does not support item assignment"):
        result.metadata["by"] = 6


def test_who_says_nothing_keeps_nothing():
    result, empty = tasks.add.enqueue(1, 2), tasks.add.using(metadata={}).enqueue(1, 2)
    assert (result.metadata, empty.metadata, carrier_of(result), carrier_of(empty)) == ({}, {}, None, None)


def test_using_it_twice_replaces_it_and_none_leaves_it():
    first = tasks.add.using(metadata={"a": 1, "b": 2})
    assert first.using(metadata={"c": 3}).metadata == {"c": 3}
    assert first.using(priority=5, metadata=None).metadata == {"a": 1, "b": 2}
    assert first.using(metadata={}).enqueue(1, 2).metadata == {}
    assert tasks.add.metadata is None


def test_a_task_with_metadata_has_a_copy_can_be_hashed_compared_and_pickled():
    given = {"a": [1]}
    task = tasks.add.using(metadata=given)
    given["a"].append(2)
    assert task.metadata == {"a": [1]}
    assert hash(task) == hash(tasks.add.using(metadata={"a": [1]}))
    assert task == tasks.add.using(metadata={"a": [1]}) != tasks.add
    assert pickle.loads(pickle.dumps(task)) == deepcopy(task) == task
    result = task.enqueue(1, 2)
    assert pickle.loads(pickle.dumps(result)).metadata == deepcopy(result).metadata == {"a": [1]}


def test_each_of_many_has_its_own():
    calls = [(tasks.add.using(metadata={"n": n}) if n % 2 else tasks.add, [n, n], {}) for n in range(4)]
    results = task_backends["default"].enqueue_many(calls)
    assert [result.metadata for result in results] == [{}, {"n": 1}, {}, {"n": 3}]
    assert [carrier_of(result) for result in results] == [None, {"metadata": {"n": 1}}, None, {"metadata": {"n": 3}}]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([1], r"The task 'add': the metadata is \[1\]; it must be a dictionary."),
        ({"a": {1}}, r"the metadata\['a'\] is a set, which is not JSON: pass a list"),
        ({"a": float("nan")}, "which JSON does not have"),
        ({"a": "\0"}, "NUL character"),
        ({"a": "x" * 70_000}, "is 70,0.. bytes of JSON; 65,536 is the most"),
    ],
)
def test_what_cannot_be_kept_is_refused_where_it_is_said(metadata, message):
    with pytest.raises(InvalidTask, match=message):
        tasks.add.using(metadata=metadata)


def test_the_body_reads_changes_and_saves_it():
    result = ran(notes.note.using(metadata={"by": 5}).enqueue("rows", 7))
    assert result.return_value == [{"by": 5}, {"by": 5, "rows": 7}, {"by": 5, "rows": 7}]
    assert result.metadata == {"by": 5, "rows": 7}
    assert ran(notes.note_later.enqueue("rows", 8)).metadata == {"rows": 8}


def test_a_trace_and_a_context_stay_beside_it():
    result = notes.note.enqueue("rows", 7)
    RayTaskExecution.objects.update(carrier={"traceparent": "x", "context": {}})
    assert carrier_of(ran(result)) == {"traceparent": "x", "context": {}, "metadata": {"rows": 7}}


@pytest.mark.parametrize("carrier", [{"metadata": 5}, {"metadata": None}, {"metadata": []}, [], "metadata", 7])
def test_a_carrier_that_is_none_stops_nothing(carrier):
    result = notes.note.enqueue("rows", 7)
    RayTaskExecution.objects.update(carrier=carrier)
    assert notes.note.get_result(result.id).metadata == {}
    assert ran(result).metadata == {"rows": 7}


def test_what_is_not_saved_ends_with_the_attempt():
    result = ran(notes.scribble.using(metadata={"list": []}).enqueue())
    assert (result.return_value, result.metadata) == ({"list": [1]}, {"list": []})


def test_the_next_attempt_finds_what_the_last_one_saved():
    seen = []
    task_finished.connect(receiver := lambda task_result, **_: seen.append({**task_result.metadata}))
    result = ran(notes.count_up.enqueue())
    task_finished.disconnect(receiver)
    assert (result.return_value, result.attempts, result.metadata, seen) == (3, 3, {"steps": 3}, [{"steps": 3}])


def test_what_is_no_json_is_refused_and_the_rest_stays():
    result = ran(notes.note_what_is_no_json.using(metadata={"a": 1}, max_attempts=1).enqueue())
    assert "save_metadata(): the metadata['tags'] is a set" in result.errors[0].traceback
    assert result.metadata == {"a": 1}


def test_who_has_lost_the_attempt_saves_nothing():
    result = notes.note_when_taken_away.enqueue()
    with pytest.raises(TaskSuperseded, match=f"Attempt 1 of {result.id} has ended, or is not this process's any more"):
        run_tasks(raise_errors=True)
    assert carrier_of(result) is None


@override_settings(TASKS=IMMEDIATE)
def test_a_double_that_runs_at_once_keeps_it_in_memory():
    result = notes.note.using(metadata={"by": 5}).enqueue("rows", 7)
    assert result.metadata == {"by": 5, "rows": 7}


@override_settings(TASKS=DUMMY)
def test_a_double_that_runs_nothing_shows_it():
    result = notes.note.using(metadata={"by": 5}).enqueue("rows", 7)
    assert result.metadata == task_backends["default"].results[0].metadata == {"by": 5}
    result.refresh()
    assert result.metadata == {"by": 5}


def test_what_is_enqueued_again_has_none():
    result = tasks.add.using(metadata={"by": 5}).enqueue(1, 2)
    RayTaskExecution.objects.all().enqueue_again()
    assert RayTaskExecution.objects.exclude(pk=result.id).get().carrier is None


def test_the_page_of_an_execution_shows_it(client):
    result = tasks.add.using(metadata={"by": "<almost>"}).enqueue(1, 2)
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(reverse("admin:django_ray_raytaskexecution_change", args=[result.id])).text
    assert "&quot;by&quot;: &quot;&lt;almost&gt;&quot;" in page


NOBODY = 1_000_000  # No supervisor of a test gets this id.


@pytest.fixture
def running(transactional_db, monkeypatch):
    """The fence of an attempt whose row somebody else may lock. The threads that write close their connections soon."""
    made = []

    def keep(*, connection, **_):
        if threading.current_thread().name == "django-ray-progress":
            made.append(connection)

    monkeypatch.setattr(reporting, "IDLE_SECONDS", 0.01)
    connection_created.connect(keep)
    with transaction.atomic():  # the supervisor of this module shall not see it before
        result = tasks.add.enqueue(1, 2)
        RayTaskExecution.objects.update(state="RUNNING", claimed_by=NOBODY, attempt_number=1, worker_ids=[str(NOBODY)])
    reporting._writer.cache_clear()
    yield Fence(result.id, 1, NOBODY)
    connection_created.disconnect(keep)
    until(lambda: all(one.connection is None for one in made), what="no session left")
    reporting._writer.cache_clear()


LOCK = "SELECT * FROM django_ray_execution FOR UPDATE"


def test_a_row_that_somebody_else_has_locked_is_waited_for_and_named(running, connect, monkeypatch):
    monkeypatch.setattr(reporting, "SAVE_LOCK_SECONDS", 0.2)
    with connect(autocommit=False) as other:
        other.execute(LOCK)
        with pytest.raises(Locked, match=r"locked the row for longer than 0\.2 s"):
            save_metadata("default", running, {"a": 1})
    save_metadata("default", running, {"a": 2})
    assert RayTaskExecution.objects.get().carrier == {"metadata": {"a": 2}}
    with pytest.raises(TaskSuperseded):
        save_metadata("default", replace(running, attempt_number=2), {"a": 3})


def test_a_database_that_does_not_answer_holds_the_body_up_for_a_while_and_no_more(running, connect, monkeypatch):
    monkeypatch.setattr(reporting, "SAVE_SECONDS", 0.2)
    writer = reporting._writer()
    with connect(autocommit=False) as other:
        other.execute(LOCK)
        with pytest.raises(TimeoutError, match=r"has not answered for 0\.2 s: the metadata may not be saved"):
            save_metadata("default", running, {"a": 1})
        assert reporting._writer() is not writer  # what comes next does not wait behind it
    until(lambda: not connection_is_waiting(), what="the first one through")
    monkeypatch.setattr(reporting, "SAVE_SECONDS", 10)
    save_metadata("default", running, {"a": 2})
    assert RayTaskExecution.objects.get().carrier == {"metadata": {"a": 2}}


def connection_is_waiting():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return cursor.fetchone()[0]


def test_on_ray_it_is_seen_while_the_body_runs_and_stays_when_its_transaction_is_rolled_back(
    on_ray, finished, tmp_path
):
    result = notes.note_in_a_transaction.using(max_attempts=1, metadata={"by": 5}).enqueue(str(tmp_path / "go"))

    def is_seen():
        result.refresh()
        return "step" in result.metadata

    until(is_seen, what="metadata of a body whose transaction is open")
    assert not User.objects.filter(username="uncommitted").exists()
    (tmp_path / "go").touch()
    assert finished(result).status == "FAILED"
    assert result.metadata == {"by": 5, "step": "half, and not committed"}


def test_on_ray_attempts_and_coroutines_save_it(on_ray, finished):
    counted, later = notes.count_up.enqueue(), notes.note_later.enqueue("rows", 8)
    assert (finished(counted).return_value, counted.metadata) == (3, {"steps": 3})
    assert finished(later).metadata == {"rows": 8}
