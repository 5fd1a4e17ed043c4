"""What an operator asks at night: is everything served, who did this, and why."""

import html
import io
import json
import re
import secrets
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import JSONField, Value
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone

from django_ray import views
from django_ray.figures import figures
from django_ray.models import RayQueue, RaySchedule, RayTaskExecution, RayWorker
from django_ray.status import status
from tests import tasks

pytestmark = pytest.mark.django_db

LIST = reverse("admin:django_ray_raytaskexecution_changelist")
LIVE = reverse("admin:django_ray_live")
TASKS = reverse("admin:django_ray_tasks")


def supervisor(queues, **columns):
    said = {
        "hostname": "host-1", "pid": 7, "backend": "default", "queues": Value(queues, JSONField()), "concurrency": 4,
        "ray_address": "ray:1", "version": "0",
    }  # fmt: skip
    return RayWorker.objects.create(**said | columns)


@pytest.fixture
def serving(connect):
    """Have supervisors with sessions of their own."""

    def _serving(queues, **columns):
        one = supervisor(queues, **columns)
        connect().execute("SELECT django_ray_identify(%s)", [one.pk])
        return one

    return _serving


def queue(name="default"):
    (found,) = [one for one in status().queues if (one.backend, one.name) == ("default", name)]
    return found


def check(*arguments):
    """Return the exit code and what is said."""
    output, code = io.StringIO(), 0
    try:
        call_command("django_ray_status", "--check", *arguments, stdout=output)
    except SystemExit as end:
        code = end.code
    return code, output.getvalue().strip()


def entries():
    return [(one.object_repr, one.object_id, one.change_message) for one in LogEntry.objects.order_by("pk")]


# Who serves what.


def test_a_queue_in_which_something_waits_and_that_nobody_serves_is_an_alarm(admin_client, serving):
    assert check() == (0, "All is well.")
    tasks.add.enqueue(1, 2)
    supervisor(["default"])  # it has no session
    serving(["other"])
    serving(None, backend="any")
    assert queue().is_forsaken
    assert check() == (1, "Queue 'default' of backend 'default': 1 wait, and no supervisor serves it.")
    assert "No supervisor serves it" in admin_client.get(LIVE).text
    assert 'served{backend="default",queue="default"} 0' in metrics()
    serving(None)
    assert not queue().is_forsaken
    assert check() == (0, "All is well.")
    assert "No supervisor serves it" not in admin_client.get(LIVE).text
    assert 'served{backend="default",queue="default"} 1' in metrics()


@pytest.mark.parametrize("queues", [["default"], ["other", "default"], None])
def test_who_serves_a_queue(serving, queues):
    serving(queues)
    assert queue().is_served


@pytest.mark.parametrize("columns", [{"stopped_at": "now"}, {"lost_at": "now"}, {"backend": "any"}])
def test_who_does_not(serving, columns):
    serving(["default"], **{name: timezone.now() if value == "now" else value for name, value in columns.items()})
    assert not queue().is_served


def test_a_paused_queue_and_one_for_later_are_no_alarm():
    tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    tasks.add.using(queue_name="other").enqueue(1, 2)
    RayQueue.objects.pause("other")
    assert check() == (0, "All is well.")


def test_what_waits_behind_a_gate_needs_a_supervisor_as_well():
    tasks.add.using(num_gpus=1).enqueue(1, 2)
    assert check() == (1, "Queue 'default' of backend 'default': 1 wait, and no supervisor serves it.")


def test_how_long_something_may_wait(serving):
    serving(None)
    row = RayTaskExecution.objects.get(pk=tasks.add.enqueue(1, 2).id)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_ray_execution SET enqueued_at = enqueued_at - interval '90 s' WHERE task_id = %s", [row.pk]
        )
    assert check("--oldest", "600") == (0, "All is well.")
    code, said = check("--oldest", "60")
    assert code == 1
    assert said.startswith("Queue 'default' of backend 'default': the oldest execution has been waiting for 1 min 3")
    assert json.loads(check("--oldest", "60", "--json")[1])["alarms"] == [said]


