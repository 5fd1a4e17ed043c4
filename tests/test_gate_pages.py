"""Gates for operators: how they stand, by page, command and number; overrides, and who may see and set them."""

import io
import json

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

import django_ray.views
from django_ray import standing
from django_ray.models import RayGate, RayTaskExecution, RayWorker
from django_ray.status import gates, status
from tests.reading import check_read
from tests.test_admin import user_client

pytestmark = pytest.mark.django_db(transaction=True)

LIST, ADD = reverse("admin:django_ray_raygate_changelist"), reverse("admin:django_ray_raygate_add")
EVIL = "<script>window.owned=1</script>"


@pytest.fixture
def behind(connect):
    """Insert executions behind a gate."""
    session = connect()

    def _behind(name, number=1, **columns):
        names = {"callable_path": "x.y", "gate": name, "gate_rule": '{"limit": 5}', **columns}
        session.execute(
            f"INSERT INTO django_ray_execution ({', '.join(names)}) SELECT {', '.join(['%s'] * len(names))}"
            f" FROM generate_series(1, {number})",
            list(names.values()),
        )

    return _behind


@pytest.fixture
def worker():
    return RayWorker.objects.create(
        hostname="h", pid=1, backend="default", queues=["default"], concurrency=9, ray_address="", version="0", pulse=0
    )


def run(*arguments):
    output = io.StringIO()
    call_command("django_ray_gates", *map(str, arguments), stdout=output)
    return output.getvalue()


def change(row):
    return reverse("admin:django_ray_raygate_change", args=[row.pk])


# How they stand.


def test_where_most_waits_comes_first_and_idle_overrides_last(behind, worker):
    behind("shop:1", 2)
    behind("shop:2", 3)
    behind("shop:2", 1, priority=5, queue_name="other")
    behind("shop:2", 4, state="RUNNING", claimed_by_id=worker.pk)
    RayGate.objects.create(name="shop:*", limit=7)
    RayGate.objects.create(name="mail", rate_count=100, rate_per=60, rate_burst=9)
    RayGate.objects.create(name="quiet")  # says nothing
    found = [(one.name, one.waiting, one.running, one.limit, one.override and one.override.name) for one in gates()[0]]
    assert found == [
        ("shop:2", 4, 4, 7, "shop:*"), ("shop:1", 2, 0, 7, "shop:*"), ("mail", 0, 0, None, "mail"),
        ("shop:*", 0, 0, 7, "shop:*"),
    ]  # fmt: skip
    assert [one.oldest is not None for one in gates()[0]] == [True, True, False, False]
    assert [one.name for one in gates("shop:1")[0]] == ["shop:1"]
    assert [one.name for one in gates("m")[0]] == ["mail"]
    assert gates(backends=["any"])[0] == []


def test_the_oldest_is_that_of_any_priority_and_queue(behind, connect):
    behind("g", priority=3, enqueued_at="2026-01-03")
    behind("g", queue_name="other", enqueued_at="2026-01-01")
    behind("g", queue_name="zebra", priority=9, enqueued_at="2026-01-02")
    days = "SELECT extract(epoch FROM now() - '2026-01-01') AS seconds"
    (gate,) = gates()[0]
    # Ids are in the order of the inserts.
    expected = connect().execute(days.replace("01-01", "01-03")).fetchone()["seconds"]
    assert abs(gate.oldest - float(expected)) < 60
    assert (gate.waiting, gate.limit) == (3, 5)


def test_a_rate_shows_when_the_next_start_is_due(behind, connect):
    behind("g", gate_rule='{"count": 6, "per": 3600}')
    RayGate.objects.create(name="g")
    connect().execute("UPDATE django_ray_gate SET next_at = now() + interval '5 minutes'")
    (gate,) = gates()[0]
    assert gate.seconds == 600
    assert 290 < gate.next_in < 301
    assert gate.override is None
    assert "one in 10 min" in run()


def test_beside_very_many_gates_a_look_is_bounded(connect, count_rows):
    session = connect()
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, state, gate, gate_rule, priority) SELECT 'x.y', 'WAITING',"
        " 'shop:' || number % 20000, '{}', number % 3 FROM generate_series(1, 100000) AS number"
    )
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, state, gate, gate_rule) SELECT 'x.y', 'WAITING',"
        " 'shop:1', '{}' FROM generate_series(1, 20000)"
    )
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
    count_rows()
    with CaptureQueriesContext(connection) as queries:
        found, _ = gates()
        assert [(one.name, one.waiting) for one in found[:1]] == [("shop:1", standing.MOST + 1)]
        assert len(found) == standing.MOST_SHOWN
        assert found[0].is_cut
        assert scrape()["django_ray_queue_gated", "default"] == 10_001
    assert "1,000+" in run("shop:1")
    check_read(queries, 40_000)


