"""The admin's permissions, its filters, and what it costs with a full table."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_ray.admin import ExecutionAdmin
from django_ray.admin.filters import ExecutionFilter
from django_ray.models import RayQueue, RayTaskExecution, RayWorker, State
from django_ray.situation import SITUATIONS
from tests import tasks
from tests.reading import check_read

pytestmark = pytest.mark.django_db

LISTS = [reverse(f"admin:django_ray_{name}_changelist") for name in ("raytaskexecution", "rayqueue", "rayworker")]


@pytest.fixture
def row():
    result = tasks.add.enqueue(1, 2)
    return RayTaskExecution.objects.get(pk=result.id)


def user_client(client, *permissions, is_staff=True):
    user = User.objects.create_user(f"user-{uuid4()}", is_staff=is_staff)
    for codename in permissions:
        user.user_permissions.add(Permission.objects.get(codename=codename, content_type__app_label="django_ray"))
    client.force_login(user)
    return client


def pages(row):
    return [
        *LISTS,
        reverse("admin:django_ray_raytaskexecution_change", args=[row.pk]),
        reverse("admin:django_ray_live"),
        reverse("admin:django_ray_stream"),
        reverse("admin:django_ray_tasks"),
        reverse("admin:django_ray_history") + "?name=default&backend=default",
        *(reverse(f"admin:django_ray_raytaskexecution_{page}", args=[row.pk]) for page in ("live", "stream", "now")),
    ]


def deeds(row):
    """Every request that does something, with its data."""
    listing = LISTS[0]
    selected = {"_selected_action": str(row.pk), "index": 0}
    return [
        *[
            (reverse("admin:django_ray_raytaskexecution_do", args=[row.pk]), {"verb": verb})
            for verb in ("retry", "cancel", "enqueue_again")
        ],
        *[(listing, {**selected, "action": action}) for action in ("retry", "cancel", "enqueue_again")],
        (listing, {**selected, "action": "delete_selected", "post": "yes"}),
        (reverse("admin:django_ray_raytaskexecution_delete", args=[row.pk]), {"post": "yes"}),
        (reverse("admin:django_ray_pause"), {"verb": "pause", "name": "default", "backend": "default"}),
        (
            reverse("admin:django_ray_raytaskexecution_edit", args=[row.pk]),
            {"args": "[1, 2]", "kwargs": "{}", "queue_name": "default", "priority": "0"},
        ),
        (reverse("admin:django_ray_explain"), {"name": "default", "backend": "default", "because": "I say so"}),
    ]


def snapshot():
    return (
        list(RayTaskExecution.objects.order_by("pk").values_list("pk", "state", "cancel_requested_at")),
        list(RayQueue.objects.values_list("name", "paused_at", "paused_because")),
    )


def test_who_may_nothing_sees_nothing(client, row):
    user_client(client)
    assert [client.get(page).status_code for page in pages(row)] == [403] * len(pages(row))


@pytest.mark.parametrize("is_staff", [False, None])
def test_who_is_not_staff_is_asked_to_log_in(client, row, is_staff):
    if is_staff is not None:
        user_client(client, "view_raytaskexecution", "view_rayqueue", "view_rayworker", is_staff=False)
    for page in pages(row):
        answer = client.get(page)
        assert (answer.status_code, answer["Location"].split("?")[0]) == (302, "/admin/login/")


@pytest.mark.parametrize("permissions", [(), ("view_raytaskexecution", "view_rayqueue", "view_rayworker")])
def test_who_may_only_look_changes_nothing(client, row, permissions):
    user_client(client, *permissions)
    before = snapshot()
    for address, data in deeds(row):
        answer = client.post(address, data)
        assert answer.status_code in {200, 302, 403} if permissions else answer.status_code == 403, address
        assert snapshot() == before, address


def test_who_may_only_look_is_offered_nothing_to_do(client, row):
    user_client(client, "view_raytaskexecution", "view_rayqueue")
    for page in pages(row)[:2] + pages(row)[3:5]:
        if page in {LISTS[0], LISTS[1]} or "change" in page or "live" in page:
            text = client.get(page).content.decode()
            for button in ("Retry", "Pause", "Enqueue again", "Delete"):
                assert f">{button}<" not in text


def test_the_live_page_shows_what_one_may_see(client, row):
    user_client(client, "view_rayqueue")
    text = client.get(reverse("admin:django_ray_live")).content.decode()
    assert "Queues" in text
    assert "Recent failures" not in text
    assert "Supervisors" not in text


def test_nothing_is_done_by_a_get(admin_client, row):
    before = snapshot()
    for address, _ in deeds(row):
        if "delete" not in address and address not in LISTS:
            has_form = "/edit/" in address or "/explain/" in address
            assert admin_client.get(address).status_code in ({200, 404} if has_form else {405})
    assert admin_client.post(reverse("admin:django_ray_raytaskexecution_change", args=[row.pk]), {}).status_code == 403
    assert snapshot() == before


def test_pausing_needs_a_name_and_an_unknown_verb_does_nothing(admin_client, row):
    assert admin_client.post(reverse("admin:django_ray_pause"), {"verb": "pause"}).status_code == 404
    do = reverse("admin:django_ray_raytaskexecution_do", args=[row.pk])
    assert admin_client.post(do, {"verb": "explode"}).status_code == 404
    for unknown in (uuid4(), "nonsense"):
        page = f"/admin/django_ray/raytaskexecution/{unknown}/change/"
        assert admin_client.get(page).status_code == 404


def test_an_id_and_part_of_a_path_are_found(admin_client, row):
    tasks.fail.enqueue("x")
    found = lambda **query: admin_client.get(LISTS[0], query).context["cl"].result_count  # noqa: E731
    assert found(q=str(row.pk)) == 1
    assert found(q=str(uuid4())) == 0
    assert found(q="tasks.FAIL") == 1
    assert found(q="' OR 1=1 --") == 0
    assert found() == 2


def test_filters(admin_client, row):
    RayTaskExecution.objects.filter(pk=row.pk).update(state=State.CANCELLED, finished_at=timezone.now())
    tasks.add.using(queue_name="other").enqueue(1, 2)
    found = lambda **query: admin_client.get(LISTS[0], query).context["cl"].result_count  # noqa: E731
    assert (found(state="CANCELLED"), found(state="READY"), found(state="FAILED")) == (1, 1, 0)
    assert (found(queue_name="other"), found(queue_name="nowhere")) == (1, 0)
    assert (found(callable_path="tests.tasks.add"), found(exception_type="x.Y"), found(within="1")) == (2, 0, 2)


@pytest.fixture
def four(monkeypatch):
    """Four executions, of which the list looks at two when no index serves what is asked."""
    monkeypatch.setattr("django_ray.admin.filters.NEWEST", 2)
    for number in range(4):
        tasks.add.enqueue(number, 0)
    return RayTaskExecution.objects.order_by("pk")


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 4),
        ("p=1&o=2", 4),
        ("state=READY", 4),
        ("state=READY&queue_name=default&q=add", 4),
        ("within=1", 4),
        ("queue_name=default", 2),
        ("within=1&callable_path=tests.tasks.add", 2),
        ("q=tasks.ADD", 2),
        ("priority=0", 2),
        ("priority__gte=0&within=1", 2),
    ],
)
def test_what_no_index_serves_looks_at_the_newest(admin_client, four, query, number):
    shown = list(admin_client.get(f"{LISTS[0]}?{query}").context["cl"].queryset)
    assert shown == list(four)[: -number - 1 : -1]


@pytest.mark.parametrize(("state", "number"), [("SUCCESSFUL", 2), ("CANCELLED", 2), ("FAILED", 4)])
def test_states_that_have_no_index_look_at_the_newest(admin_client, four, state, number):
    four.update(state=state, finished_at=timezone.now())
    assert admin_client.get(LISTS[0], {"state": state}).context["cl"].result_count == number


def test_an_id_is_found_however_old_it_is(admin_client, four):
    oldest = str(four.first().pk)
    assert admin_client.get(LISTS[0], {"q": oldest, "queue_name": "default"}).context["cl"].result_count == 1


class Unknown:
    """A filter whose author has not thought of indexes."""

    title = "priority"
    parameter_name = "is_usual"

    def lookups(self, request, model_admin):
        return [("yes", "usual")]

    def queryset(self, request, queryset):
        return queryset.filter(priority=0) if self.value() else queryset


class OfDjango(Unknown, admin.SimpleListFilter):
    pass


class OfOurs(Unknown, ExecutionFilter):
    pass


@pytest.mark.parametrize(
    ("added", "query"), [(OfDjango, "is_usual=yes"), (OfOurs, "is_usual=yes"), ("priority", "priority=0")]
)
def test_a_filter_that_says_nothing_of_an_index_looks_at_the_newest(admin_client, four, monkeypatch, added, query):
    monkeypatch.setattr(ExecutionAdmin, "list_filter", (*ExecutionAdmin.list_filter, added))
    page = admin_client.get(f"{LISTS[0]}?{query}").context["cl"]
    assert page.has_active_filters
    assert page.result_count == 2


def test_retry_of_many_keeps_the_errors_and_gives_all_attempts_back():
    error = {
        "attempt": 1,
        "worker_id": "1",
        "exception_class_path": "x.Y",
        "message": "",
        "traceback": "",
        "at": "2026-01-01",
    }
    rows = [
        RayTaskExecution(
            callable_path="x.y", state=state, finished_at=timezone.now(), failures=3, losses=1, errors=[error]
        )
        for state in (State.FAILED, State.CANCELLED)
    ]
    RayTaskExecution.objects.bulk_create(rows)
    RayTaskExecution.objects.create(callable_path="x.y", state=State.SUCCESSFUL, finished_at=timezone.now())
    assert RayTaskExecution.objects.retry() == 2
    again = RayTaskExecution.objects.filter(state=State.READY)
    assert set(again.values_list("failures", "losses", "finished_at")) == {(0, 0, None)}
    assert all(row.errors == [error] for row in again)


def test_prune_takes_the_oldest_finished_ones_alone():
    now = timezone.now()
    for days in (3, 2, 1):
        RayTaskExecution.objects.create(
            callable_path="x.y", state=State.SUCCESSFUL, finished_at=now - timedelta(days=days)
        )
    tasks.add.enqueue(1, 2)
    old = RayTaskExecution.objects.filter(finished_at__lt=now - timedelta(hours=36))
    assert (old.prune(1), old.prune(5), old.prune()) == (1, 1, 0)
    assert RayTaskExecution.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("count_rows", ["fresh"], indirect=True)
def test_no_page_costs_more_beside_a_full_table(admin_client, connect, count_rows):
    """The number of statements stays, and what each of them reads of the table has a bound."""
    counts = []
    for rows in (200, 200_000):
        fill(connect(), rows)
        count_rows()
        failed = RayTaskExecution.objects.filter(state=State.FAILED).order_by("pk").first()
        page = reverse("admin:django_ray_raytaskexecution_change", args=[failed.pk])
        queries = ("state=FAILED", "state=RUNNING", "within=1", f"q={failed.pk}")
        addresses = [*LISTS, reverse("admin:django_ray_live"), page, *(f"{LISTS[0]}?{query}" for query in queries)]
        counts.append([look(admin_client, address) for address in addresses])
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 19


SEARCHES = ("args:nowhere", "error:nowhere", "meta:nowhere", "task:nowhere", "args:1%20error:m%20queue:default")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("count_rows", ["fresh"], indirect=True)
def test_no_filter_and_no_search_reads_the_whole_table(admin_client, connect, count_rows):
    """Those that no index serves look at the newest 100,000 executions, and into the newest 20,000."""
    looked = [
        *(f"{LISTS[0]}?state={state}" for state in (*(one.name for one in SITUATIONS), "SUCCESSFUL", "CANCELLED")),
        *(f"{LISTS[0]}?q={search}" for search in SEARCHES),
        *(f"{reverse('admin:django_ray_tasks')}?hours={hours}" for hours in (1, 24, 168)),
    ]
    counts = []
    for rows in (200, 200_000):
        fill(connect(), rows)
        count_rows()
        counts.append([look(admin_client, address, 125_000) for address in looked])
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 25


def look(client, address, most=12_000):
    """Return how many statements a page takes, each of which reads few rows."""
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    check_read(queries, most)
    return len(queries)


def fill(session, rows):
    """Nine in ten finished, a few failed, the rest scheduled; some running."""
    worker = RayWorker.objects.create(
        hostname="h", pid=1, backend="default", queues=["default"], concurrency=4, ray_address="", version="0", pulse=0
    )
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    error = json.dumps(
        [
            {
                "exception_class_path": "x.Y",
                "message": "m",
                "traceback": "t",
                "attempt": 1,
                "worker_id": "1",
                "at": "2026-01-01T00:00:00+00:00",
            }
        ]
    )
    insert = "INSERT INTO django_ray_execution (callable_path, state, finished_at, due_at, claimed_by_id, errors)"
    values = "FROM generate_series(1, %s)"
    session.execute(f"{insert} SELECT 'x.y', 'SUCCESSFUL', now(), NULL, NULL, '[]' {values}", [rows * 9 // 10])
    session.execute(f"{insert} SELECT 'x.y', 'FAILED', now(), NULL, NULL, %s {values}", [error, 10 + rows // 1000])
    session.execute(
        f"{insert} SELECT 'x.y', 'READY', NULL, now() + interval '1 day', NULL, '[]' {values}", [rows // 10]
    )
    session.execute(f"{insert} SELECT 'x.y', 'RUNNING', NULL, NULL, %s, '[]' {values}", [worker.pk, 4])
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
