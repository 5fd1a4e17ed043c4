"""The admin and the live page in a real browser."""

import json

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from django_ray.models import RayMinute, RayProgress, RayQueue, RayTaskExecution, RayWorker, State
from tests import steps, tasks

LIVE = "/admin/django_ray/rayqueue/"
LIST = "/admin/django_ray/raytaskexecution/"
EVIL = "<script>window.owned=1</script><img src=x onerror=window.owned=1>"


def queue_row(page, name):
    return page.locator("#dr-live tr", has=page.locator("th", has_text=name))


def insert(connect, number=1, **columns):
    session = connect()
    names = {"callable_path": "shop.tasks.greet", **columns}
    session.execute(
        f"INSERT INTO django_ray_execution ({', '.join(names)}) SELECT {', '.join(['%s'] * len(names))}"
        f" FROM generate_series(1, {number})",
        list(names.values()),
    )


def failed(connect, number=1, message="No address.", **columns):
    text = f'Traceback (most recent call last):\n  File "shop/tasks.py", line 3, in ship\nValueError: {message}\n'
    error = {
        "attempt": 1, "worker_id": "7", "at": timezone.now().isoformat(), "exception_class_path": "builtins.ValueError",
        "message": message, "traceback": text,
    }  # fmt: skip
    now = timezone.now()
    insert(
        connect, number, state="FAILED", finished_at=now, started_at=now, last_attempted_at=now, attempt_number=1,
        failures=1, worker_ids='["7"]', errors=json.dumps([error]), **columns,
    )  # fmt: skip


def busy(connect):
    """Fill the tables with what a busy afternoon leaves."""
    session = connect()
    worker = RayWorker.objects.create(
        hostname="worker-1", pid=4711, backend="default", queues=["default", "other"], concurrency=8,
        ray_address="10.0.0.5:6379", version="0.1.0", pulse=60, resources={"CPU": 8, "GPU": 1, "memory": 3e10},
        replicas={"shop.models.Classifier": 2, "shop.models.Translator": 1}, wanted=4,
    )  # fmt: skip
    now = timezone.now().replace(second=0, microsecond=0)
    for ago in range(60):
        for queue, share in (("default", 40), ("other", 7)):
            RayMinute.objects.create(
                minute=now - timezone.timedelta(minutes=ago), backend="default", queue_name=queue, worker=worker,
                succeeded=share + ago * 7 % 23, failed=ago % 9 == 0, retried=0, cancelled=0, waited=0.3 * share,
                longest_wait=0.02 + (ago * 13 % 11) / 10,
            )  # fmt: skip
    insert(connect, 1234)
    insert(connect, 3, queue_name="other", due_at=now + timezone.timedelta(hours=2))
    for seconds in (3, 75, 4000):
        then = timezone.now() - timezone.timedelta(seconds=seconds)
        insert(
            connect, state="RUNNING", claimed_by_id=worker.pk, attempt_number=1, worker_ids=f'["{worker.pk}"]',
            started_at=then, last_attempted_at=then, callable_path="shop.tasks.monthly_report",
        )  # fmt: skip
    longest = RayTaskExecution.objects.filter(state=State.RUNNING).order_by("last_attempted_at").first()
    RayProgress.objects.create(execution=longest, attempt=1, fraction=0.4, message="page 40 of 100")
    failed(connect, 4, "Order 43 has no address.", callable_path="shop.tasks.ship")
    session.execute("ANALYZE django_ray_execution")
    return worker


def test_a_task_goes_from_waiting_to_done_on_the_page(log_in, listen, take):
    page = log_in()
    page.goto(LIVE)
    row = queue_row(page, "default")
    expect(page.locator("#dr-connection")).to_have_text("Connected")
    expect(page.get_by_text("No supervisor is running")).to_be_visible()
    take(page, "queues-empty")
    marked = page.evaluate("window.unreloaded = true")
    result = tasks.add.enqueue(1, 2)
    expect(row.locator("td").first).to_have_text("1")
    listen("--sync").wait_for("is ready")
    expect(row.locator("td").first).to_have_text("0")
    expect(row).to_contain_text("1 done")
    expect(page.get_by_text("No supervisor is running")).to_have_count(0)
    assert page.evaluate("window.unreloaded") is marked is True
    result.refresh()
    assert result.return_value == 3