# Numbers.


def scrape():
    page = django_ray.views.metrics(RequestFactory().get("/")).text
    found = {}
    for text in page.splitlines():
        if not text.startswith("#"):
            name, value = text.rsplit(" ", 1)
            metric, _, labels = name.partition("{")
            labels = dict(part.split("=") for part in labels.rstrip("}").split(","))
            name = labels.get("queue") or labels.get("backend") or labels["database"]
            found[metric, name.strip('"')] = float(value)
    return found


def test_what_waits_behind_gates_is_counted_apart_from_what_is_blocked_otherwise(behind):
    behind("a", 2)
    behind("b", 1, priority=7)
    behind("b", 1, queue_name="other", enqueued_at="2026-01-01")
    RayTaskExecution.objects.create(callable_path="x.y", state="WAITING")
    found = {queue.name: (queue.blocked, queue.gated) for queue in status().queues if queue.backend == "default"}
    assert found == {"default": (4, 3), "other": (1, 1)}
    numbers = scrape()
    assert (numbers["django_ray_queue_blocked", "default"], numbers["django_ray_queue_gated", "default"]) == (4, 3)
    assert numbers["django_ray_gates_oldest_wait_seconds", "default"] > 86_400
    assert numbers["django_ray_gates_oldest_wait_seconds", "any"] == 0
    output = io.StringIO()
    call_command("django_ray_status", "--json", stdout=output)
    assert [queue["gated"] for queue in json.loads(output.getvalue())["queues"] if queue["backend"] == "default"] == [
        3,
        1,
    ]


def test_the_live_page_says_how_many_are_behind_gates(behind, client, admin_user):
    behind("a", 3)
    client.force_login(admin_user)
    page = client.get(reverse("admin:django_ray_live")).text
    assert f'<a href="{LIST}">3 behind gates</a>' in page
    user_client(client, "view_rayqueue")
    page = client.get(reverse("admin:django_ray_live")).text
    assert "3 behind gates" in page
    assert LIST not in page


# The command.


def test_the_command_lists_sets_and_clears(behind):
    behind("shop:7", 3)
    assert run("--set", "shop:7", "--limit", 2) == "shop:7: limit 2.\n"
    assert run("--set", "shop:*", "--rate", "100/60", "--burst", 5) == "shop:*: 100 in 60 s, 5 at once.\n"
    assert run("--set", "shop:7", "--rate", "1/0.5") == "shop:7: limit 2, 1 in 0.5 s.\n"
    (gate, family) = json.loads(run("--json"))["gates"]
    assert (gate["name"], gate["waiting"], gate["limit"], gate["seconds"]) == ("shop:7", 3, 2, 0.5)
    assert gate["override"] == {"name": "shop:7", "limit": 2, "rate_count": 1, "rate_per": 0.5, "rate_burst": 1}
    assert family["override"]["rate_burst"] == 5
    assert "limit 2, 1 in 0.5 s" in run()
    assert run("--set", "shop:8", "--limit", 0) == "shop:8: limit 0.\n"
    assert run("--clear", "shop:7") == "shop:7: what the code says holds again.\n"
    assert [one.name for one in RayGate.objects.order_by("name")] == ["shop:*", "shop:8"]
    assert json.loads(run("--json", "nothing"))["gates"] == []
    assert "None: nothing waits" in run("nothing")