def test_a_schedule_that_does_not_fire_is_an_alarm():
    RaySchedule.objects.create(name="nightly", callable_path="nowhere.at_all", cron="0 3 * * *")
    RaySchedule.objects.update(problem="No such task.")
    assert check() == (1, "Schedule 'nightly' of backend 'default' does not fire: No such task.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check", "--watch"], "--check and --tasks look once: leave --watch out."),
        (["--tasks", "--watch"], "--check and --tasks look once: leave --watch out."),
        (["--tasks", "--check"], "--check and --tasks are two questions"),
        (["--tasks", "0"], "'0' is no number of hours from 1 to 8784."),
        (["--oldest", "5"], "--oldest is for --check."),
        (["--check", "--oldest", "soon"], "'soon' is no number of seconds"),
        (["--check", "--oldest", "-1"], "'-1' is no number of seconds"),
        (["--check", "--oldest", "nan"], "'nan' is no number of seconds"),
    ],
)
def test_what_cannot_be_meant(arguments, said):
    with pytest.raises(CommandError, match=said):
        call_command("django_ray_status", *arguments)


def test_one_that_was_found_dead_is_named_for_an_hour(admin_client):
    now = timezone.now()
    supervisor(None, lost_at=now - timedelta(minutes=5), rescued=1234)
    supervisor(None, lost_at=now - timedelta(minutes=61))
    supervisor(None, stopped_at=now)
    (lost,) = status().lost
    assert lost.rescued == 1234
    assert "1,234 executions of it were taken back." in admin_client.get(LIVE).text
    output = io.StringIO()
    call_command("django_ray_status", stdout=output)
    assert "5 min ago  1,234" in output.getvalue()


async def test_how_much_was_taken_back_is_counted(open_store, insert, connect):
    """Also what a lock has kept from being taken back at first."""
    from django_ray_worker.core.judge import abandoned

    dead, worker = await open_store()
    peer, watcher = await open_store()
    for _ in range(3):
        insert()
    claims = (await dead.claim(worker, 10)).claims
    stranger = connect(autocommit=False)
    stranger.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [claims[0].task_id])
    said = "SELECT lost_at IS NOT NULL AS is_lost, rescued FROM django_ray_worker WHERE id = %s"
    await peer.rescue(watcher, abandoned, only=worker)
    assert connect().execute(said, [worker]).fetchone() == {"is_lost": True, "rescued": 2}
    stranger.rollback()
    await peer.rescue(watcher, abandoned, only=worker)
    assert connect().execute(said, [worker]).fetchone() == {"is_lost": True, "rescued": 3}


# Who did it.


def test_who_paused_a_queue_and_why_is_said_everywhere(admin_client, admin_user):
    pause, explain = reverse("admin:django_ray_pause"), reverse("admin:django_ray_explain")
    named = {"name": "default", "backend": "default"}
    admin_client.post(pause, {"verb": "pause", **named})
    admin_client.post(pause, {"verb": "pause", **named})  # which changes nothing
    assert "by admin, just now" in admin_client.get(LIVE).text
    assert "Others read it on the live page" in admin_client.get(explain, named).text
    admin_client.post(explain, {**named, "because": " the mail server\nis <down> "})
    page = admin_client.get(LIVE).text
    assert "the mail server is &lt;down&gt;" in page
    result = tasks.add.enqueue(1, 2)
    assert "has been paused by admin for" in result.why()
    assert "because 'the mail server is <down>'" in result.why()
    output = io.StringIO()
    call_command("django_ray_status", stdout=output)
    assert "paused by admin: the mail server is <down>" in output.getvalue()
    admin_client.post(pause, {"verb": "resume", **named})
    assert RayQueue.objects.get().paused_by is None
    assert [one[2] for one in entries()] == [
        "Paused. (default (default))",
        "Paused, because:  the mail server\nis <down>  (default (default))",
        "Resumed. (default (default))",
    ]
    assert {one.user for one in LogEntry.objects.all()} == {admin_user}
    assert admin_client.get(explain, named).status_code == 404  # it is not paused
    assert admin_client.get(explain, {"name": "default", "backend": "nope"}).status_code == 404