def test_under_wsgi_the_page_asks_again_by_itself(log_in, live_server):
    page = log_in(address=live_server.url)
    page.goto(LIVE)
    expect(page.locator("#dr-connection")).to_have_text("Refreshed every 5 seconds")
    page.evaluate("window.unreloaded = true")
    tasks.add.enqueue(1, 2)
    expect(queue_row(page, "default").locator("td").first).to_have_text("1", timeout=15_000)
    assert page.evaluate("window.unreloaded") is True


def test_the_page_says_when_it_is_not_connected_and_comes_back(log_in, site_of_its_own):
    page = log_in(address=site_of_its_own.address)
    page.goto(LIVE)
    expect(page.locator("#dr-connection")).to_have_text("Connected")
    site_of_its_own.stop()
    expect(page.locator("#dr-connection")).to_contain_text("Not connected")
    site_of_its_own.start()
    expect(page.locator("#dr-connection")).to_have_text("Connected", timeout=30_000)


def test_a_long_task_is_seen_running(log_in, listen, tmp_path):
    page = log_in()
    page.goto(LIVE)
    listen("--sync").wait_for("is ready")
    release = tmp_path / "a"
    tasks.play.enqueue("hold", str(release))
    running = page.locator("section", has=page.locator("h2", has_text="Running"))
    expect(running).to_contain_text("tests.tasks.play")
    (tmp_path / "a.go").touch()
    expect(running).to_contain_text("Nothing is running.")


def test_the_bar_of_a_running_task_moves(log_in, listen, tmp_path):
    page = log_in()
    page.goto(LIVE)
    listen("--sync").wait_for("is ready")
    steps.tell.enqueue(str(tmp_path), 4)
    running = page.locator("section", has=page.locator("h2", has_text="Running"))
    for step, percent in ((1, "25 %"), (2, "50 %"), (3, "75 %")):
        (tmp_path / str(step)).touch()
        expect(running).to_contain_text(f"step {step}", timeout=10_000)
        expect(running).to_contain_text(percent)
    (tmp_path / "4").touch()
    expect(running).to_contain_text("Nothing is running.")


def test_pausing_and_resuming_by_clicking(log_in, listen):
    page = log_in()
    page.goto(LIVE)
    listen("--sync").wait_for("is ready")
    row = queue_row(page, "default")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("Paused")
    tasks.add.enqueue(1, 2)
    other = tasks.add.using(queue_name="other").enqueue(1, 2)
    other.wait(timeout=60)
    expect(row.locator("td").first).to_have_text("1")
    row.get_by_role("button", name="Resume").click()
    expect(row).not_to_contain_text("Paused")
    expect(row.locator("td").first).to_have_text("0")


def test_retry_and_cancel_and_enqueue_again_by_clicking(log_in, connect):
    failed(connect)
    insert(connect)
    page = log_in()
    page.goto(LIST + "?state=FAILED")
    page.locator("#result_list tbody th a, #result_list tbody td a").first.click()
    expect(page.locator(".dr-head")).to_contain_text("Failed")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".messagelist")).to_contain_text("1 execution will be tried again.")
    expect(page.locator(".dr-head")).to_contain_text("Waiting")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".dr-head")).to_contain_text("Cancelled")
    page.get_by_role("button", name="Enqueue again").click()
    expect(page.locator(".messagelist")).to_contain_text("1 execution enqueued.")
    assert RayTaskExecution.objects.filter(state=State.READY).count() == 2


