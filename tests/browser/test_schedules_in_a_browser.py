"""The pages of schedules in a real browser."""

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from django_ray.models import RaySchedule, RayTaskExecution, State

pytestmark = pytest.mark.usefixtures("site")

LIVE = "/admin/django_ray/rayqueue/"
LIST = "/admin/django_ray/rayschedule/"
EVIL = "<script>window.owned=1</script><img src=x onerror=window.owned=1>"


def make(**columns):
    values = {"name": "nightly", "callable_path": "tests.clockwork.tasks.wind", "cron": "0 3 * * *", **columns}
    return RaySchedule.objects.create(**values)


def fill():
    """Some of each kind, as an afternoon leaves them."""
    row = make(name="nightly report", time_zone="Europe/Berlin", is_declared=True)
    row.backfill(timezone.now() - timedelta(days=4), timezone.now())
    RayTaskExecution.objects.update(state=State.SUCCESSFUL, finished_at=timezone.now(), worker_ids=["7"], result=None)
    RayTaskExecution.objects.filter(pk=row.executions.order_by("-tick").first().pk).update(state=State.FAILED)
    make(name="pull the prices", cron=None, every=timedelta(minutes=5), time_zone="UTC")
    make(name="invoices", cron="0 9 1 * *", time_zone="America/New_York", callable_path="shop.billing.tasks.invoices")
    make(name="old newsletter", is_declared=True, gone_at=timezone.now())
    make(name="weekly letter", cron="0 8 * * mon").pause()
    make(name="typed into SQL", cron="* * * * * *")
    schedules = RaySchedule.objects
    schedules.filter(name="typed into SQL").update(
        problem="cron is '* * * * * *': it has six fields, and must have five."
    )
    schedules.filter(name="pull the prices").update(
        next_at=timezone.now() - timedelta(seconds=200), skipped=12, lost=1234, lag=0.021
    )
    schedules.filter(name="nightly report").update(next_at=row.next_times(1)[0], lag=0.012)
    return row


def test_a_schedule_is_made_with_a_preview_that_follows_what_is_typed(log_in, take):
    page = log_in()
    page.goto(LIST)
    page.get_by_role("link", name="Add schedule").click()
    preview = page.locator("#dr-preview")
    page.fill("#id_name", "strike the hour")
    page.select_option("#id_task", "default tests.clockwork.tasks.strike")
    page.fill("#id_args", "[3]")
    page.fill("#id_time_zone", "Europe/Berlin")
    page.fill("#id_cron", "30 4 * *")
    expect(preview).to_contain_text("it has 4 fields, and must have five")
    take(page, "schedule-add-wrong")
    page.fill("#id_cron", "30 4 * * *")
    expect(preview.locator("li")).to_have_count(5)
    expect(preview.locator("li").first).to_contain_text("04:30")  # 02:30 is missing on one day of the year
    page.fill("#id_cron", "")
    page.fill("#id_every", "2 h")
    expect(preview.locator("li").first).to_contain_text(":00 ")
    take(page, "schedule-add")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    row = RaySchedule.objects.get()
    assert (row.every, row.priority, row.time_zone) == (timedelta(hours=2), 7, "Europe/Berlin")
    assert not RayTaskExecution.objects.exists()


