"""Flows for operators: the list, the page, its graph, the numbers; who may see and do what, and what it costs."""

import io
import json
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.tasks import default_task_backend
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

import django_ray.views
from django_ray import Flow, census
from django_ray.admin import flow_page
from django_ray.admin.filters import NEWEST_FLOWS
from django_ray.models import RayEdge, RayFlow, RayTaskExecution
from django_ray.status import status
from django_ray.testing import run_tasks
from tests.reading import check_read
from tests.tasks import add, double, fail, fan_out, look_back, total
from tests.test_admin import fill, look, user_client

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:django_ray_rayflow_changelist")
EXECUTIONS = reverse("admin:django_ray_raytaskexecution_changelist")
LIVE = reverse("admin:django_ray_live")
EVIL = "<script>window.owned=1</script>"


def page_of(flow):
    return reverse("admin:django_ray_rayflow_change", args=[flow.id])


def do(flow):
    return reverse("admin:django_ray_rayflow_do", args=[flow.id])


def pages(flow):
    return [
        LIST,
        page_of(flow),
        reverse("admin:django_ray_rayflow_live", args=[flow.id]),
        reverse("admin:django_ray_rayflow_stream", args=[flow.id]),
    ]


def deeds(flow):
    selected = {"_selected_action": flow.id, "index": 0}
    return [
        *[(do(flow), {"verb": verb}) for verb in ("retry", "cancel")],
        *[(LIST, {**selected, "action": verb}) for verb in ("retry", "cancel", "delete_selected")],
        (page_of(flow), {"name": "x"}),
        (reverse("admin:django_ray_rayflow_delete", args=[flow.id]), {"post": "yes"}),
    ]


def snapshot():
    return (
        list(RayFlow.objects.order_by("pk").values()),
        list(RayTaskExecution.objects.order_by("pk").values_list("pk", "state", "cancel_requested_at")),
    )


@pytest.fixture
def flow():
    with Flow("import 42") as flow:
        pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(3)])
        total.enqueue(pages)
        fail.enqueue("no")
    return flow


# Who may see and do what.


@pytest.mark.parametrize("permissions", [(), ("view_raytaskexecution", "change_raytaskexecution", "view_rayqueue")])
def test_without_a_permission_nothing_is_seen_or_done(client, flow, permissions):
    user_client(client, *permissions)
    before = snapshot()
    assert [client.get(page).status_code for page in pages(flow)] == [403] * 4
    for address, data in deeds(flow):
        assert client.post(address, data).status_code == 403, address
    assert snapshot() == before


def test_who_is_not_staff_is_asked_to_log_in(client, flow):
    user_client(client, "view_rayflow", is_staff=False)
    for page in pages(flow):
        assert client.get(page)["Location"].startswith("/admin/login/")


def test_who_may_only_look_is_offered_nothing_and_does_nothing(client, flow):
    user_client(client, "view_rayflow", "view_raytaskexecution")
    before = snapshot()
    for page in pages(flow)[:3]:
        text = client.get(page).text
        assert 'name="verb"' not in text
        assert 'value="cancel"' not in text
    for address, data in deeds(flow):
        assert client.post(address, data).status_code in {200, 302, 403}, address
        assert snapshot() == before, address


def test_who_may_not_see_executions_sees_how_many_there_are(client, flow):
    user_client(client, "view_rayflow")
    for page in pages(flow)[1:3]:
        text = client.get(page).text
        assert "import 42" in client.get(LIST).text
        assert "of 5 have ended" in text
        for word in ("tests.tasks", "dr-box", "raytaskexecution/"):
            assert word not in text


def test_who_may_not_see_flows_sees_no_names_of_them(client, flow):
    user_client(client, "view_raytaskexecution", "view_rayqueue")
    execution = flow.executions.first()
    for page in (
        EXECUTIONS, f"{EXECUTIONS}?flow={flow.id}", LIVE,
        reverse("admin:django_ray_raytaskexecution_change", args=[execution.pk]),
    ):  # fmt: skip
        text = client.get(page).text
        assert "import 42" not in text
        assert "/rayflow/" not in text