def test_everything_that_a_filter_matches_is_retried(log_in, connect, take):
    failed(connect, 120)
    insert(connect, 3)
    page = log_in()
    page.goto(LIST + "?state=FAILED")
    page.check("#action-toggle")
    page.get_by_text("Select all 120").click()
    page.select_option("select[name=action]", "retry")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.get_by_text("120 executions are selected.")).to_be_visible()
    take(page, "ask")
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator(".messagelist")).to_contain_text("120 executions will be tried again.")
    assert not RayTaskExecution.objects.filter(state=State.FAILED).exists()


def test_scripts_stay_text_everywhere(log_in, connect):
    failed(
        connect,
        message=EVIL,
        args=json.dumps([EVIL]),
        kwargs=json.dumps({EVIL: EVIL}),
        queue_name=EVIL,
        callable_path=EVIL,
    )
    insert(connect, queue_name=EVIL)
    RayQueue.objects.pause(EVIL)
    RayWorker.objects.create(
        hostname=EVIL, pid=1, backend="default", queues=[EVIL], concurrency=1, ray_address=EVIL, version=EVIL, pulse=0
    )
    page = log_in()
    (row,) = RayTaskExecution.objects.filter(state=State.FAILED)
    for address in (LIVE, LIST, f"{LIST}{row.pk}/change/", "/admin/django_ray/rayworker/", f"{LIST}?q=script"):
        page.goto(address)
        expect(page.locator("body")).to_contain_text("<script>")
        page.wait_for_timeout(100)  # for what an image's error would do
        assert page.evaluate("window.owned") is None
        assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_what_the_pages_look_like(log_in, connect, take, scheme):
    worker = busy(connect)
    session = connect()
    session.execute("SELECT django_ray_identify(%s)", [worker.pk])
    RayQueue.objects.pause("other")
    page = log_in(color_scheme=scheme)
    page.goto(LIVE)
    expect(page.locator("#dr-connection")).to_have_text("Connected")
    expect(queue_row(page, "default")).to_contain_text("done")
    take(page, f"queues-{scheme}")
    page.goto(LIST)
    take(page, f"executions-{scheme}")
    row = RayTaskExecution.objects.filter(state=State.FAILED).first()
    page.goto(f"{LIST}{row.pk}/change/")
    take(page, f"execution-{scheme}")
    page.goto("/admin/django_ray/rayworker/")
    take(page, f"supervisors-{scheme}")
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto(LIVE)
    take(page, f"queues-narrow-{scheme}")


def test_what_a_task_wrote_is_on_its_page_and_stays_text(log_in, listen, take):
    listen("--sync").wait_for("is ready")
    result = tasks.write_lines.enqueue(3, f"{EVIL} and more").wait(timeout=60)
    page = log_in()
    page.goto(f"{LIST}{result.id}/change/")
    output = page.locator("section", has=page.locator("h2", has_text="Output"))
    expect(output).to_contain_text("a warning\nto standard error\nline 0\nline 1\nline 2\n" + EVIL, use_inner_text=True)
    assert page.evaluate("window.owned") is None
    take(page, "execution-output")


def test_a_task_that_no_code_knows_says_so(log_in, connect, take):
    insert(connect, missing_since=timezone.now(), due_at=timezone.now() + timezone.timedelta(seconds=30))
    page = log_in()
    page.goto(LIST)
    page.get_by_role("link", name=str(RayTaskExecution.objects.get().pk)[:8]).or_(
        page.locator("#result_list th a")
    ).first.click()
    expect(page.get_by_text("no supervisor that took it could begin it")).to_be_visible()
    take(page, "execution-missing")


def test_how_far_a_task_is_stands_on_its_page_and_stays_text(log_in, connect, take):
    busy(connect)
    row = RayTaskExecution.objects.filter(state=State.RUNNING).first()
    RayProgress.objects.all().delete()
    RayProgress.objects.create(execution=row, attempt=1, fraction=0.4, message=f"40 of 100 {EVIL}")
    page = log_in()
    page.goto(f"{LIST}{row.pk}/change/")
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    expect(page.locator(".dr-progress")).to_contain_text("40 %")
    expect(page.locator(".dr-progress")).to_contain_text(EVIL)
    assert page.evaluate("window.owned") is None
    take(page, "execution-progress")