def test_a_command_says_who_and_why():
    call_command("django_ray_pause", "default", "--because", "deploy", stdout=io.StringIO())
    row = RayQueue.objects.get()
    assert "@" in row.paused_by
    assert row.paused_because == "deploy"


def test_each_verb_is_in_the_history_with_what_was_selected(admin_client):
    one, two = (RayTaskExecution.objects.get(pk=tasks.add.enqueue(n, 0).id) for n in range(2))
    act = {"action": "cancel", "index": 0}
    admin_client.post(LIST, {**act, "_selected_action": [one.pk]})
    admin_client.post(LIST, {**act, "_selected_action": [one.pk]})  # which is cancelled already
    admin_client.post(f"{LIST}?queue_name=default", {**act, "_selected_action": [two.pk], "select_across": 1})
    for n in range(2):
        tasks.add.enqueue(n, 0)
    admin_client.post(f"{LIST}?state=READY", {**act, "_selected_action": [one.pk], "select_across": 1})
    admin_client.post(LIST, {**act, "action": "retry", "_selected_action": [one.pk, two.pk]})
    do = reverse("admin:django_ray_raytaskexecution_do", args=[one.pk])
    admin_client.post(do, {"verb": "enqueue_again"})
    assert entries() == [
        (str(one), str(one.pk), "1 execution cancelled."),
        ("all that match queue_name=default", None, "1 execution cancelled. (all that match queue_name=default)"),
        ("all that match state=READY", None, "2 executions cancelled. (all that match state=READY)"),
        ("2 selected", None, "2 executions will be tried again. (2 selected)"),
        (str(one), str(one.pk), "1 execution enqueued."),
    ]


def test_more_than_a_few_are_asked_about_first(admin_client):
    tasks.add.get_backend().enqueue_many([(tasks.add, (n, 0), {}) for n in range(21)])
    some = [str(pk) for pk in RayTaskExecution.objects.values_list("pk", flat=True)[:5]]
    act = {"action": "cancel", "index": 0, "_selected_action": some, "select_across": 1}
    asked = admin_client.post(f"{LIST}?state=READY", act)
    assert "21 executions are selected. Those of them that have not ended will be cancelled" in asked.text
    assert RayTaskExecution.objects.filter(state="READY").count() == 21
    assert asked.context["selected"] == some
    admin_client.post(f"{LIST}?state=READY", {**act, "confirmed": "yes"})
    assert RayTaskExecution.objects.filter(state="CANCELLED").count() == 21
    assert entries()[0][2] == "21 executions cancelled. (all that match state=READY)"


def test_schedules_and_flows_are_in_the_history_too(admin_client):
    row = RaySchedule.objects.create(name="nightly", callable_path=tasks.add.module_path, args=[1, 2], cron="0 3 * * *")
    do = reverse("admin:django_ray_rayschedule_do", args=[row.pk])
    for verb in ("pause", "pause", "resume", "run_now"):
        admin_client.post(do, {"verb": verb})
    said = [(one[1], one[2]) for one in entries()]
    assert [pk for pk, _ in said] == [str(row.pk)] * 3
    assert "paused" in said[0][1]


# Which job was it.


LETTERS = str.maketrans("0123456789", "ghijklmnop")