def test_who_may_change_flows_cancels_and_retries(client, flow):
    user_client(client, "view_rayflow", "change_rayflow")
    answer = client.post(do(flow), {"verb": "cancel"}, follow=True)
    assert "5 executions cancelled." in answer.text
    assert flow.progress().cancelled == 5
    assert "5 executions will be tried again." in client.post(do(flow), {"verb": "retry"}, follow=True).text
    assert flow.progress().cancelled == 0
    assert "none has failed" in client.post(do(flow), {"verb": "retry"}, follow=True).text
    assert "5 executions cancelled." in client.post(LIST, deeds(flow)[3][1], follow=True).text
    assert "all have ended" in client.post(do(flow), {"verb": "cancel"}, follow=True).text


def test_nothing_is_done_by_a_get_or_by_a_word_that_is_none(admin_client, flow):
    before = snapshot()
    assert admin_client.get(do(flow)).status_code == 405
    assert admin_client.post(do(flow), {"verb": "explode"}).status_code == 404
    assert admin_client.post(page_of(flow), {"verb": "cancel"}).status_code == 403
    assert admin_client.get(reverse("admin:django_ray_rayflow_delete", args=[flow.id])).status_code == 403
    for unknown in (uuid4(), "nonsense"):
        assert admin_client.get(f"{LIST}{unknown}/change/").status_code == 404
    for what in ("live", "stream"):
        assert admin_client.get(f"{LIST}{uuid4()}/{what}/").status_code == 404
    assert admin_client.post(f"{LIST}{uuid4()}/do/", {"verb": "cancel"}).status_code == 404
    assert snapshot() == before


def test_a_post_without_a_token_is_refused(flow, admin_user):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(do(flow), {"verb": "cancel"}).status_code == 403
    assert flow.progress().unfinished == 5


def test_an_action_takes_no_more_than_it_says(admin_client, flow, monkeypatch):
    monkeypatch.setattr("django_ray.admin.flows._MOST_AT_ONCE", 1)
    with Flow("other"):
        add.enqueue(1, 2)
    data = {"action": "cancel", "select_across": "1", "index": 0, "_selected_action": flow.id}
    assert "choose fewer" in admin_client.post(LIST, data, follow=True).text
    assert flow.progress().unfinished == 5


def test_what_somebody_has_locked_is_told(admin_client, flow, connect, monkeypatch):
    monkeypatch.setattr("django_ray.locking.LOCK_SECONDS", 0.2)
    session = connect(autocommit=False)
    session.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [flow.executions.first().pk])
    assert "another transaction has locked them" in admin_client.post(do(flow), {"verb": "cancel"}, follow=True).text


# What is shown.


def test_the_list_says_how_far_each_is(admin_client, flow):
    run_tasks()
    with Flow("second"):
        add.enqueue(1, 2)
    with Flow() as unnamed:
        pass
    text = admin_client.get(LIST).text
    assert "5 of 5" in text
    assert "0 of 1" in text
    assert unnamed.id in text
    assert ">Failed<" in text
    assert ">Waiting<" in text
    assert ">Empty<" in text


def test_the_list_counts_up_to_a_number(admin_client, flow, monkeypatch):
    monkeypatch.setattr(census, "MOST_IN_LISTS", 2)
    assert "0 of 3+" in admin_client.get(LIST).text


def test_names_ids_and_what_a_flow_holds_are_found(admin_client, flow):
    with Flow("nightly") as other:
        add.enqueue(1, 2)
    other.cancel()
    found = lambda **query: [row.name for row in admin_client.get(LIST, query).context["cl"].result_list]  # noqa: E731
    assert found() == ["nightly", "import 42"]
    assert found(q="IMPORT") == ["import 42"]
    assert found(q=other.id) == ["nightly"]
    assert found(q="' OR 1=1 --") == []
    assert found(holds="unfinished") == ["import 42"]
    assert found(holds="failed") == []
    assert found(holds="cancelled") == ["nightly"]
    assert found(within="1", holds="unfinished", q="import") == ["import 42"]
    assert found(holds="nonsense") == ["nightly", "import 42"]
    run_tasks()
    assert found(holds="failed") == ["import 42"]
    assert found(holds="unfinished") == []


