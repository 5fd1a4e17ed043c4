"""A night on call: fifteen questions, each answered by one page or one command, where the answer is read."""

import json
import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from django_ray.flows import Flow
from django_ray.models import RayGate, RayQueue, RaySchedule, RayTaskExecution, RayWorker
from tests import tasks

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:django_ray_raytaskexecution_changelist")
LIVE = reverse("admin:django_ray_rayqueue_changelist")
TASKS = reverse("admin:django_ray_tasks")


def row(path="shop.tasks.ship", **columns):
    return RayTaskExecution.objects.create(callable_path=path, **columns)


def error(message, kind="builtins.ValueError", attempt=1):
    at = timezone.now().isoformat()
    return {
        "exception_class_path": kind, "message": message, "traceback": f"Traceback ...\n{kind}: {message}",
        "attempt": attempt, "worker_id": "7", "at": at,
    }  # fmt: skip


@pytest.fixture
def night(connect):
    """What happened since yesterday evening."""
    now = timezone.now()
    session = connect()
    worker = RayWorker.objects.create(
        hostname="worker-1", pid=4711, backend="default", queues=["default"], concurrency=4, ray_address="local",
        version="0.2.0", pulse=60,
    )  # fmt: skip
    session.execute("SELECT django_ray_identify(%s)", [worker.pk])
    lost = RayWorker.objects.create(
        hostname="worker-2", pid=4712, backend="default", queues=["default"], concurrency=4, ray_address="local",
        version="0.2.0", pulse=60, lost_at=now - timedelta(minutes=20), rescued=3,
    )  # fmt: skip
    ended = {
        "started_at": now,
        "last_attempted_at": now - timedelta(seconds=1),
        "finished_at": now,
        "worker_ids": ["7"],
    }
    failed = row(
        args=[4711, "express"], state="FAILED", failures=3, errors=[error("no address of 4711", attempt=3)], **ended,
    )  # fmt: skip
    for number in range(5):
        row(args=[number], state="FAILED", errors=[error("the carrier is away", "shop.carriers.Away")], **ended)
    retrying = row(
        "shop.tasks.charge", args=[815], attempt_number=2, failures=2,
        errors=[error("timeout", "builtins.TimeoutError")],
        worker_ids=["7", "7"], due_at=now + timedelta(seconds=3000), last_attempted_at=now, started_at=now,
    )  # fmt: skip
    for number in range(20):
        long = {**ended, "last_attempted_at": now - timedelta(seconds=90 + number)}
        row("shop.tasks.monthly_report", state="SUCCESSFUL", result=1, **long)
        row("shop.tasks.greet", state="SUCCESSFUL", result=1, **ended)
    running = row(
        "shop.tasks.monthly_report", state="RUNNING", claimed_by=worker, attempt_number=1, worker_ids=[str(worker.pk)],
        started_at=now, last_attempted_at=now - timedelta(minutes=40),
    )  # fmt: skip
    RayQueue.objects.pause("default", by="ada", because="The carrier is away until six.")
    row("shop.tasks.thumbnail", queue_name="other")  # which nobody serves
    RaySchedule.objects.create(name="nightly", callable_path="shop.tasks.gone", cron="0 3 * * *")
    late = RaySchedule.objects.create(name="hourly", callable_path="shop.tasks.tidy", cron="0 * * * *")
    RaySchedule.objects.filter(pk=late.pk).update(next_at=now - timedelta(minutes=7))
    RayGate.objects.create(name="shop:*", limit=1)
    row("shop.tasks.import_shop", state="WAITING", gate="shop:7", gate_rule={"limit": 1})
    flow = Flow("nightly import")
    with flow:
        first = tasks.add.enqueue(1, 2)
        tasks.add.enqueue(first, 3)
    return {
        "failed": failed, "retrying": retrying, "running": running, "worker": worker, "lost": lost, "flow": flow,
        "gone": row("shop.tasks.gone", missing_since=now, worker_ids=["7"], due_at=now + timedelta(seconds=30)),
    }  # fmt: skip


@pytest.fixture
def page(admin_client):
    """Return the text of a page, as somebody reads it."""

    def read(address):
        answer = admin_client.get(address)
        assert answer.status_code == 200
        return " ".join(
            re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", answer.content.decode(), flags=re.DOTALL).split()
        )

    return read