def test_to_clear_keeps_when_the_next_start_is_due(connect):
    run("--set", "g", "--limit", 2)
    connect().execute("UPDATE django_ray_gate SET next_at = now() + interval '5 minutes'")
    run("--set", "g", "--limit", 3)
    run("--clear", "g")
    (row,) = RayGate.objects.all()
    assert (row.overrides, row.next_at is not None) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "g"], "say --limit N, --rate COUNT/SECONDS, or both"),
        (["--limit", "3"], "--limit says what --set NAME sets"),
        (["--set", "g", "--limit", "-1"], "--limit -1: it must be a whole number of 0 to"),
        (["--set", "g", "--rate", "x"], "--rate x: it must be a number of starts, a slash and seconds"),
        (["--set", "g", "--rate", "0/5"], "--rate 0/5: it must be"),
        (["--set", "g", "--rate", "5/0"], "--rate 5/0: it must be"),
        (["--set", "g", "--limit", "1", "--burst", "2"], "--burst 2: it must be a whole number of at least 1, beside"),
        (["--set", "", "--limit", "1"], "1 to 255 characters"),
        (["--clear", "ship:7"], "nothing overrides this gate: did you mean shop:7"),
        (["--set", "g", "--limit", "1", "--backend", "x"], "--backend x: TASKS has no such alias"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    RayGate.objects.create(name="shop:7", limit=1)
    with pytest.raises(CommandError, match=message):
        run(*arguments)
    assert RayGate.objects.count() == 1


def test_who_has_locked_an_override_is_waited_for_briefly(connect, monkeypatch):
    monkeypatch.setattr("django_ray.locking.waiting_briefly.__wrapped__.__defaults__", (0.1,))
    RayGate.objects.create(name="g", limit=1)
    session = connect(autocommit=False)
    session.execute("SELECT FROM django_ray_gate FOR UPDATE")
    with pytest.raises(CommandError, match="has locked the row"):
        run("--set", "g", "--limit", 3)


# The pages.


FORM = {"name": "shop:7", "backend": "default", "limit": "3", "rate_count": "", "rate_per": "", "rate_burst": ""}


def deeds(row):
    return [
        (ADD, FORM),
        (change(row), {**FORM, "name": "old", "limit": "9"}),
        (reverse("admin:django_ray_raygate_delete", args=[row.pk]), {"post": "yes"}),
    ]


def snapshot():
    return list(RayGate.objects.order_by("name").values_list("name", "limit", "rate_count", "rate_per", "rate_burst"))


@pytest.mark.parametrize("permissions", [(), ("view_rayqueue", "view_raytaskexecution")])
def test_without_a_permission_nothing_is_seen_or_done(client, behind, permissions):
    behind("shop:7")
    row = RayGate.objects.create(name="old", limit=1)
    before = snapshot()
    user_client(client, *permissions)
    assert [client.get(page).status_code for page in (LIST, ADD, change(row))] == [403] * 3
    for address, data in deeds(row):
        assert client.post(address, data).status_code == 403, address
    assert snapshot() == before


def test_who_may_only_look_sees_and_does_nothing(client, behind):
    behind("shop:7")
    row = RayGate.objects.create(name="old", limit=1)
    before = snapshot()
    user_client(client, "view_raygate")
    page = client.get(LIST).text
    assert "shop:7" in page
    assert "limit 1" in page
    for text in (ADD, change(row), "raytaskexecution"):
        assert text not in page
    for address, data in deeds(row):
        assert client.post(address, data).status_code == 403, address
    assert snapshot() == before


@pytest.mark.parametrize(
    ("permission", "number", "after"),
    [
        ("add_raygate", 0, [("old", 1, None, None, 1), ("shop:7", 3, None, None, 1)]),
        ("change_raygate", 1, [("old", 9, None, None, 1)]),
        ("delete_raygate", 2, []),
    ],
)
def test_each_permission_gives_what_its_name_says(client, permission, number, after):
    row = RayGate.objects.create(name="old", limit=1)
    user_client(client, "view_raygate", permission)
    address, data = deeds(row)[number]
    assert client.post(address, data).status_code == 302
    assert snapshot() == after
    others = [deed for place, deed in enumerate(deeds(row)) if place != number]
    assert {client.post(*deed).status_code for deed in others} <= {403, 302}
    assert snapshot() == after


def test_an_override_that_says_nothing_or_half_of_a_rate_is_refused(admin_client):
    for changes, message in (
        ({"limit": ""}, "Say a limit or a rate."),
        ({"rate_count": "5"}, "give both, or neither"),
        ({"limit": "-1"}, "greater than or equal to 0"),
        ({"rate_count": "0", "rate_per": "1"}, "greater than or equal to 1"),
        ({"rate_count": "1", "rate_per": "nan"}, "Enter a number"),
        ({"name": "x" * 256}, "at most 255 characters"),
        ({"backend": "elsewhere"}, "Select a valid choice"),
    ):
        answer = admin_client.post(ADD, FORM | changes)
        assert message in answer.text, changes
    assert not RayGate.objects.exists()


def test_there_is_one_override_of_a_gate(admin_client):
    RayGate.objects.create(name="shop:7", limit=1)
    assert "already exists" in admin_client.post(ADD, FORM).text


def test_a_row_that_only_remembers_a_start_is_not_in_the_way_and_goes_on_to(admin_client, connect):
    row = RayGate.objects.create(name="shop:7")
    connect().execute("UPDATE django_ray_gate SET next_at = now() + interval '5 minutes'")
    assert admin_client.post(ADD, FORM).status_code == 302
    (found,) = RayGate.objects.all()
    assert (found.pk, found.limit, found.next_at is not None) == (row.pk, 3, True)


def test_what_a_supervisor_writes_meanwhile_is_not_undone_by_the_form(admin_client, connect, monkeypatch):
    from django_ray.admin import GateAdmin

    row, session = RayGate.objects.create(name="old", limit=1), connect()
    save = GateAdmin.save_model

    def start_first(*arguments):
        session.execute("UPDATE django_ray_gate SET next_at = now() + interval '5 minutes'")
        save(*arguments)

    monkeypatch.setattr(GateAdmin, "save_model", start_first)
    assert admin_client.post(change(row), {**FORM, "name": "old"}).status_code == 302
    row.refresh_from_db()
    assert (row.limit, row.next_at is not None) == (3, True)


def test_live_gates_are_offered_to_be_overridden(admin_client, behind):
    behind("a gate&more:7")
    page = admin_client.get(LIST).text
    assert f'href="{ADD}?name=a%20gate%26more%3A7&amp;backend=default"' in page
    assert 'value="a gate&amp;more:7"' in admin_client.get(f"{ADD}?name=a%20gate%26more%3A7&backend=default").text


def test_names_are_looked_for_by_how_they_begin(admin_client, behind):
    behind("shop:1")
    behind("mail")
    page = admin_client.get(LIST, {"q": "shop"}).text
    assert ">shop:1<" in page
    assert ">mail<" not in page
    assert admin_client.get(LIST, {"q": "\0"}).status_code == 200
    assert "Nothing waits or runs behind a gate" in admin_client.get(LIST, {"q": "x"}).text


def test_a_script_in_a_name_stays_text(admin_client, behind, worker):
    behind(EVIL)
    behind(EVIL, state="RUNNING", claimed_by_id=worker.pk)
    row = RayGate.objects.create(name=EVIL, limit=1)
    execution = RayTaskExecution.objects.filter(state="WAITING").get()
    executions = reverse("admin:django_ray_raytaskexecution_changelist")
    pages = [
        LIST, change(row), f"{ADD}?name={EVIL}", executions, f"{executions}?gate={EVIL}",
        reverse("admin:django_ray_raytaskexecution_change", args=[execution.pk]), reverse("admin:django_ray_live"),
        reverse("admin:django_ray_raygate_delete", args=[row.pk]),
    ]  # fmt: skip
    for page in pages:
        text = admin_client.get(page).text
        assert EVIL not in text, page


def test_executions_are_filtered_by_gate_and_say_behind_which_they_wait(admin_client, behind):
    behind("shop:1", 2)
    behind("shop:2")
    page = admin_client.get(reverse("admin:django_ray_raytaskexecution_changelist"), {"gate": "shop:1"})
    assert page.context["cl"].result_count == 2
    assert page.text.count('Behind a gate</span><br><span class="dr-quiet">shop:1</span>') == 2


def test_very_many_gates_do_not_make_the_filter_long(admin_client, connect):
    connect().execute(
        "INSERT INTO django_ray_execution (callable_path, gate, gate_rule) SELECT 'x.y', 'g:' || number, '{}'"
        " FROM generate_series(1, 500) AS number"
    )
    page = admin_client.get(reverse("admin:django_ray_raytaskexecution_changelist"), {"gate": "g:499"}).text
    assert page.count("gate=g%3A") < 150
    assert "g:499" in page


def test_a_supervisor_hears_of_an_override_from_the_page(admin_client, connect):
    """The trigger rings, whoever writes."""
    session = connect()
    session.execute("SELECT django_ray_announce('gates:default')")
    channel = session.execute("SELECT quote_ident(django_ray_channel('gates:default')) AS name").fetchone()["name"]
    session.execute(f"LISTEN {channel}")
    assert admin_client.post(ADD, FORM).status_code == 302
    assert list(session.notifies(timeout=10, stop_after=1))
    assert User.objects.count() == 1