def test_what_no_index_serves_looks_at_the_newest(admin_client, monkeypatch):
    monkeypatch.setattr("django_ray.admin.flows.NEWEST_FLOWS", 2)
    for name in "abcd":
        RayFlow.objects.create(name=name)
    found = lambda query: [row.name for row in admin_client.get(f"{LIST}?{query}").context["cl"].result_list]  # noqa: E731
    assert found("") == ["d", "c", "b", "a"]
    assert found("within=1") == ["d", "c", "b", "a"]
    assert found("holds=cancelled") == []
    assert found("q=a") == []
    assert found("q=c") == ["c"]
    assert found("name=a") == []


def boxes(text):
    return text.count('class="dr-box ')


def test_the_graph_has_a_box_for_each_and_lines_between(admin_client, flow):
    text = admin_client.get(page_of(flow)).text
    assert boxes(text) == 5
    assert text.count("dr-line-unmet") == 3
    for execution in flow.executions:
        assert f'href="{reverse("admin:django_ray_raytaskexecution_change", args=[execution.pk])}"' in text
    run_tasks()
    text = admin_client.get(page_of(flow)).text
    assert text.count("dr-line-met") == 3
    assert "dr-of-failed" in text


def test_what_waits_for_others_outside_shows_these(admin_client):
    outside = add.enqueue(1, 2)
    with Flow("inside") as flow:
        add.using(after=outside).enqueue(1, 2)
    text = admin_client.get(page_of(flow)).text
    assert boxes(text) == 2
    assert "dr-outside" in text
    assert "not of this flow" in text


def test_what_a_body_has_enqueued_hangs_on_it(admin_client):
    with Flow("grows") as flow:
        fan_out.enqueue([1, 2])
    run_tasks()
    text = admin_client.get(page_of(flow)).text
    assert (boxes(text), text.count("dr-line-parent")) == (3, 2)
    assert "fan_out has enqueued double" in text


def test_alike_ones_are_one_stack_that_leads_to_all_of_them(admin_client):
    with Flow("wide") as flow:
        pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(30)])
        total.enqueue(pages)
    text = admin_client.get(page_of(flow)).text
    assert boxes(text) == 2
    link = f"{EXECUTIONS}?flow={flow.id}&amp;callable_path=tests.tasks.double"
    assert f'href="{link}"' in text
    assert admin_client.get(link.replace("&amp;", "&")).context["cl"].result_count == 30
    assert "total waits for double: 0 of 30 are over" in text


def test_of_more_than_two_hundred_the_table_shows_those_first_that_matter(admin_client, connect):
    with Flow("many") as flow:
        pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(300)])
        total.enqueue(pages)
    ids = [page.id for page in pages]
    RayTaskExecution.objects.filter(pk__in=ids[:250]).update(state="SUCCESSFUL", finished_at=timezone.now())
    RayTaskExecution.objects.filter(pk=ids[299]).update(state="FAILED", finished_at=timezone.now())
    shown = admin_client.get(page_of(flow)).context
    assert [row.state for row in shown["members"]][:3] == ["FAILED", "FAILED", "READY"]
    assert (len(shown["members"]), shown["left"]) == (50, 251)
    assert "All 301 executions of the flow" in admin_client.get(page_of(flow)).text
    assert len(shown["picture"].boxes) == 2


def test_what_nobody_could_read_is_not_drawn(admin_client, flow, monkeypatch):
    for name, number, message in (
        ("MOST_READ", 4, "up to 4 executions"), ("MOST_EDGES", 2, "more than 2 times"), ("MOST_BOXES", 4, "5 boxes"),
        ("MOST_LINES", 2, "3 lines"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(flow_page, name, number)
            text = admin_client.get(page_of(flow)).text
            assert (message in text, boxes(text)) == (True, 0)
            assert "tests.tasks.double" in text


def test_an_empty_flow_and_one_that_is_gone(admin_client, rf, admin_user):
    with Flow("empty") as flow:
        pass
    assert "There are no executions" in admin_client.get(page_of(flow)).text
    RayFlow.objects.all().delete()
    assert admin_client.get(page_of(flow)).status_code == 404


def test_rows_of_a_stranger_do_no_harm(admin_client, connect):
    """Circles, parents that are none, paths without end: whoever may write SQL may have put anything there."""
    with Flow(EVIL) as flow:
        first = add.enqueue(1, 2)
        second = add.using(after=first).enqueue(1, 2)
    session = connect()
    session.execute("SET session_replication_role = replica")
    session.execute(
        "INSERT INTO django_ray_edge (upstream_id, downstream_id, place, met) VALUES (%s, %s, 1, false),"
        " (%s, %s, 7, false), (%s, %s, 8, true)",
        [second.id, first.id, first.id, first.id, uuid4(), second.id],
    )
    session.execute(
        "UPDATE django_ray_execution SET needs = 'success', callable_path = %s,"
        " carrier = jsonb_build_object('flow', jsonb_build_object('id', 7, 'parent', %s::text))",
        [f"{EVIL}.{'x' * 100_000}{EVIL}", EVIL],
    )
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, flow_id, carrier) VALUES ('', %s, '[]')", [flow.id]
    )
    execution = reverse("admin:django_ray_raytaskexecution_change", args=[first.id])
    for page in (LIST, *pages(flow)[1:3], f"{LIST}?q={EVIL}", f"{EXECUTIONS}?flow={flow.id}", execution):
        answer = admin_client.get(page)
        assert answer.status_code == 200
        assert "window.owned=1</script>" not in answer.text.replace("&lt;/script&gt;", ""), page
    assert boxes(admin_client.get(page_of(flow)).text) == 3


