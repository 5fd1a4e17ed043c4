"""The pages of flows in a real browser: the graph, which moves by itself, and what can be done."""

import pytest
from django.tasks import default_task_backend
from django.utils import timezone
from playwright.sync_api import expect

from django_ray import Flow
from django_ray.membership import Membership, membership
from django_ray.models import RayTaskExecution, RayWorker, State
from tests.browser.test_admin_pages import EVIL
from tests.tasks import add, double, fail, fan_out, look_back, play, total

pytestmark = pytest.mark.django_db(transaction=True)

FLOWS = "/admin/django_ray/rayflow/"
LIST = "/admin/django_ray/raytaskexecution/"


def chain(name="A chain"):
    with Flow(name) as flow:
        total.enqueue([add.enqueue(double.enqueue(1), 2)])
    return flow


def chord(number, name="import 42"):
    """So many pages, what is read of each, a merge, a mail, and what comes in any case."""
    with Flow(name) as flow:
        pages = default_task_backend.enqueue_many([(double, [page], {}) for page in range(number)])
        read = default_task_backend.enqueue_many([(add, [page, 1], {}) for page in pages])
        report = total.enqueue(read)
        play.enqueue(report)
        look_back.using(after=read, needs="end").enqueue()
    return flow


def diamond():
    """A graph of thirty that has something of all."""
    before = add.enqueue(1, 2)
    with Flow("Quarterly report: orders, customers, stock, and what the accountants want to see of it") as flow:
        start = double.enqueue(1)
        parts = [add.using(after=[start, before]).enqueue(number, 1) for number in range(4)]
        sums = [total.enqueue(parts[number : number + 2]) for number in range(3)]
        parent = fan_out.enqueue([1, 2, 3])
        long = total.enqueue([sums[0], start], sums[2])
        pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(14)])
        merged = total.using(after=sums[1]).enqueue(pages)
        fail.enqueue("no")
        look_back.using(after=[long, merged], needs="end").enqueue()
        look_back.using(after=fail.enqueue("no"), needs="end").enqueue()
    # What the body of one of them has enqueued.
    token = membership.set(Membership(flow.id, parent.id))
    total.enqueue([double.enqueue(number) for number in range(3)])
    membership.reset(token)
    return flow


def put(flow, state, number, *, worker=None, path=None):
    """Have some executions of a flow be in a state, in the order of their enqueue."""
    now = timezone.now()
    chosen = flow.executions.filter(state="READY")
    if path:
        chosen = chosen.filter(callable_path__endswith=path)
    ids = list(chosen.order_by("pk").values_list("pk", flat=True)[:number])
    columns = {"started_at": now, "last_attempted_at": now, "attempt_number": 1, "worker_ids": ["7"]}
    if state == "RUNNING":
        columns["claimed_by"] = worker
    else:
        columns["finished_at"] = now
    if state == "FAILED":
        columns["errors"] = [{"exception_class_path": "builtins.ValueError", "message": "no", "traceback": "",
                              "attempt": 1, "worker_id": "7", "at": now.isoformat()}]  # fmt: skip
    RayTaskExecution.objects.filter(pk__in=ids).update(state=state, **columns)


def box(page, name, number=0):
    return page.locator("a.dr-box", has=page.locator("text", has_text=name)).nth(number)


def page_of(page, flow):
    page.goto(f"{FLOWS}{flow.id}/change/")
    expect(page.locator("#dr-connection")).to_have_text("Connected")


def test_the_graph_follows_what_happens_by_itself(log_in, listen):
    flow = chain()
    page = log_in()
    page_of(page, flow)
    expect(box(page, "double")).to_contain_text("Ready")
    expect(box(page, "total")).to_contain_text("Blocked")
    expect(page.locator(".dr-line-unmet")).to_have_count(2)
    page.evaluate("window.unreloaded = true")
    listen("--sync").wait_for("is ready")
    for name in ("double", "add", "total"):
        expect(box(page, name)).to_contain_text("Successful")
    expect(page.locator(".dr-line-met")).to_have_count(2)
    expect(page.locator(".dr-head")).to_contain_text("3 of 3 have ended")
    assert page.evaluate("window.unreloaded") is True


def test_what_a_body_enqueues_comes_into_the_graph(log_in, listen):
    with Flow("grows") as flow:
        fan_out.enqueue([1, 2])
    page = log_in()
    page_of(page, flow)
    expect(page.locator("a.dr-box")).to_have_count(1)
    listen("--sync").wait_for("is ready")
    expect(page.locator("a.dr-box")).to_have_count(3)
    expect(page.locator(".dr-line-parent")).to_have_count(2)


def test_a_flow_is_cancelled_and_retried_by_clicking(log_in):
    flow = chain()
    page = log_in()
    page.goto(FLOWS)
    page.get_by_role("link", name="A chain").click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("3 executions cancelled.")
    expect(box(page, "add")).to_contain_text("Cancelled")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".messagelist")).to_contain_text("3 executions will be tried again.")
    expect(box(page, "double")).to_contain_text("Ready")
    assert flow.progress().unfinished == 3


def test_a_box_leads_to_its_execution_and_back(log_in):
    flow = chain()
    page = log_in()
    page_of(page, flow)
    box(page, "add").click()
    expect(page.locator("h1").last).to_have_text("tests.tasks.add")
    expect(page.locator("section", has=page.locator("#dr-upstreams"))).to_contain_text("tests.tasks.double")
    page.locator("section", has=page.locator("#dr-downstreams")).get_by_role("link").click()
    expect(page.locator("h1").last).to_have_text("tests.tasks.total")
    page.get_by_role("link", name="A chain").click()
    expect(page.locator("a.dr-box")).to_have_count(3)