@pytest.fixture
def jobs():
    large = f"xxxx{secrets.token_hex(5000).translate(LETTERS)}"
    error = {"exception_class_path": "shop.errors.NoAddress", "message": "customer has no street", "traceback": "t"}
    return {
        "a": standing(callable_path="shop.mail", args=[4711, "welcome home"], queue_name="mail"),
        "b": standing(callable_path="shop.ship", kwargs={"customer": 4711}),
        "c": standing(callable_path="shop.ship", args=[12], state="FAILED", finished_at=timezone.now(), errors=[error]),
        "d": standing(callable_path="shop.bill", args=[large], carrier={"metadata": {"invoice": "R-77"}}),
    }


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("4711", "ab"),
        ("args:4711", "ab"),
        ("args:4711 task:ship", "b"),
        ("ARGS:4711 queue:mail", "a"),
        ('args:"welcome home"', "a"),
        ('"home welcome"', ""),
        ("error:street", "c"),
        ("error:noaddress task:ship", "c"),
        ("street", "c"),
        ("meta:R-77", "d"),
        ("R-77", ""),
        ("queue:mai", ""),
        ("shop.ship", "bc"),
        ("task:4711", ""),
        ("id:nonsense", ""),
        ("args:%", ""),
        ("args:", ""),
        ("nobody:4711", ""),
        ("", "abcd"),
    ],
)
def test_a_search(admin_client, jobs, said, found):
    rows = admin_client.get(LIST, {"q": said}).context["cl"].result_list
    assert "".join(sorted(key for key, job in jobs.items() if job.pk in {row.pk for row in rows})) == found


def test_a_search_by_an_id(admin_client, jobs):
    for said in (str(jobs["c"].pk), f"id:{jobs['c'].pk}", jobs["c"].pk.hex):
        assert [row.pk for row in admin_client.get(LIST, {"q": said}).context["cl"].result_list] == [jobs["c"].pk]


def test_a_search_reads_the_newest_and_finds_paths_among_more(admin_client, jobs, monkeypatch):
    monkeypatch.setattr("django_ray.admin.executions.NEWEST_READ", 3)

    def found(said):
        return [row.pk for row in admin_client.get(LIST, {"q": said}).context["cl"].result_list]

    assert found("4711") == [jobs["b"].pk]
    assert found("shop.mail") == [jobs["a"].pk]


def test_the_list_shows_the_beginning_of_the_arguments(admin_client, jobs):
    page = admin_client.get(LIST).text
    assert "4711, &quot;welcome home&quot;" in page
    assert "{&quot;customer&quot;: 4711}" in page
    assert "xxxx" not in page  # it is large, and is not read


# Figures of each task.


def test_figures_of_each_task(admin_client):
    now = timezone.now()

    def end(path, state="SUCCESSFUL", *, ran, waited, minutes=1, attempts=1):
        ended = now - timedelta(minutes=minutes)
        began = ended - timedelta(seconds=ran)
        row = standing(
            callable_path=path, state=state, finished_at=ended, last_attempted_at=began, started_at=began,
            worker_ids=["7"] * attempts,
        )  # fmt: skip
        RayTaskExecution.objects.filter(pk=row.pk).update(enqueued_at=began - timedelta(seconds=waited))

    for number in range(1, 101):
        end("shop.mail", "FAILED" if number % 4 == 0 else "SUCCESSFUL", ran=number, waited=2 * number, attempts=2)
    end("shop.ship", ran=500, waited=1)
    end("shop.ship", ran=1, waited=1, minutes=90)
    mail, ship = figures("default", timedelta(hours=1)).tasks
    assert (mail.callable_path, mail.ended, mail.failed, mail.error_rate, mail.retried) == (
        "shop.mail",
        100,
        25,
        0.25,
        100,
    )
    assert [mail.run_p50, mail.run_p95, mail.wait_p50, mail.wait_p95] == pytest.approx([50.5, 95.05, 101, 190.1])
    assert (ship.ended, ship.run_p50) == (1, pytest.approx(500))
    assert figures("default", timedelta(hours=24)).tasks[1].ended == 2
    page = admin_client.get(TASKS, {"by": "run_p50"}).text
    assert page.index("shop.ship</a>") < page.index("shop.mail</a>")
    assert "8 min 20 s" in page
    assert "25 %" in page
    assert "95 s" not in page  # 1 min 35 s
    for query in ({"by": "nonsense", "hours": "x"}, {"hours": "168"}):
        page = admin_client.get(TASKS, query).text
        assert page.index("shop.mail</a>") < page.index("shop.ship</a>")
    output = io.StringIO()
    call_command("django_ray_status", "--tasks", stdout=output)
    assert re.search(r"shop.mail +100 +25 +25 % +100 +50 s +1 min 35 s", output.getvalue())
    output = io.StringIO()
    call_command("django_ray_status", "--tasks", "24", "--json", stdout=output)
    assert [one["ended"] for one in json.loads(output.getvalue())["tasks"]] == [100, 2]


