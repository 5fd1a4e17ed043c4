"""A walk over every page, verb and command, with whatever settings there are: python -m tests.matrix.tour.

Each step asserts what has to hold under all of them; the first that does not ends the process with its traceback.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import zlib
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit
from uuid import UUID

import django

django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from asgiref.testing import ApplicationCommunicator  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib import admin  # noqa: E402
from django.contrib.admin.models import LogEntry  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402
from django.db import close_old_connections, connection, connections, transaction  # noqa: E402
from django.db.models.functions import Now  # noqa: E402
from django.tasks import TaskResultStatus, task_backends  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402
from django.utils import timezone  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from django_ray.driver import obstacle  # noqa: E402
from django_ray.models import (  # noqa: E402
    RayEdge,
    RayFlow,
    RayGate,
    RayMinute,
    RayProgress,
    RayQueue,
    RaySchedule,
    RayTaskExecution,
    RayWorker,
    State,
)
from django_ray.moments import for_machines  # noqa: E402
from django_ray.rows import Fence  # noqa: E402
from django_ray.runtime.output import Output  # noqa: E402
from django_ray.runtime.reporting import Reporter  # noqa: E402
from django_ray.status import queues, status  # noqa: E402
from django_ray.testing import run_tasks  # noqa: E402
from tests import steps, tasks  # noqa: E402
from tests.matrix.urls import PREFIXES  # noqa: E402

LISTENS = obstacle() is None  # Not with psycopg2.
SUPERVISOR, PROCESS = 1_234_567, 7_654_321  # What a page must not write as 1.234.567.
NUMBER = r"-?\d+(\.\d+)?"
STORED = RayTaskExecution.objects.using("default")  # Where a replica may be read.
STORED_SCHEDULES = RaySchedule.objects.using("default")
LIVE = "django_ray/rayqueue/"
LIST = "django_ray/raytaskexecution/"
SCHEDULES = "django_ray/rayschedule/"
FLOWS = "django_ray/rayflow/"


class Page(HTMLParser):
    """The links of a page, where its forms lead, and what of it is read by machines."""

    def __init__(self, text):
        super().__init__()
        self.links, self.forms, self.values = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        if tag == "a" and said.get("href"):
            self.links.append(said["href"])
        if tag == "form" and said.get("action"):
            self.forms.append(said["action"])
        self.links += [said[name] for name in ("data-stream", "data-refresh") if name in said]
        self.values += [(name, value) for name, value in attrs if (tag, name) in MACHINES or name in {"id", "datetime"}]


MACHINES = {
    ("progress", "max"),
    ("progress", "value"),
    ("span", "data-seconds"),
    ("meter", "max"),
    ("meter", "value"),
    ("rect", "x"),
    ("rect", "width"),
    ("svg", "width"),
    ("svg", "x"),
    ("rect", "y"),
}


def check_page(address, text, prefix):
    """Return where else of the site the page leads."""
    page = Page(text)
    for name, value in page.values:
        if name == "datetime":
            assert datetime.fromisoformat(value).tzinfo, (address, value)
        elif name != "id":
            assert re.fullmatch(NUMBER, value), (address, name, value)
    if "dr-supervisor-" in text:
        assert ("id", f"dr-supervisor-{SUPERVISOR}") in page.values
    assert not re.search(r"\bNaN\b|1[.,]234[.,]567|7[.,]654[.,]321", text), address
    links = {urlsplit(urljoin(address, link)).path for link in (*page.links, *page.forms)}
    for link in links - {"/", settings.LOGIN_URL}:
        assert link.startswith(prefix), (address, link)
    links = {link.partition("_changelist_filters")[0].rstrip("?&") for link in page.links}
    return {link for link in links if not link.startswith(("#", "http")) and link.count("=") < 2}


def look_around(client, prefix):
    """Follow every link of ours that a site has; return the pages by their addresses."""
    seen, left = {}, {prefix, prefix + "django_ray/"}
    while left:
        address = left.pop()
        path = urlsplit(address).path
        if address in seen or "logout" in address or not (path == prefix or "/django_ray/" in path):
            continue
        if path.endswith("/stream/"):
            continue
        answer = client.get(address, follow=True)
        assert answer.status_code == 200, (address, answer.status_code)
        seen[address] = text = answer.content.decode()
        left |= {urljoin(path, link) for link in check_page(path, text, prefix)}
    return seen


def fill():
    """Store some of everything; return the supervisor."""
    RayTaskExecution.objects.all().delete()
    RayMinute.objects.all().delete()
    RayWorker.objects.all().delete()
    RayQueue.objects.all().delete()
    RaySchedule.objects.all().delete()
    RayGate.objects.all().delete()
    RayEdge.objects.all().delete()
    RayFlow.objects.all().delete()
    LogEntry.objects.all().delete()  # whose links lead to the first site, in Django as well
    now = timezone.now()
    worker = RayWorker.objects.create(
        pk=SUPERVISOR, hostname="host-1", pid=PROCESS, backend="default", queues=["default"], concurrency=1234,
        ray_address="ray:1", version="0", pulse=0, started_at=now - timedelta(seconds=90), pulse_at=now,
    )  # fmt: skip
    RayMinute.objects.create(
        minute=now.replace(second=0, microsecond=0) - timedelta(minutes=5), backend="default", queue_name="default",
        worker=worker, succeeded=12_345, failed=1, retried=0, cancelled=0, waited=20_000.0, longest_wait=1.5,
    )  # fmt: skip
    error = {
        "exception_class_path": "builtins.ValueError", "message": "no way", "traceback": "here", "attempt": 1,
        "worker_id": str(SUPERVISOR), "at": "2026-03-01T09:30:00.125+00:00",
    }  # fmt: skip
    flow = RayFlow.objects.create(name="import")
    columns = {"callable_path": "tests.tasks.add", "args": [1, 2], "worker_ids": [str(SUPERVISOR)], "flow_id": flow.pk}
    began = {"started_at": now - timedelta(seconds=90), "last_attempted_at": now - timedelta(seconds=90, minutes=2)}
    running = RayTaskExecution.objects.create(
        **columns, **began, state=State.RUNNING, claimed_by=worker, attempt_number=1, gate="shop:7",
        gate_rule={"limit": 2345, "count": 1, "per": 1.5},
    )  # fmt: skip
    RayProgress.objects.create(execution=running, attempt=1, fraction=0.25, message="a quarter")
    RayTaskExecution.objects.create(
        **columns, **began, state=State.FAILED, finished_at=now, errors=[error, {**error, "at": None}], output="said"
    )
    done = RayTaskExecution.objects.create(**columns, **began, state=State.SUCCESSFUL, finished_at=now, result=3.5)
    last = RayTaskExecution.objects.create(
        **columns, missing_since=now, run_after=now + timedelta(days=1), released=3, needs="success"
    )
    RayEdge.objects.create(upstream=done, downstream=last, place=1, met=True)
    RayGate.objects.create(name="shop:*", limit=3456)
    RaySchedule.objects.create(
        name="nightly", callable_path="tests.clockwork.tasks.wind", cron="0 3 * * *", time_zone="Asia/Tokyo"
    )
    RaySchedule.objects.create(name="often", callable_path="x.y", every=timedelta(minutes=5), paused_at=now)
    late = RaySchedule.objects.create(name="late", callable_path="x.y", cron="@daily")
    RaySchedule.objects.filter(pk=late.pk).update(next_at=now - timedelta(minutes=5, seconds=5), lag=1.5, skipped=1234)


def pages(client, prefix):
    """Every page that links lead to, and those that only an address does."""
    fill()
    found = look_around(client, prefix)
    searches = (
        "q=add", "state=FAILED", "within=1", "queue_name=default", "gate=shop:7", "callable_path=tests.tasks.add",
        "p=1",
    )  # fmt: skip
    if any(LIST in address for address in found):
        for search in searches:
            assert client.get(f"{prefix}{LIST}?{search}").context["cl"].result_count, search
        if prefix + FLOWS in found:
            drawn = [text for text in found.values() if "dr-graph" in text]
            assert {(text.count("dr-box-"), text.count("dr-line-met")) for text in drawn} == {(4, 1)}
        (failed,) = [text for text in found.values() if "no way" in text and "dr-timeline" in text]
        events = re.findall(r'<time datetime="([^"]+)"', failed)
        assert events == sorted(events, key=datetime.fromisoformat)
        moment = datetime.fromisoformat("2026-03-01T09:30:00.125+00:00")
        assert moment in map(datetime.fromisoformat, events)
        assert timezone.localtime(moment, timezone.get_default_timezone()).strftime("%Y-%m-%d %H:%M:%S") in failed
    if prefix + LIVE in found:
        text = client.get(f"{prefix}{LIVE}live/").content.decode()
        check_page(prefix, text, prefix)
        if "dr-supervisor-" in text:
            assert re.search(r'data-seconds="2[1-9]\d(\.\d)?"', text), "how long it has been running"
            assert re.search(r">1 min [3-5]\d s ago<", text), "when the supervisor began"
        assert ("12.346" if is_german(client) else "12,346") in text
        assert ("1,5 s" if is_german(client) else "1.5 s") in text


def schedules(client, prefix):
    """What the admin can do to a schedule: times are those of its own clock, whatever that of the project is."""
    fill()
    row = STORED_SCHEDULES.get(name="nightly")
    page = f"{prefix}{SCHEDULES}{row.pk}/"

    def post(address, **data):
        answer = client.post(address, data)
        assert answer.status_code == 302, (address, answer.content.decode())
        check_page(address, client.get(answer["Location"]).content.decode(), prefix)
        row.refresh_from_db(using="default")

    listing = client.get(prefix + SCHEDULES).content.decode()
    assert " 03:00</time>" in listing
    assert re.search(r"5 min \d+ s", listing), "how long one is overdue"
    assert ("1.234" if is_german(client) else "1,234") in listing
    for verb, is_active in (("pause", False), ("resume", True)):
        post(f"{page}do/", verb=verb)
        assert row.is_active == is_active
    post(f"{page}do/", verb="run_now")
    post(f"{page}do/", verb="backfill", start="2026-03-01T03:00", end="2026-03-01T03:01")
    ticks = {for_machines(one.tick) for one in STORED.filter(schedule_id=row.pk)}
    due = datetime(2026, 2, 28, 18, tzinfo=UTC)
    assert due in map(datetime.fromisoformat, ticks)
    assert len(ticks) == 2
    assert "2026-03-01 03:00" in client.get(f"{page}change/").content.decode()
    execution = STORED.filter(schedule_id=row.pk).order_by("tick").first()
    if (shown := client.get(f"{prefix}{LIST}{execution.pk}/change/")).status_code == 200:
        assert "2026-03-01 03:00" in shown.content.decode()
    said = {
        "name": "nightly", "task": "default tests.clockwork.tasks.wind", "cron": "30 2 * * *",
        "time_zone": "Asia/Tokyo", "missed": "one", "overlap": "skip",
    }  # fmt: skip
    post(f"{page}change/", **said)
    assert row.cron == "30 2 * * *"
    post(f"{prefix}{SCHEDULES}add/", **{**said, "name": "new", "cron": "", "every": "5 min"})
    assert STORED_SCHEDULES.get(name="new").every == timedelta(minutes=5)
    text = client.get(f"{prefix}{SCHEDULES}preview/", {"cron": "0 3 * * *", "time_zone": "Asia/Tokyo"}).content.decode()
    assert text.count(" 03:00<") == 5
    assert client.post(f"{page}delete/", {"post": "yes"}).status_code == 302
    assert not STORED_SCHEDULES.filter(name="nightly").exists()


def is_german(client):
    return settings.LANGUAGE_CODE == "de" or client.defaults.get("HTTP_ACCEPT_LANGUAGE") == "de"


def deeds(client, prefix):
    """Every form and action does what it says, on this site."""
    fill()
    registered = client.get(prefix).content.decode()

    def post(path, **data):
        answer = client.post(prefix + path, data)
        assert answer.status_code == 302, (path, answer.status_code)
        assert urljoin(prefix + path, answer["Location"]).startswith(prefix), answer["Location"]
        text = client.get(urljoin(prefix + path, answer["Location"])).content.decode()
        check_page(prefix + path, text, prefix)
        return text

    if LIVE in registered:
        for verb, is_paused in (("pause", True), ("resume", False)):
            post(f"{LIVE}pause/", verb=verb, name="default", backend="default")
            assert RayQueue.objects.using("default").filter(paused_at__isnull=False).exists() == is_paused
    if LIST not in registered:
        return
    if FLOWS in registered:
        flow = RayFlow.objects.using("default").get()
        for verb, number in (("retry", 0), ("cancel", 2), ("retry", 2)):
            assert "errornote" not in post(f"{FLOWS}{flow.pk}/do/", verb=verb)
            assert STORED.filter(state="CANCELLED").count() == (number if verb == "cancel" else 0), verb
        fill()
    states = lambda: [row.state for row in STORED.all().order_by("pk")]  # noqa: E731
    failed = STORED.get(state=State.FAILED)
    for verb, last in (("retry", 4), ("cancel", 4), ("enqueue_again", 5)):
        assert "errornote" not in post(f"{LIST}{failed.pk}/do/", verb=verb)
        assert len(states()) == last
    assert STORED.get(pk=failed.pk).state == State.CANCELLED
    everything = {"select_across": "1", "index": "0", "_selected_action": str(failed.pk)}
    for verb, state in (("retry", "READY"), ("cancel", "CANCELLED")):
        post(LIST, action=verb, **everything)
        assert states().count(state) >= 3, (verb, states())
    post(LIST, action="enqueue_again", **everything)
    assert len(states()) == 10
    asked = client.post(prefix + LIST, {"action": "delete_selected", **everything}).content.decode()
    check_page(prefix + LIST, asked, prefix)
    assert str(failed.pk) in asked
    post(f"{LIST}{failed.pk}/delete/", post="yes")
    assert len(states()) == 9
    post(LIST, action="delete_selected", post="yes", **everything)
    assert not STORED.filter(state="FAILED").exists()


def verbs(client):
    """What Python can say of executions, results and queues."""
    fill()
    assert {one.id for one in status().supervisors} == {SUPERVISOR}
    identify()
    assert [one.is_here for one in status().supervisors] == [True]
    with transaction.atomic():
        assert [
            queue.waiting for queue in queues("default") if (queue.backend, queue.name) == ("default", "default")
        ] == [1]
    rows = RayTaskExecution.objects.filter(backend="default")
    assert rows.filter(state=State.FAILED).retry() == 1
    assert rows.filter(state=State.READY).cancel() == 3 - 1
    assert rows.order_by("-pk").enqueue_again() == 4
    assert rows.filter(callable_path="nobody.knows").enqueue_again() == 0
    assert rows.prune(1) == 1
    assert STORED.prune() == 2
    assert rows.retry() == rows.none().prune() == 0
    assert RayQueue.objects.pause("other")
    assert not RayQueue.objects.pause("other")
    assert RayQueue.objects.resume("other")
    later = tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1, 2)
    assert later.task.run_after - later.enqueued_at > timedelta(minutes=59)
    result, _ = task_backends["default"].enqueue_many([(tasks.add, [1, 2], {}), (tasks.add, [3, 4], {})])
    try:
        result.wait(timeout=0.01)
    except TimeoutError as error:
        assert "free slot" in str(error), error
    except ImproperlyConfigured:
        assert not LISTENS
    RayTaskExecution.objects.filter(pk=result.id).update(state=State.SUCCESSFUL, finished_at=Now(), result=3)
    if LISTENS:
        result.wait(timeout=20)
    result.refresh()
    assert result.return_value == 3
    assert tasks.add.get_result(result.id).finished_at - result.enqueued_at < timedelta(minutes=1)
    assert task_backends["default"].cancel(later.id)
    later.refresh()
    assert later.status == TaskResultStatus.FAILED
    assert later.errors[0].exception_class_path == "django_ray.exceptions.TaskCancelled"
    UUID(later.id)


def bodies(client):
    """What a body can write: in its own transaction, beside it, and for whoever watches."""
    fill()
    result = steps.walk_in_a_transaction.enqueue(__file__)
    run_tasks()
    result.refresh()
    assert (result.status, result.progress.fraction) == (TaskResultStatus.SUCCESSFUL, 0.5)
    running = STORED.get(state=State.RUNNING)
    reporter = Reporter("default", Fence(str(running.pk), 1, SUPERVISOR), Output("a task"))
    reporter.report(0.75, "three quarters")
    reporter.close()
    running = tasks.add.get_result(str(running.pk))
    assert (running.progress.fraction, running.progress.message) == (0.75, "three quarters")
    if not LISTENS:
        return

    async def watch():
        return [update.fraction async for update in result.updates()]

    assert asyncio.run(watch()) == [0.5]
    assert running.cancel()


def identify():
    """Have this process's session be the supervisor's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT django_ray_identify(%s)", [SUPERVISOR])