def test_a_schedule_is_edited_paused_resumed_run_and_made_up_for_by_clicking(log_in, take):
    row = make(time_zone="Europe/Berlin")
    page = log_in()
    page.goto(LIST)
    page.get_by_role("link", name="nightly").click()
    head, messages = page.locator(".dr-head"), page.locator(".messagelist")
    expect(head).to_contain_text("Active")
    page.get_by_role("button", name="Pause").click()
    expect(messages).to_contain_text("1 schedule is paused.")
    expect(head).to_contain_text("Paused")
    page.get_by_role("button", name="Run now").click()
    expect(messages).to_contain_text("1 execution enqueued.")
    page.get_by_role("button", name="Resume").click()
    expect(head).to_contain_text("Active")
    page.get_by_text("Make up for a time").click()
    page.get_by_label("from").fill("2026-03-01T00:00")
    page.get_by_label("to, without it").fill("2026-03-04T00:00")
    take(page, "schedule-backfill")
    page.get_by_role("button", name="Enqueue what was due").click()
    expect(messages).to_contain_text("3 executions enqueued.")
    assert row.executions.count() == 4
    page.fill("#id_cron", "15 4 * * *")
    expect(page.locator("#dr-preview li").first).to_contain_text("04:15")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(messages).to_contain_text("was changed successfully")
    row.refresh_from_db()
    assert row.cron == "15 4 * * *"
    page.locator("#dr-runs ~ div a").last.click()
    expect(page.locator(".dr-head")).to_contain_text("due Sun 2026-03-01 03:00")
    page.get_by_role("link", name="nightly").click()
    expect(page.locator(".dr-head")).to_contain_text("15 4 * * *")


def test_without_permission_there_is_nothing(log_in):
    row = make()
    page = log_in(permissions=["view_rayqueue"])
    page.goto(LIVE)
    expect(page.locator("#dr-connection")).to_have_text("Connected")
    assert page.get_by_text("nightly").count() == 0
    for address in (LIST, f"{LIST}{row.pk}/change/", f"{LIST}add/"):
        assert page.goto(address).status == 403


def test_who_may_only_look_has_no_buttons(log_in, take):
    row = fill()
    page = log_in(permissions=["view_rayschedule"])
    page.goto(f"{LIST}{row.pk}/change/")
    expect(page.locator(".dr-head")).to_contain_text("Active")
    assert page.get_by_role("button", name="Pause").count() == 0
    assert page.get_by_role("button", name="Save").count() == 0
    take(page, "schedule-view-only")


def test_the_live_page_hears_of_a_new_schedule(log_in):
    page = log_in()
    page.goto(LIVE)
    expect(page.locator("#dr-connection")).to_have_text("Connected")
    page.evaluate("window.unreloaded = true")
    make(name="fresh")
    expect(page.locator("section", has=page.locator("h2", has_text="Due next"))).to_contain_text(
        "fresh", timeout=10_000
    )
    assert page.evaluate("window.unreloaded") is True


def test_scripts_stay_text_everywhere(log_in):
    row = make(name=EVIL, callable_path=EVIL, time_zone=EVIL, args=[EVIL], kwargs={EVIL: EVIL})
    RaySchedule.objects.update(problem=EVIL)
    row.run_now()
    page = log_in()
    execution = RayTaskExecution.objects.get()
    for address in (
        LIST, f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/delete/", f"{LIST}?q=script", LIVE,
        f"/admin/django_ray/raytaskexecution/{execution.pk}/change/",
    ):  # fmt: skip
        page.goto(address)
        expect(page.locator("body")).to_contain_text("<script>")
        page.wait_for_timeout(100)  # for what an image's error would do
        assert page.evaluate("window.owned") is None
        assert page.locator("img[src=x]").count() == 0
    page.goto(f"{LIST}add/")
    page.fill("#id_cron", EVIL)
    expect(page.locator("#dr-preview")).to_contain_text("<SCRIPT>", ignore_case=True)
    page.wait_for_timeout(100)
    assert page.evaluate("window.owned") is None


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_what_the_pages_look_like(log_in, take, scheme):
    row = fill()
    page = log_in(color_scheme=scheme)
    own = RaySchedule.objects.get(name="pull the prices")
    for width, suffix in ((1400, scheme), (420, f"narrow-{scheme}")):
        page.set_viewport_size({"width": width, "height": 900})
        for address, name in (
            (LIST, "schedules"), (f"{LIST}{row.pk}/change/", "schedule-declared"),
            (f"{LIST}{own.pk}/change/", "schedule"), (LIVE, "queues-schedules"),
        ):  # fmt: skip
            page.goto(address)
            expect(page.locator("body")).to_contain_text("nightly report" if address in {LIST, LIVE} else "Active")
            take(page, f"{name}-{suffix}")
        wide = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert wide, "the live page scrolls sideways"