def test_of_very_many_the_last_ones_are_looked_at(admin_client, monkeypatch):
    now = timezone.now()
    for minutes in range(5):
        standing(state="SUCCESSFUL", finished_at=now - timedelta(minutes=minutes))
    monkeypatch.setattr("django_ray.figures.SAMPLE", 3)
    found = figures("default", timedelta(hours=1))
    assert (found.tasks[0].ended, found.is_sample, found.since) == (3, True, now - timedelta(minutes=2))
    assert "since 2 min ago" in admin_client.get(TASKS).text
    assert "Nothing has ended" not in admin_client.get(TASKS).text


def test_where_nothing_has_ended(admin_client):
    assert "Nothing has ended in this time." in admin_client.get(TASKS).text


# Once more, with other arguments.


def edit(row):
    return reverse("admin:django_ray_raytaskexecution_edit", args=[row.pk])


def test_an_execution_is_enqueued_again_with_other_arguments(admin_client):
    row = RayTaskExecution.objects.get(pk=tasks.add.enqueue(1, 2).id)
    page = admin_client.get(edit(row)).text
    assert "[1, 2]" in page
    said = {"args": "[40, 2]", "kwargs": "", "queue_name": "other", "priority": "7"}
    answer = admin_client.post(edit(row), said)
    new = RayTaskExecution.objects.exclude(pk=row.pk).get()
    assert answer["Location"].endswith(f"/{new.pk}/change/")
    assert (new.args, new.kwargs, new.queue_name, new.priority) == ([40, 2], {}, "other", 7)
    assert entries() == [(str(row), str(row.pk), f"Enqueued again, with other arguments, as {new.pk}.")]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"args": "[1]"}, "cannot be called with (1)"),
        ({"args": "[1, 2, 3]"}, "cannot be called with (1, 2, 3)"),
        ({"args": "{}"}, "It must be a list."),
        ({"kwargs": "[]"}, "It must be an object, with names."),
        ({"args": "[1,"}, "Enter a valid JSON."),
        ({"args": '["\\u0000", 2]'}, "NUL"),
        ({"queue_name": "nope"}, "nope"),
        ({"priority": "1000"}, "less than or equal to 100"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_enqueued(admin_client, said, problem):
    row = RayTaskExecution.objects.get(pk=tasks.add.enqueue(1, 2).id)
    good = {"args": "[1, 2]", "kwargs": "{}", "queue_name": "default", "priority": "0"}
    page = html.unescape(admin_client.post(edit(row), {**good, **said}).text)
    assert problem in page
    assert RayTaskExecution.objects.count() == 1


@pytest.mark.parametrize(("permissions", "status_code"), [("change", 403), ("add", 403), ("add change", 200)])
def test_who_may_edit(client, permissions, status_code):
    row = RayTaskExecution.objects.get(pk=tasks.add.enqueue(1, 2).id)
    user = User.objects.create_user("ada", is_staff=True)
    for name in ("view", *permissions.split()):
        user.user_permissions.add(Permission.objects.get(codename=f"{name}_raytaskexecution"))
    client.force_login(user)
    assert client.get(edit(row)).status_code == status_code
    page = client.get(reverse("admin:django_ray_raytaskexecution_change", args=[row.pk])).text
    assert ("Edit and enqueue again" in page) == (status_code == 200)


def test_what_waits_for_others_is_not_edited(admin_client):
    """Ids of executions stand in its arguments: they would be values."""
    row = RayTaskExecution.objects.get(pk=tasks.add.enqueue(tasks.add.enqueue(1, 2), 3).id)
    assert admin_client.get(edit(row)).status_code == 404
    assert (
        "Edit and enqueue again"
        not in admin_client.get(reverse("admin:django_ray_raytaskexecution_change", args=[row.pk])).text
    )


def test_a_task_that_is_no_more_is_said(admin_client):
    row = standing(callable_path="shop.gone.away")
    page = admin_client.post(edit(row), {"args": "[]", "kwargs": "{}", "queue_name": "default", "priority": "0"}).text
    assert "shop" in page
    assert RayTaskExecution.objects.count() == 1


# What fails.


def test_failures_are_shown_by_task_and_error(admin_client):
    now = timezone.now()

    def fail(path, error, minutes, number=1):
        for _ in range(number):
            standing(
                callable_path=path, state="FAILED", finished_at=now - timedelta(minutes=minutes),
                errors=[{"exception_class_path": error, "message": f"{minutes} minutes ago", "traceback": "t"}],
            )  # fmt: skip

    fail("shop.ship", "builtins.ValueError", 3, 30)
    fail("shop.ship", "builtins.ValueError", 1)
    fail("shop.ship", "shop.errors.NoAddress", 2, 2)
    fail("shop.mail", "builtins.ValueError", 4)
    found = [(one.callable_path, one.exception_type, one.number) for one in status().failure_groups]
    assert found == [
        ("shop.ship", "builtins.ValueError", 31),
        ("shop.ship", "shop.errors.NoAddress", 2),
        ("shop.mail", "builtins.ValueError", 1),
    ]
    page = admin_client.get(LIVE).text
    assert page.count("shop.ship</a>") == 2
    assert '<b class="dr-bad-text">ValueError</b> 1 minutes ago' in page
    link = re.search(r'href="([^"]*exception_type=builtins.ValueError[^"]*)"', page)[1].replace("&amp;", "&")
    assert admin_client.get(link).context["cl"].result_count == 31
    output = io.StringIO()
    call_command("django_ray_status", stdout=output)
    assert re.search(r"shop.ship +31 +3 min ago +1 min ago +\S+ +ValueError: 1 minutes ago", output.getvalue())


# What has to happen first.


def standing(**columns):
    columns = {"callable_path": "shop.tasks.greet", **columns}
    return RayTaskExecution.objects.create(**columns)


@pytest.fixture
def each():
    """An execution in each situation, by its name."""
    later, now = timezone.now() + timedelta(minutes=5), timezone.now()
    error = {"exception_class_path": "builtins.ValueError", "message": "no <b>address</b>", "traceback": "t"}
    RayQueue.objects.pause("other")
    return {
        "waiting": standing(),
        "paused": standing(queue_name="other"),
        "scheduled": standing(due_at=later),
        "retrying": standing(due_at=later, worker_ids=["7"], failures=1, errors=[error]),
        "unknown": standing(due_at=later, worker_ids=["7"], missing_since=now),
        "gate": standing(state="WAITING", gate="shop:7", gate_rule={"limit": 1}),
        "lane": standing(state="WAITING", gate="!a.b {}", gate_rule={"limit": 0, "lane": True}),
        "held": standing(state="WAITING", needs="success"),
        "FAILED": standing(state="FAILED", finished_at=now, errors=[error]),
        "CANCELLED": standing(state="CANCELLED", finished_at=now),
    }


LABELS = {
    "waiting": "Waiting", "paused": "Queue paused", "scheduled": "Scheduled", "retrying": "Retrying",
    "unknown": "Code unknown", "gate": "Behind a gate", "lane": "Waits for a place", "held": "Waits for others",
    "FAILED": "Failed", "CANCELLED": "Cancelled",
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_each_situation_has_a_filter_and_a_badge(admin_client, each, name):
    page = admin_client.get(LIST, {"state": name})
    assert [row.pk for row in page.context["cl"].result_list] == [each[name].pk]
    assert f">{LABELS[name]}</span>" in page.text
    page = admin_client.get(reverse("admin:django_ray_raytaskexecution_change", args=[each[name].pk])).text
    assert f">{LABELS[name]}</span>" in page


def test_the_list_says_when_it_is_due_and_with_what_it_failed(admin_client, each):
    page = admin_client.get(LIST, {"state": "retrying"}).text
    assert "in 5 min" in page or "in 4 min" in page
    assert "ValueError: no &lt;b&gt;address&lt;/b&gt;" in page
    assert "builtins." not in page.split("result_list")[1]
    assert "shop:7" in admin_client.get(LIST, {"state": "gate"}).text


def test_all_of_a_state_is_found_as_before(admin_client, each):
    found = {
        state: admin_client.get(LIST, {"state": state}).context["cl"].result_count for state in ("READY", "WAITING")
    }
    assert found == {"READY": 5, "WAITING": 3}


def metrics():
    return views.metrics(RequestFactory().get("/")).content.decode()


# How many there are of each state.


def offered(client):
    """Return the names of states in the filter, as they are shown."""
    page = html.unescape(client.get(LIST).content.decode())
    return dict(re.findall(r'<a href="\?state=(\w+)">([^<]+)</a>', page))


def test_each_state_has_its_number(admin_client):
    later = timezone.now() + timedelta(hours=1)
    error = {"exception_class_path": "a.B", "message": "m", "traceback": "t"}
    RayQueue.objects.pause("other")
    for columns, number in (
        ({}, 3),
        ({"queue_name": "other"}, 2),
        ({"due_at": later}, 4),
        ({"due_at": later, "worker_ids": ["7"], "failures": 1, "errors": [error]}, 5),
        ({"due_at": later, "worker_ids": ["7"], "missing_since": timezone.now()}, 1),
        ({"state": "WAITING", "gate": "shop:7"}, 6),
        ({"state": "WAITING", "gate": "!shop.ship", "gate_rule": {"lane": 1, "limit": 0}}, 1),
    ):
        for _ in range(number):
            standing(**columns)
    found = offered(admin_client)
    asked = ("waiting", "paused", "scheduled", "retrying", "unknown", "gate", "lane")
    assert {name: found[name] for name in asked} == {
        "waiting": "Waiting (3)", "paused": "Queue paused (2)", "scheduled": "Scheduled (4)",
        "retrying": "Retrying (5)", "unknown": "Code unknown (1)", "gate": "Behind a gate (6)",
        "lane": "Waits for a place (1)",
    }  # fmt: skip
    assert found["held"] == "Waits for others (0)"
    assert found["FAILED"] == "Failed (0)"
    assert found["SUCCESSFUL"] == "Successful"  # no index counts them


def test_classes_of_python_are_offered_without_their_module(admin_client):
    error = {"exception_class_path": "builtins.ValueError", "message": "m", "traceback": "t"}
    standing(state="FAILED", finished_at=timezone.now(), errors=[error])
    page = admin_client.get(LIST).content.decode()
    assert '<a href="?exception_type=builtins.ValueError">ValueError</a>' in page


def test_of_very_many_it_says_at_least_so_many(admin_client, monkeypatch):
    monkeypatch.setattr("django_ray.admin.filters.MOST_NUMBERED", 5)
    for _ in range(9):
        standing()
    assert offered(admin_client)["waiting"] == "Waiting (5+)"