def commands(client):
    """What a terminal can say. Its words are English, and its numbers with them."""
    fill()

    def run(name, *arguments):
        output = io.StringIO()
        call_command(f"django_ray_{name}", *map(str, arguments), stdout=output)
        return output.getvalue()

    call_command("check", stdout=io.StringIO())
    text = run("status")
    assert "12,346" in text
    assert re.search(r"3 min 3\d s", text), text
    assert str(SUPERVISOR) in text
    said = json.loads(run("status", "--json"))
    assert said["supervisors"][0]["id"] == SUPERVISOR
    moments = [said["at"], said["supervisors"][0]["started_at"], said["failures"][0]["finished_at"]]
    assert all(datetime.fromisoformat(moment).tzinfo for moment in moments), moments
    age = datetime.fromisoformat(said["at"]) - datetime.fromisoformat(said["supervisors"][0]["started_at"])
    assert timedelta(seconds=89) < age < timedelta(seconds=120)
    for one in json.loads(run("schedules", "--json"))["schedules"]:
        assert all(datetime.fromisoformat(moment).tzinfo for moment in one["next_times"])
    assert re.search(r"overdue for 5 min \d+ s", run("schedules"))
    assert run("schedules", "--pause", "nightly") == "nightly is paused.\n"
    assert run("schedules", "--backfill", "2026-03-01T03:00", "2026-03-01T03:01", "nightly") == (
        "nightly has 1 execution more.\n"
    )
    STORED.filter(schedule__name="nightly").delete()
    assert "limit 3,456 (shop:*)" in run("gates")
    assert json.loads(run("gates", "--json"))["gates"][0]["limit"] == 3456
    assert run("gates", "--set", "shop:7", "--rate", "1/1.5") == "shop:7: 1 in 1.5 s.\n"
    assert run("gates", "--clear", "shop:7") == "shop:7: what the code says holds again.\n"
    (flow,) = json.loads(run("flows", "--json"))["flows"]
    assert (flow["name"], flow["failed"], flow["running"]) == ("import", 1, 1)
    assert "tests.tasks.add" in run("flows", flow["id"])
    assert "is marked" in run("flows", "--repair")
    assert "Nothing had to be changed." in run("flows", "--repair")
    assert "attempt 1 of 3" in run("why", STORED.get(state=State.RUNNING).pk)
    assert run("pause", "default") == "default is paused.\n"
    assert run("resume", "default") == "default is resumed.\n"
    assert run("retry", "--all", "--dry-run") == "1 execution would be retried.\n"
    assert run("retry", "--exception", "ValueError") == "Retried 1 execution.\n"
    assert run("cancel", "--queue", "default", "--state", "READY") == "Cancelled 2 executions.\n"
    assert run("prune", "--older-than", "1h") == "Deleted 0 executions.\n"
    assert run("prune", "--older-than", "0s") == "Deleted 3 executions.\n"
    try:
        run("cancel", "--queue", "nowhere")
    except CommandError as error:
        assert "nothing has this queue" in str(error)


