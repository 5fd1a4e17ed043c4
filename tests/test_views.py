"""django_ray.views.metrics: the queues, for Prometheus."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import RequestFactory
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

import django_ray.status
import django_ray.views
from django_ray.models import RayQueue, RayTaskExecution, RayWorker
from django_ray.probing import planned_by_index
from tests import tasks

pytestmark = pytest.mark.django_db(transaction=True)


def scrape():
    """Return (gauge, backend, queue) -> value."""
    response = django_ray.views.metrics(RequestFactory().get("/metrics/tasks"))
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("django_ray_queue_"), sample.labels["backend"], sample.labels["queue"]): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
        if "queue" in sample.labels
    }


def test_an_empty_queue_that_is_configured_is_shown():
    found = scrape()
    assert {key[1:] for key in found} == {("default", "default"), ("default", "other")}
    assert set(found.values()) == {0}
    assert {key[0] for key in found} == {
        "depth", "scheduled", "blocked", "held", "gated", "running", "oldest_wait_seconds", "paused", "served",
    }  # fmt: skip


def test_what_waits_runs_and_is_scheduled_is_counted_by_queue():
    for _ in range(3):
        tasks.add.enqueue(1, 2)
    tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    due = tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    RayTaskExecution.objects.filter(pk=due.id).update(due_at=Now() - timedelta(minutes=1))
    tasks.add.using(queue_name="other").enqueue(1, 2)
    worker = RayWorker.objects.create(hostname="h", pid=1, backend="default", queues=[], concurrency=1, version="0")
    RayTaskExecution.objects.filter(queue_name="other").update(state="RUNNING", claimed_by=worker)
    found = scrape()
    assert found["depth", "default", "default"] == 4
    assert found["scheduled", "default", "default"] == 1
    assert found["oldest_wait_seconds", "default", "default"] >= 60
    assert [found[name, "default", "other"] for name in ("depth", "running")] == [0, 1]


def test_a_backend_of_any_queue_shows_those_that_hold_something_or_are_paused():
    awkward = 'a "queue"\\\nof two lines'
    tasks.add.using(backend="any", queue_name=awkward).enqueue(1, 2)
    RayQueue.objects.pause("customer-7", "any")
    found = scrape()
    assert found["depth", "any", awkward] == 1
    assert found["paused", "any", "customer-7"] == 1
    assert found["paused", "any", awkward] == 0


def test_counting_ends_at_a_limit_and_reads_no_more_rows_than_that(monkeypatch):
    """With the statistics of an empty table, and a backlog many times as deep."""
    monkeypatch.setattr(django_ray.status, "MOST", 10)
    monkeypatch.setattr(django_ray.views, "MOST", 10)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_ray_execution (callable_path, due_at, state, finished_at) SELECT 'tests.tasks.add',"
            " CASE WHEN n %% 3 = 0 THEN now() + interval '1 day' END,"
            " CASE WHEN n %% 3 = 1 THEN 'FAILED' ELSE 'READY' END, CASE WHEN n %% 3 = 1 THEN now() END"
            " FROM generate_series(1, 6000) AS n",
            [],
        )
    found = scrape()
    assert found["depth", "default", "default"] == 11
    assert found["scheduled", "default", "default"] == 11
    with planned_by_index(connection.alias), connection.cursor() as cursor:
        parameters = {"backend": "default", "configured": ["default"], "most": 10, "most_queues": 100}
        cursor.execute("EXPLAIN (ANALYZE, TIMING OFF) " + django_ray.status._QUEUES, parameters)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan on django_ray_execution" not in plan
    assert "Bitmap" not in plan
    assert "rows=2000" not in plan


def test_a_scrape_leaves_no_setting_behind_in_the_transaction_around_it():
    with transaction.atomic():
        scrape()
        with connection.cursor() as cursor:
            cursor.execute("SHOW enable_seqscan")
            assert cursor.fetchone() == ("on",)


def test_it_is_only_for_reading(caplog):
    with caplog.at_level("CRITICAL"):
        assert django_ray.views.metrics(RequestFactory().post("/metrics/tasks")).status_code == 405


@pytest.fixture
def supervisor(connect):
    """Make supervisors, with sessions or without."""

    def make(*, backend="default", has_session=False, **columns):
        said = {"hostname": "h", "pid": 1, "queues": [], "concurrency": 1, "version": "0", **columns}
        one = RayWorker.objects.create(backend=backend, **said)
        if has_session:
            connect().execute("SELECT django_ray_identify(%s)", [one.pk])

    return make


def supervisors(backend="default"):
    """Return how many are alive, silent, lost."""
    text = django_ray.views.metrics(RequestFactory().get("/metrics/tasks")).text
    found = {
        sample.name.removeprefix("django_ray_supervisors_"): int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("django_ray_supervisors_") and sample.labels == {"backend": backend}
    }
    return found["alive"], found["silent"], found["lost"]


def test_supervisors_are_counted_by_whether_they_are_there_or_lost(supervisor):
    assert supervisors() == (0, 0, 0)
    supervisor(has_session=True)
    supervisor(has_session=True, backend="any")
    for _ in range(2):
        supervisor()
    for minutes in (1, 30, 59, 61):
        supervisor(lost_at=Now() - timedelta(minutes=minutes))
    supervisor(stopped_at=Now())  # it has said goodbye
    assert supervisors() == (1, 2, 3)
    assert supervisors("any") == (1, 0, 0)


def test_a_supervisor_that_was_taken_for_dead_and_lives_is_lost_no_more(supervisor):
    supervisor(has_session=True, lost_at=Now())
    assert supervisors() == (0, 0, 1)
    RayWorker.objects.update(lost_at=None)
    assert supervisors() == (1, 0, 0)


def test_counting_supervisors_reads_no_rows_of_those_that_have_ended(supervisor):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_ray_worker"
            " (hostname, pid, backend, queues, concurrency, ray_address, version, stopped_at, lost_at)"
            " SELECT 'h', 1, 'default', '[]', 1, '', '0', now() - interval '2 hours', now() - interval '3 hours'"
            " FROM generate_series(1, 3000)"
        )
    supervisor()
    supervisor(lost_at=Now())
    assert supervisors() == (0, 1, 1)
    with planned_by_index(connection.alias), connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, TIMING OFF) " + django_ray.status._PRESENCE)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan" not in plan
    assert "rows=3000" not in plan
    assert "Rows Removed" not in plan


def test_figures_of_each_task_of_the_last_hour():
    now = timezone.now()
    for seconds in range(1, 101):
        RayTaskExecution.objects.create(
            callable_path='shop."mail"', state="FAILED" if seconds % 4 == 0 else "SUCCESSFUL", finished_at=now,
            last_attempted_at=now - timedelta(seconds=seconds), started_at=now, worker_ids=["7", "7"],
        )  # fmt: skip
    for number in range(django_ray.views.MOST_MEASURED_TASKS + 20):
        RayTaskExecution.objects.create(callable_path=f"shop.rare_{number}", state="SUCCESSFUL", finished_at=now)
    page = django_ray.views.task_metrics(RequestFactory().get("/metrics/tasks/figures")).content.decode()
    labels = r'{database="default",task="shop.\"mail\""}'
    for line in (
        f"django_ray_task_ended{labels} 100",
        f"django_ray_task_failed{labels} 25",
        f"django_ray_task_retried{labels} 100",
        f"django_ray_task_run_p50_seconds{labels} 50.5",
    ):
        assert line in page.splitlines()
    assert page.count("\ndjango_ray_task_ended{") == django_ray.views.MOST_MEASURED_TASKS