# The page of an execution, and the list.


def test_an_execution_leads_to_its_flow_and_to_its_neighbours(admin_client, flow):
    run_tasks()
    merged = flow.executions.get(callable_path="tests.tasks.total")
    text = admin_client.get(reverse("admin:django_ray_raytaskexecution_change", args=[merged.pk])).text
    assert f'<a href="{page_of(flow)}">import 42</a>' in text
    assert text.count("tests.tasks.double") == 3
    assert "What waits for it" not in text
    page = flow.executions.filter(callable_path="tests.tasks.double").first()
    text = admin_client.get(reverse("admin:django_ray_raytaskexecution_change", args=[page.pk])).text
    assert "What waits for it" in text
    assert "tests.tasks.total" in text


def test_of_very_many_neighbours_few_are_shown(admin_client):
    pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(50)])
    merged = look_back.using(after=pages, needs="end").enqueue()
    RayTaskExecution.objects.filter(pk=pages[0].id).delete()
    text = admin_client.get(reverse("admin:django_ray_raytaskexecution_change", args=[merged.id])).text
    assert "Waits for the end of" in text
    assert text.count(">tests.tasks.double<") == flow_page.MOST_NEIGHBOURS - 1
    assert ">Gone<" in text
    assert "and more" in text


def test_executions_are_filtered_by_flow(admin_client, flow):
    add.enqueue(1, 2)
    found = lambda **query: admin_client.get(EXECUTIONS, query).context["cl"].result_count  # noqa: E731
    assert (found(), found(flow=flow.id), found(flow=uuid4()), found(flow="nonsense")) == (6, 5, 0, 0)
    assert found(flow=flow.id, state="WAITING") == 1
    assert admin_client.get(EXECUTIONS).text.count(">Waits for others</span>") == 1
    assert ">import 42</a>" in admin_client.get(EXECUTIONS).text


# What it costs.


def statements(client, address):
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    return len(queries)


@pytest.mark.parametrize("count_rows", ["fresh"], indirect=True)
def test_no_page_costs_more_beside_a_full_table(admin_client, connect, count_rows):
    """The number of statements stays, and what each of them reads of the table has a bound."""
    counts = []
    for rows in (200, 300_000):
        session = connect()
        fill(session, rows)
        session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
        session.execute(
            "INSERT INTO django_ray_flow (name) SELECT 'flow ' || number FROM generate_series(1, %s) AS number",
            [60 + rows // 10],
        )
        session.execute(
            "WITH flow AS (SELECT id FROM django_ray_flow ORDER BY random() LIMIT %s)"
            " INSERT INTO django_ray_execution (callable_path, state, finished_at, flow_id, carrier)"
            " SELECT 'x.y', 'SUCCESSFUL', now(), id, '{}' FROM flow, generate_series(1, 5)",
            [rows // 5],
        )
        session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
        count_rows()
        with Flow("the one") as flow:
            pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(40)])
            merged = total.enqueue(pages)
        execution = reverse("admin:django_ray_raytaskexecution_change", args=[merged.id])
        addresses = [
            LIST, f"{LIST}?q=flow", f"{LIST}?q=nobody", f"{LIST}?holds=unfinished", f"{LIST}?holds=failed",
            f"{LIST}?holds=cancelled", f"{LIST}?within=1", f"{LIST}?q={flow.id}", page_of(flow), pages_live(flow),
            f"{EXECUTIONS}?flow={flow.id}", f"{EXECUTIONS}?flow={flow.id}&state=WAITING",
            f"{EXECUTIONS}?flow={flow.id}&callable_path=tests.tasks.double", execution,
        ]  # fmt: skip
        counts.append([look(admin_client, address) for address in addresses])
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 20


