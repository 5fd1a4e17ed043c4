"""The schedules in the admin: who may do what, what a form writes, and what the pages show."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib import admin
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_ray.admin.schedule_form import PeriodField
from django_ray.models import RaySchedule, RayTaskExecution, State
from tests import tasks
from tests.test_admin import user_client

pytestmark = pytest.mark.django_db

LIST = "/admin/django_ray/rayschedule/"
ADD = f"{LIST}add/"
LIVE = "/admin/django_ray/rayqueue/live/"
EVIL = "<script>window.owned=1</script>"
VIEW, CHANGE, CREATE, DELETE = (f"{verb}_rayschedule" for verb in ("view", "change", "add", "delete"))
NEW = {
    "name": "nightly", "task": "default tests.clockwork.tasks.strike", "args": "[3]", "kwargs": '{"loud": true}',
    "cron": "0 3 * * *", "every": "", "time_zone": "Europe/Berlin", "missed": "one", "missed_within": "",
    "overlap": "skip",
}  # fmt: skip


def make(**columns):
    values = {"name": "nightly", "callable_path": "tests.clockwork.tasks.wind", "cron": "0 3 * * *", **columns}
    return RaySchedule.objects.create(**values)


def page(row, what="change"):
    return f"{LIST}{row.pk}/{what}/"


def text(client, address, status=200):
    answer = client.get(address)
    assert answer.status_code == status, address
    return answer.content.decode()


def said(answer):
    """Return the messages after a request that was redirected."""
    assert answer.status_code == 302, answer.content.decode()
    return [str(message) for message in answer.wsgi_request._messages]


def deeds(row):
    """Every request that does something, with its data."""
    selected = {"_selected_action": str(row.pk), "index": 0}
    span = {"start": "2026-03-01T00:00", "end": "2026-03-03T00:00"}
    return [
        *[(page(row, "do"), {"verb": verb}) for verb in ("pause", "resume", "run_now")],
        (page(row, "do"), {"verb": "backfill", **span}),
        *[(LIST, {**selected, "action": action}) for action in ("pause", "resume", "run_now")],
        (LIST, {**selected, "action": "delete_selected", "post": "yes"}),
        (page(row, "delete"), {"post": "yes"}),
        (page(row), {**NEW, "name": "other"}),
        (ADD, {**NEW, "name": "new"}),
    ]


def snapshot():
    rows = RaySchedule.objects.order_by("pk").values_list("name", "paused_at", "callable_path", "cron")
    return list(rows), RayTaskExecution.objects.count()


# Who may do what.


def test_who_may_nothing_sees_nothing_and_does_nothing(client):
    row = make()
    user_client(client)
    before = snapshot()
    for address in (LIST, page(row), ADD, page(row, "history"), f"{LIST}preview/?cron=*+*+*+*+*&time_zone=UTC"):
        assert client.get(address).status_code == 403, address
    for address, data in deeds(row):
        assert client.post(address, data).status_code == 403, address
    assert snapshot() == before


def test_who_may_only_look_changes_nothing_and_is_offered_nothing(client):
    row = make()
    user_client(client, VIEW)
    before = snapshot()
    for address, data in deeds(row):
        answer = client.post(address, data)
        assert answer.status_code == 403 or (address, answer.status_code) == (LIST, 200), address
        assert snapshot() == before, address
    shown = text(client, page(row)) + text(client, LIST)
    for button in ('value="pause"', 'value="run_now"', 'name="_save"', "Enqueue what was due", "Add schedule"):
        assert button not in shown
    assert "tests.clockwork.tasks.wind" in shown


def test_who_may_change_has_the_verbs_and_does_not_edit(client):
    row = make()
    user_client(client, VIEW, CHANGE)
    assert "1 schedule is paused." in said(client.post(page(row, "do"), {"verb": "pause"}))
    shown = text(client, page(row))
    assert ">Resume" in shown
    assert 'name="_save"' not in shown
    assert client.post(page(row), NEW).status_code == 403
    assert client.post(ADD, NEW).status_code == 403
    row.refresh_from_db()
    assert (row.cron, row.callable_path) == ("0 3 * * *", "tests.clockwork.tasks.wind")


def test_to_edit_takes_the_permission_to_add_as_well(client):
    row = make()
    user_client(client, VIEW, CHANGE, CREATE)
    assert client.post(page(row), NEW).status_code == 302
    row.refresh_from_db()
    assert row.callable_path == "tests.clockwork.tasks.strike"
    assert client.post(page(row, "delete"), {"post": "yes"}).status_code == 403


def test_what_the_code_declares_is_paused_and_run_but_neither_edited_nor_deleted(admin_client):
    row = make(is_declared=True)
    shown = text(admin_client, page(row))
    assert "The code declares this schedule" in shown
    assert shown.partition("The next five times")[2].count("<li>") == 5
    assert 'name="_save"' not in shown
    assert ">Pause" in shown
    assert admin_client.post(page(row), NEW).status_code == 403
    assert admin_client.post(page(row, "delete"), {"post": "yes"}).status_code == 403
    selected = {"_selected_action": str(row.pk), "index": 0, "action": "delete_selected", "post": "yes"}
    assert admin_client.post(LIST, selected).status_code == 403
    assert "1 execution enqueued." in said(admin_client.post(page(row, "do"), {"verb": "run_now"}))
    assert RaySchedule.objects.get().cron == "0 3 * * *"


def test_what_the_code_does_not_declare_any_more_is_deleted_or_kept_by_resuming_it(admin_client):
    row = make(is_declared=True, gone_at=timezone.now())
    assert "Not declared any more" in text(admin_client, page(row))
    assert "1 schedule is resumed." in said(admin_client.post(page(row, "do"), {"verb": "resume"}))
    assert 'name="_save"' in text(admin_client, page(row))
    assert admin_client.post(page(row, "delete"), {"post": "yes"}).status_code == 302
    assert not RaySchedule.objects.exists()


def test_nothing_is_done_by_a_get_and_an_unknown_verb_does_nothing(admin_client):
    row = make()
    assert admin_client.get(page(row, "do")).status_code == 405
    assert admin_client.post(f"{LIST}preview/").status_code == 405
    assert admin_client.post(page(row, "do"), {"verb": "explode"}).status_code == 404
    assert admin_client.post(f"{LIST}{row.pk + 1}/do/", {"verb": "pause"}).status_code == 404
    assert admin_client.get(f"{LIST}{row.pk + 1}/change/").status_code == 302  # Django's: a message, on the index


# The verbs.


def test_the_buttons_pause_resume_and_run(admin_client):
    row = make()
    do = lambda verb, **data: said(admin_client.post(page(row, "do"), {"verb": verb, **data}))  # noqa: E731
    assert do("pause") == ["1 schedule is paused."]
    assert do("pause")[-1] == "No schedule was paused: it was already."
    assert do("run_now")[-1] == "1 execution enqueued."
    assert do("resume")[-1] == "1 schedule is resumed."
    assert do("resume")[-1] == "No schedule was resumed: none was paused."
    execution = RayTaskExecution.objects.get()
    assert (execution.schedule_id, execution.state) == (row.pk, State.READY)


def test_a_time_is_made_up_for_by_the_clock_of_the_schedule_and_once(admin_client):
    row = make(time_zone="Europe/Berlin")
    data = {"verb": "backfill", "start": "2026-03-28T03:00", "end": "2026-03-30T03:00"}
    assert said(admin_client.post(page(row, "do"), data)) == ["2 executions enqueued."]
    ticks = list(RayTaskExecution.objects.order_by("tick").values_list("tick", flat=True))
    assert ticks == [
        datetime(2026, 3, 28, 2, tzinfo=UTC),
        datetime(2026, 3, 29, 1, tzinfo=UTC),
    ]  # the clock went forward
    assert said(admin_client.post(page(row, "do"), data))[-1].startswith("No execution enqueued: nothing was due then")


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({}, {}, "Say from when, and to when."),
        ({}, {"start": "yesterday", "end": "2026-01-01"}, "Say from when, and to when."),
        ({"cron": "* * * * *"}, {"start": "2020-01-01", "end": "2026-01-01"}, "more than 10,000 times"),
        ({"cron": "* * * * * *"}, {"start": "2020-01-01", "end": "2026-01-01"}, "six fields"),
    ],
)
def test_a_time_that_cannot_be_made_up_for_is_said(admin_client, columns, data, message):
    row = make(**columns)
    answer = admin_client.post(page(row, "do"), {"verb": "backfill", **data})
    assert message in said(answer)[-1]
    assert not RayTaskExecution.objects.exists()


def test_the_actions_of_the_list_do_it_for_many(admin_client):
    rows = [make(name=name) for name in "abc"]
    for action, message in (
        ("pause", "3 schedules are paused."),
        ("run_now", "3 executions enqueued."),
        ("resume", "3 schedules are resumed."),
    ):
        data = {"action": action, "index": 0, "_selected_action": [str(row.pk) for row in rows]}
        assert said(admin_client.post(LIST, data))[-1] == message
    data = {"action": "delete_selected", "post": "yes", "_selected_action": [str(row.pk) for row in rows[:2]]}
    assert admin_client.post(LIST, data).status_code == 302
    assert RaySchedule.objects.get().name == "c"
    assert RayTaskExecution.objects.count() == 3  # their executions stay


# The form.


def test_a_schedule_that_staff_makes_says_what_its_task_says(admin_client):
    assert admin_client.post(ADD, NEW).status_code == 302
    row = RaySchedule.objects.get()
    assert (row.callable_path, row.args, row.kwargs) == ("tests.clockwork.tasks.strike", [3], {"loud": True})
    assert (row.queue_name, row.priority, row.is_declared) == ("default", 7, False)
    assert row.options == {"retry": {"max_attempts": 2}} or row.options["retry"]["max_attempts"] == 2
    assert row.seen == [{"queue_name": "default", "priority": 7, "options": row.options}]
    assert row.run_now().task.priority == 7


def test_editing_writes_what_the_form_says_and_leaves_alone_what_supervisors_write(admin_client):
    row = make(callable_path="tests.clockwork.tasks.strike", args=[1], queue_name="mine", priority=-3)
    RaySchedule.objects.filter(pk=row.pk).update(skipped=4, lost=5, problem="Once.", lag=0.5, next_at=timezone.now())
    assert (
        admin_client.post(page(row), {**NEW, "every": "", "cron": "0 3 * * *", "time_zone": row.time_zone}).status_code
        == 302
    )
    row.refresh_from_db()
    assert (row.skipped, row.lost, row.problem, row.lag) == (4, 5, "Once.", 0.5)
    assert row.next_at is not None  # it says when as before
    assert (row.args, row.queue_name, row.priority) == ([3], "mine", -3)  # the task is the same
    assert admin_client.post(page(row), {**NEW, "cron": "", "every": "5 min"}).status_code == 302
    row.refresh_from_db()
    assert (row.cron, row.every, row.next_at) == (None, timedelta(minutes=5), None)  # the first tick from now on
    assert RayTaskExecution.objects.count() == 0


def test_another_task_brings_what_it_says(admin_client):
    row = make()
    assert admin_client.post(page(row), NEW).status_code == 302
    row.refresh_from_db()
    assert (row.queue_name, row.priority) == ("default", 7)


def test_what_admits_its_executions_follows_from_the_arguments_of_the_form(admin_client):
    chime = {**NEW, "task": "default tests.clockwork.tasks.chime"}
    assert admin_client.post(ADD, chime).status_code == 302
    row = RaySchedule.objects.get()
    first = row.admission
    assert (first["unique"][:2], first["gate"], first["rule"]) == ("u:", "tests.clockwork.tasks.chime:3", {"limit": 2})
    assert row.run_now().id == row.run_now().id
    assert admin_client.post(page(row), {**chime, "args": "[4]"}).status_code == 302
    row.refresh_from_db()
    assert (row.admission["gate"], row.admission["unique"] == first["unique"]) == (
        "tests.clockwork.tasks.chime:4",
        False,
    )
    assert admin_client.post(page(row), NEW).status_code == 302
    row.refresh_from_db()
    assert row.admission is None


def test_a_schedule_whose_equal_execution_is_unfinished_is_run_once(admin_client):
    row = make(callable_path="tests.clockwork.tasks.chime", args=[3])
    do = lambda: said(admin_client.post(page(row, "do"), {"verb": "run_now"}))  # noqa: E731
    assert do() == ["1 execution enqueued."]
    assert do()[-1] == "No execution enqueued: an equal one is unfinished."
    assert RayTaskExecution.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"name": ""}, "name", "This field is required."),
        ({"name": "there"}, "name", "There is a schedule of this name already."),
        ({"name": "a\x00b"}, "name", "Null characters are not allowed."),
        ({"task": "default tests.clockwork.tasks.stop"}, "task", "is not one of the available choices"),
        ({"task": "default os.system"}, "task", "is not one of the available choices"),
        ({"args": "[1"}, "args", "Enter a valid JSON."),
        ({"args": '{"a": 1}'}, "args", "It must be a list."),
        ({"args": '["\\u0000"]'}, "args", "NUL"),
        ({"args": "[NaN]"}, "args", "which JSON does not have"),
        ({"args": "[]", "kwargs": "{}"}, "args", "missing a required argument: 'hour'"),
        ({"kwargs": "[1]"}, "kwargs", "It must be an object"),
        ({"kwargs": '{"quiet": 1}'}, "args", "unexpected keyword argument 'quiet'"),
        ({"cron": "* * * * * *"}, "cron", "six fields"),
        ({"cron": "0 0 30 2 *"}, "cron", "is no day-of-month"),
        ({"cron": ""}, "cron", "say when"),
        ({"every": "5 min"}, "cron", "say when"),
        ({"cron": "", "every": "soon"}, "every", "Enter a valid duration."),
        ({"cron": "", "every": "0.5"}, "every", "at least a second"),
        ({"cron": "", "every": "999999999 w"}, "every", "Enter a valid duration."),
        ({"time_zone": "Mars/Base"}, "time_zone", "Mars/Base"),
        ({"missed_within": "9999 d"}, "missed_within", "at most 366 days"),
        ({"missed": "never"}, "missed", "is not one of the available choices"),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused_beside_the_field(admin_client, change, field, message):
    make(name="there")
    answer = admin_client.post(ADD, {**NEW, **change})
    assert answer.status_code == 200
    errors = answer.context["adminform"].form.errors
    assert message in " ".join(errors.get(field, [])), errors
    assert RaySchedule.objects.count() == 1


@pytest.mark.parametrize(
    ("typed", "period"),
    [("90 s", 90), ("5min", 300), ("5 M", 300), ("2 h", 7200), ("1 d", 86_400), ("2w", 1_209_600), ("00:05:00", 300)],
)
def test_a_period_is_read_as_people_write_it(typed, period):
    assert PeriodField().clean(typed) == timedelta(seconds=period)


@pytest.mark.parametrize(("seconds", "shown"), [(90, "90 s"), (300, "5 min"), (7200, "2 h"), (172_800, "2 d")])
def test_a_period_is_shown_as_it_can_be_typed(seconds, shown):
    period = timedelta(seconds=seconds)
    assert PeriodField().prepare_value(period) == shown
    assert PeriodField().clean(shown) == period
    assert PeriodField().clean(PeriodField().prepare_value(period + timedelta(milliseconds=5))) is not None


# What is shown.


def test_the_preview_says_what_the_fields_mean(admin_client):
    ask = lambda **said: admin_client.get(f"{LIST}preview/", said).content.decode()  # noqa: E731
    shown = ask(cron="30 2 * * *", every="", time_zone="Europe/Berlin")
    assert shown.count("<li>") == 5
    assert " 02:30" in shown
    assert "CET" in shown or "CEST" in shown
    assert ask(cron="", every="5 min", time_zone="UTC").count("<li>") == 5
    assert "six fields" in ask(cron="* * * * * *", time_zone="UTC")
    assert "say when" in ask()
    assert "Enter a valid duration." in ask(every="soon", time_zone="UTC")
    assert "&lt;script&gt;" in ask(cron=EVIL, time_zone="UTC")


def test_without_a_script_the_form_shows_the_times_when_it_comes_back(admin_client):
    shown = text(admin_client, ADD)
    assert "say when" in shown
    answer = admin_client.post(ADD, {**NEW, "_continue": "1"}, follow=True).content.decode()
    assert answer.count('<time datetime="') >= 6
    refused = admin_client.post(ADD, {**NEW, "name": ""}).content.decode()
    assert refused.count("03:00</time>") == 5


def test_the_list_shows_when_it_is_due_and_what_became_of_the_last_tick(admin_client):
    row = make(time_zone="Asia/Tokyo")
    row.run_now()
    RayTaskExecution.objects.update(state=State.FAILED, finished_at=timezone.now())
    make(name="quarterly", cron=None, every=timedelta(minutes=15))
    make(name="odd", cron="* * * * * *")
    RaySchedule.objects.filter(name="odd").update(problem="cron has six fields.")
    make(name="late", next_at=None)
    RaySchedule.objects.filter(name="late").update(next_at=timezone.now() - timedelta(minutes=3))
    make(name="paused").pause()
    shown = text(admin_client, LIST)
    for part in (
        " 03:00</time>", "Asia/Tokyo", "every 15 min", "dr-failed", "cron has six fields.", "overdue for 3 min",
        "Paused",
    ):  # fmt: skip
        assert part in shown, part


def test_filters_and_the_search_find_what_they_say(admin_client):
    make(name="a")
    make(name="b", callable_path="shop.tasks.mail").pause()
    make(name="c", is_declared=True, gone_at=timezone.now())
    make(name="d")
    RaySchedule.objects.filter(name="d").update(problem="Why?")
    found = lambda **query: [str(row) for row in admin_client.get(LIST, query).context["cl"].queryset]  # noqa: E731
    assert found() == ["a", "b", "c", "d"]
    assert (found(now="active"), found(now="paused"), found(now="gone")) == (["a", "d"], ["b"], ["c"])
    assert (found(now="problem"), found(q="mail"), found(now="nonsense")) == (["d"], ["b"], ["a", "b", "c", "d"])


def test_what_no_index_serves_looks_at_the_newest_schedules(admin_client, monkeypatch):
    monkeypatch.setattr("django_ray.admin.filters.NEWEST", 2)
    for name in "abc":
        make(name=name)
    found = lambda **query: [str(row) for row in admin_client.get(LIST, query).context["cl"].queryset]  # noqa: E731
    assert found() == ["a", "b", "c"]
    assert found(now="active") == ["b", "c"]


def test_an_execution_leads_to_its_schedule_and_says_its_tick(admin_client, client):
    row = make(time_zone="Europe/Berlin")
    row.backfill(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
    execution = reverse("admin:django_ray_raytaskexecution_change", args=[RayTaskExecution.objects.get().pk])
    shown = text(admin_client, execution)
    assert f'<a href="{page(row)}">nightly</a>' in shown
    assert "Sun 2026-03-01 03:00" in shown
    assert "Due by its schedule" in shown
    assert execution in text(admin_client, page(row))
    RaySchedule.objects.all().delete()
    shown = text(admin_client, execution)
    assert "<b>nightly</b>" in shown
    user_client(client, "view_raytaskexecution")
    assert "rayschedule" not in text(client, execution)


def test_the_page_of_a_schedule_shows_executions_to_who_may_see_them(client):
    row = make()
    row.run_now()
    user_client(client, VIEW)
    assert "Last executions" not in text(client, page(row))


def test_the_live_page_shows_what_is_due_next_to_who_may_see_it(admin_client, client):
    assert "Due next" not in text(admin_client, LIVE)
    make(name=EVIL, time_zone="UTC")
    shown = text(admin_client, LIVE)
    assert "Due next" in shown
    assert "&lt;script&gt;" in shown
    assert EVIL not in shown
    user_client(client, "view_rayqueue")
    assert "Due next" not in text(client, LIVE)


@pytest.mark.parametrize(
    "columns",
    [
        {"cron": "* * * * * *"},
        {"time_zone": "Mars/Base"},
        {"time_zone": "../../etc/passwd"},
        {"cron": None, "every": timedelta(0)},
        {"cron": None, "every": timedelta(days=-999_999)},
        {"cron": EVIL, "name": EVIL, "time_zone": EVIL, "callable_path": EVIL},
        {"callable_path": "nothing.there"},
        {"args": [10**30, {"a": [None]}], "kwargs": {EVIL: EVIL}},
    ],
)
def test_whatever_a_row_says_the_pages_show_it(admin_client, columns):
    row = make(**columns)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_ray_schedule SET lag = 'NaN', problem = %s, next_at = NULL", [EVIL])
    for moment in (None, "-infinity", "infinity", "10000-01-01", "0044-03-15 BC"):
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_ray_schedule SET next_at = %s", [moment])
        for address in (LIST, page(row), LIVE, "/admin/django_ray/rayqueue/"):
            assert EVIL not in text(admin_client, address)


def test_no_page_of_schedules_costs_more_beside_many(admin_client):
    ContentType.objects.get_for_model(RaySchedule)  # Django remembers it
    counts = []
    for number in (5, 500):
        rows = [RaySchedule(name=f"{number}-{index}", callable_path="x.y", cron="0 3 * * *") for index in range(number)]
        RaySchedule.objects.bulk_create(rows)
        row = RaySchedule.objects.first()
        counts.append([statements(admin_client, address) for address in (LIST, page(row), LIVE, f"{LIST}?now=active")])
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 20


def statements(client, address):
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    return len(queries)


def test_a_site_of_ones_own_has_the_pages_too():
    from django_ray.admin import ScheduleAdmin

    site = admin.AdminSite("own")
    site.register(RaySchedule, ScheduleAdmin)
    assert not site.get_model_admin(RaySchedule).check()


def test_a_schedules_name_stays_text_in_json(admin_client):
    row = make(name=EVIL, args=[EVIL])
    shown = text(admin_client, page(row))
    assert json.dumps(EVIL) not in shown
    tasks.add.enqueue(1, 2)
    assert EVIL not in text(admin_client, LIST)