def metrics(client):
    """Prometheus, who has no session."""
    fill()
    answer = Client().get("/metrics/tasks", headers={"accept-encoding": "identity", "accept-language": "de"})
    assert answer.status_code == 200, (answer.status_code, answer.get("Location"))
    samples = {
        (sample.name.removeprefix("django_ray_queue_"), sample.labels["queue"]): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
        if sample.labels.get("backend") == "default" and "queue" in sample.labels
    }
    assert b'django_ray_schedule_skipped{backend="default",schedule="late"} 1234' in answer.content
    assert (samples["depth", "default"], samples["running", "default"]) == (1, 1)
    assert 0 <= samples["oldest_wait_seconds", "default"] < 60


def stream(client, prefix):
    """The live page under ASGI: what happens is on it, compressed or not, in the language of its viewer."""
    fill()
    asyncio.run(_watch(client, prefix))


def do(deed):
    """Do something to a queue, and give the connection back."""
    deed("other")
    close_old_connections()


async def _watch(client, prefix):
    cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
    language = client.defaults.get("HTTP_ACCEPT_LANGUAGE", "en")
    headers = {"host": "testserver", "cookie": cookie, "accept-encoding": "gzip, br", "accept-language": language}
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    application = get_asgi_application()

    async def ask(path, status=200):
        asked = ApplicationCommunicator(application, {**scope, "path": prefix + path})
        await asked.send_input({"type": "http.request", "body": b"", "more_body": False})
        start = await asked.receive_output(60)
        assert start["status"] == status, start
        return asked, {name.lower(): value for name, value in start["headers"]}

    async def look():
        asked, _ = await ask(LIVE)
        while (await asked.receive_output(60))["more_body"]:
            pass
        await asked.wait(60)  # its connections are closed then

    await look()
    if not LISTENS:
        await ask(f"{LIVE}stream/", 404)
        return
    viewer, said = await ask(f"{LIVE}stream/")
    assert said[b"content-type"] == b"text/event-stream"
    unpack = zlib.decompressobj(31).decompress if said.get(b"content-encoding") == b"gzip" else bytes
    heard = b""

    async def next_page():
        nonlocal heard
        while b"\n\n" not in heard:
            heard += unpack((await viewer.receive_output(60))["body"])
        event, _, heard = heard.partition(b"\n\n")
        return json.loads(event.removeprefix(b"data: "))

    first = await next_page()
    check_page(prefix, first, prefix)
    assert ("12.346" if is_german(client) else "12,346") in first
    assert "dr-paused" not in first
    for deed, is_paused in ((RayQueue.objects.pause, True), (RayQueue.objects.resume, False)):
        await sync_to_async(do)(deed)
        while ("dr-paused" in (shown := await next_page())) != is_paused:
            pass
        check_page(prefix, shown, prefix)
        assert ("12.346" if is_german(client) else "12,346") in shown
        await look()  # others can meanwhile
    await viewer.send_input({"type": "http.disconnect"})
    await viewer.wait(60)


def main():
    """Walk."""
    setup_test_environment()

    people = get_user_model()
    name = {people.USERNAME_FIELD: "walker@example.org"}
    user = people._default_manager.filter(**name).first() or people._default_manager.create_superuser(**name)
    client = Client()
    if "locale.LocaleMiddleware" in str(settings.MIDDLEWARE):
        client.defaults["HTTP_ACCEPT_LANGUAGE"] = "de"
    client.force_login(user)
    assert admin.site.is_registered(RayTaskExecution)
    for prefix in PREFIXES:
        pages(client, prefix)
        deeds(client, prefix)
        if SCHEDULES in client.get(prefix).content.decode():
            schedules(client, prefix)
        if LIVE in client.get(prefix).content.decode():
            stream(client, prefix)
    for step in (verbs, bodies, commands, metrics):
        step(client)
    connections.close_all()


if __name__ == "__main__":
    main()