def pages_live(flow):
    return reverse("admin:django_ray_rayflow_live", args=[flow.id])


@pytest.mark.parametrize("count_rows", ["fresh"], indirect=True)
def test_a_flow_with_very_many_executions_is_looked_at_up_to_a_number(admin_client, connect, count_rows):
    with Flow("huge") as flow:
        pass
    session = connect()
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, state, finished_at, flow_id, carrier)"
        " SELECT 'x.y', 'SUCCESSFUL', now(), %s, '{}' FROM generate_series(1, 50000)",
        [flow.id],
    )
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
    count_rows()
    assert "up to 5,000 executions" in admin_client.get(page_of(flow)).text
    for address in (LIST, f"{LIST}?holds=failed", page_of(flow)):
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(address).status_code == 200
        check_read(queries, 12_000)
    assert len(admin_client.get(page_of(flow)).context["members"]) == flow_page.FEW


def test_more_executions_are_no_more_statements(admin_client):
    numbers = []
    for many in (3, 150):
        with Flow("one") as flow:
            total.enqueue(default_task_backend.enqueue_many([(double, [number], {}) for number in range(many)]))
        numbers.append(statements(admin_client, page_of(flow)))
    assert numbers[0] == numbers[1]


def test_the_filters_say_how_many_flows_they_look_at(admin_client):
    assert f"{NEWEST_FLOWS:,} flows" in admin_client.get(LIST).text


# Numbers.


def scrape():
    page = django_ray.views.metrics(RequestFactory().get("/")).text
    return dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))


def test_what_is_held_is_told_apart_from_what_is_behind_gates(admin_client):
    first = add.enqueue(1, 2)
    for number in range(3):
        add.enqueue(first, number)
    add.using(limit=1, gate="g").enqueue(1, 2)
    (queue,) = [queue for queue in status().queues if (queue.backend, queue.name) == ("default", "default")]
    assert (queue.blocked, queue.gated, queue.held) == (4, 1, 3)
    numbers = scrape()
    assert numbers['django_ray_queue_held{backend="default",queue="default"}'] == "3"
    assert numbers['django_ray_flows_late{backend="default"}'] == "0"
    assert f'<a href="{LIST}?holds=unfinished">3 wait for others</a>' in admin_client.get(LIVE).text
    output = io.StringIO()
    call_command("django_ray_status", "--json", stdout=output)
    (queue,) = [
        one
        for one in json.loads(output.getvalue())["queues"]
        if (one["backend"], one["name"]) == ("default", "default")
    ]
    assert queue["held"] == 3
    output = io.StringIO()
    call_command("django_ray_status", stdout=output)
    assert "held" in output.getvalue()


def test_who_may_not_see_flows_is_told_how_many_wait_without_a_link(client):
    add.enqueue(add.enqueue(1, 2), 1)
    user_client(client, "view_rayqueue")
    text = client.get(LIVE).text
    assert "1 wait for others" in text
    assert LIST not in text


def test_what_is_late_is_counted(connect):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    session = connect(autocommit=False)
    session.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [second.id])
    first.cancel()
    assert RayEdge.objects.get().is_late
    assert scrape()['django_ray_flows_late{backend="default"}'] == "1"


def test_a_flow_of_a_backend_that_is_not_in_tasks_is_shown(admin_client):
    row = RayFlow.objects.create(name="old", backend="elsewhere")
    for page in (LIST, reverse("admin:django_ray_rayflow_change", args=[row.pk])):
        assert "elsewhere" in admin_client.get(page).text
    assert (
        admin_client.post(reverse("admin:django_ray_rayflow_do", args=[row.pk]), {"verb": "retry"}).status_code == 302
    )