def command(*arguments):
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def of(execution):
    return reverse("admin:django_ray_raytaskexecution_change", args=[execution.pk])


def test_which_job_of_customer_4711_failed_and_why(night, page):
    found = page(f"{LIST}?state=FAILED&q=args:4711")
    assert "1 result" in found
    assert "4711, &quot;express&quot;" in found
    assert "ValueError: no address of 4711" in found


def test_when_does_the_charge_of_815_run_again(night, page):
    assert re.search(r"Retrying in [45]\d min", page(f"{LIST}?q=args:815"))
    assert re.search(
        r"The next attempt, 3 of 3, is due in [45]\d min, after TimeoutError;", page(of(night["retrying"]))
    )


def test_what_is_slow(night, page):
    first = page(f"{TASKS}?hours=24&by=run_p95").partition("Wait, 95 %")[2]
    assert first.split()[0] == "shop.tasks.monthly_report"
    assert "shop.tasks.monthly_report 20 0 0 % 0 1 min 39 s" in first


def test_is_this_one_slower_than_usual(night, page):
    assert re.search(
        r"runs for 40 min( \d+ s)? ?, usually 1 min 39 s, 95 % within 1 min 4\d s", page(of(night["running"]))
    )


def test_who_paused_which_queue_and_why(night, page):
    assert re.search(r"default Paused by ada, .*: The carrier is away until six\.", page(LIVE))


def test_why_does_the_import_of_shop_7_not_run(night, page):
    (waiting,) = RayTaskExecution.objects.filter(gate="shop:7")
    why = command("django_ray_why", str(waiting.pk))
    assert re.search(r"paused by ada for .*, because 'The carrier is away until six\.': resume it", why)
    RayQueue.objects.resume("default")
    assert "gate" in command("django_ray_why", str(waiting.pk))


def test_is_anything_not_served(night):
    with pytest.raises(SystemExit) as ended:
        out = StringIO()
        call_command("django_ray_status", "--check", stdout=out)
    assert ended.value.code == 1
    assert "other" in out.getvalue()
    assert "no supervisor serves" in out.getvalue().lower()


def test_what_fails_most_and_since_when(night):
    groups = json.loads(command("django_ray_status", "--json"))["failure_groups"]
    most = max(groups, key=lambda group: group["failures"])
    assert (most["task"], most["exception_type"], most["failures"]) == ("shop.tasks.ship", "shop.carriers.Away", 5)
    assert most["first_at"] <= most["last_at"]


def test_did_a_supervisor_die_and_what_became_of_its_work(night, page):
    shown = page(LIVE)
    assert (
        f"Supervisor {night['lost'].pk} on worker-2 was found dead 20 min ago. 3 executions of it were taken back."
        in shown
    )


def test_which_schedules_do_not_fire(night, page):
    assert re.search(r"hourly .{0,60}overdue for 7 min", page(LIVE))


def test_what_runs_on_worker_1(night, page):
    shown = page(reverse("admin:django_ray_rayworker_change", args=[night["worker"].pk]))
    assert re.search(r"Runs now: shop\.tasks\.monthly_report 40 min", shown)


def test_what_does_the_flow_of_tonight_wait_for(night, page):
    shown = page(reverse("admin:django_ray_rayflow_change", args=[night["flow"].id]))
    assert "0 of 2 have ended" in shown
    assert "1 Ready" in shown
    assert "1 Blocked" in shown


def test_what_has_code_that_nobody_knows(night, page):
    found = page(f"{LIST}?state=unknown")
    assert "1 task execution" in found
    assert "Code unknown" in found
    assert "no supervisor that took it could begin it" in page(of(night["gone"]))


def test_is_the_backlog_growing(night):
    queues = {queue["name"]: queue for queue in json.loads(command("django_ray_status", "--json"))["queues"]}
    assert queues["other"]["waiting"] == 1
    assert queues["other"]["oldest"] >= 0


def test_who_retried_these_jobs(night, page, admin_client):
    admin_client.post(
        LIST + "?state=FAILED&exception_type=shop.carriers.Away",
        {"action": "retry", "select_across": "1", "_selected_action": [str(night["failed"].pk)], "confirmed": "1"},
    )
    history = page(reverse("admin:index"))  # the recent actions
    assert re.search(r"all that match state=FAILED&amp;exception_type=shop\.carriers\.Away\s+Task execution", history)