def test_a_stack_leads_to_those_that_it_holds(log_in):
    flow = chord(20)
    chord(3)
    page = log_in()
    page_of(page, flow)
    expect(page.locator("a.dr-box")).to_have_count(5)
    expect(box(page, "double")).to_contain_text("\N{MULTIPLICATION SIGN}20")
    box(page, "double").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(20)


def test_boxes_are_reached_with_the_keyboard_and_have_names(log_in):
    flow = chain()
    page = log_in()
    page_of(page, flow)
    page.locator(".dr-canvas").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.querySelector('title').textContent") == "tests.tasks.double\nReady"
    expect(page.get_by_role("link", name="tests.tasks.double")).not_to_have_count(0)
    # A page that comes meanwhile leaves the focus where it is.
    with page.expect_event("console") as event:
        page.evaluate("new MutationObserver(() => console.log('news')).observe(document.getElementById('dr-live'),"
                      " {subtree: true, childList: true, characterData: true, attributes: true})")  # fmt: skip
        add.enqueue(1, 2)
    assert event.value.text == "news"
    page.keyboard.press("Enter")
    expect(page.locator("h1").last).to_have_text("tests.tasks.double")


def test_with_very_many_executions_there_is_a_table_and_a_link_to_all(log_in):
    flow = chord(1500)
    page = log_in()
    page_of(page, flow)
    expect(page.locator("a.dr-box")).to_have_count(5)
    expect(page.locator("#dr-live tbody tr")).to_have_count(50)
    page.get_by_role("link", name="All 3,003 executions of the flow").click()
    expect(page.locator(".paginator").first).to_contain_text("3003")


def test_scripts_in_names_stay_text(log_in, connect):
    with Flow(EVIL) as flow:
        add.using(after=add.enqueue(1, 2)).enqueue(1, 2)
    connect().execute("UPDATE django_ray_execution SET callable_path = %s || '.x' || callable_path", [EVIL])
    page = log_in()
    for address in (
        FLOWS, f"{FLOWS}{flow.id}/change/", f"{FLOWS}{flow.id}/live/", f"{FLOWS}?q={EVIL}",
        f"{FLOWS}{flow.id}/history/",
        f"{LIST}?flow={flow.id}", f"{LIST}?flow={EVIL}", f"{LIST}{flow.executions.first().pk}/change/",
    ):  # fmt: skip
        page.goto(address)
        assert page.evaluate("window.owned") is None, address


def test_the_pages_fit_a_narrow_screen(log_in):
    flow = diamond()
    page = log_in()
    page.set_viewport_size({"width": 400, "height": 800})
    for address in (FLOWS, f"{FLOWS}{flow.id}/change/", f"{LIST}{flow.executions.last().pk}/change/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, address


def test_under_wsgi_the_page_asks_again_by_itself(log_in, live_server):
    flow = chain()
    page = log_in(address=live_server.url)
    page.goto(f"{FLOWS}{flow.id}/change/")
    expect(page.locator("#dr-connection")).to_have_text("Refreshed every 5 seconds")
    flow.cancel()
    expect(box(page, "add")).to_contain_text("Cancelled")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_pictures(log_in, connect, take, scheme):
    worker = RayWorker.objects.create(
        hostname="worker-1", pid=4711, backend="default", queues=["default"], concurrency=8, ray_address="", version="0"
    )
    connect().execute("SELECT django_ray_identify(%s)", [worker.pk])
    three, thirty, many = chain(), diamond(), chord(1500)
    put(three, "SUCCESSFUL", 1)
    put(three, "RUNNING", 1, worker=worker)
    put(thirty, "SUCCESSFUL", 1)
    put(thirty, "SUCCESSFUL", 9, path="double")
    put(thirty, "RUNNING", 2, worker=worker, path="double")
    put(thirty, "FAILED", 1, path="double")
    put(thirty, "RUNNING", 1, worker=worker, path="add")
    put(thirty, "FAILED", 1, path="fail")
    put(thirty, "SUCCESSFUL", 1, path="fan_out")
    put(many, "SUCCESSFUL", 1200)
    put(many, "RUNNING", 8, worker=worker, path="double")
    put(many, "FAILED", 1, path="double")
    done, cancelled = chord(4, "yesterday's import"), chord(30, "import of 7,000 customers")
    put(done, "SUCCESSFUL", 4)
    put(done, "SUCCESSFUL", 4)
    put(done, "SUCCESSFUL", 2)
    put(done, "SUCCESSFUL", 2)
    put(cancelled, "SUCCESSFUL", 7)
    cancelled.cancel()
    page = log_in(color_scheme=scheme)
    page.goto(FLOWS)
    take(page, f"flows-{scheme}")
    for name, flow in (("three", three), ("thirty", thirty), ("many", many), ("done", done), ("cancelled", cancelled)):
        page.goto(f"{FLOWS}{flow.id}/change/")
        take(page, f"flow-{name}-{scheme}")
    held = thirty.executions.filter(state=State.WAITING).first()
    page.goto(f"{LIST}{held.pk}/change/")
    take(page, f"execution-in-a-flow-{scheme}")
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{FLOWS}{thirty.id}/change/")
    take(page, f"flow-narrow-{scheme}")
    page.goto(FLOWS)
    take(page, f"flows-narrow-{scheme}")
