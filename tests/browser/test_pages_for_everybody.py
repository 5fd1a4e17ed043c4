"""Each page of ours, wide and narrow, light and dark, empty and busy: nothing is cut off, axe finds nothing serious."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone

from django_ray.flows import Flow
from django_ray.models import RayFlow, RayGate, RayQueue, RaySchedule, RayTaskExecution, State
from tests import tasks
from tests.browser.test_admin_pages import LIST, LIVE, busy, failed, insert

ADMIN = "/admin/django_ray/"
WIDE = 1400
SERIOUS = {"serious", "critical"}
# Of Django's own pages, and the same on each of its lists.
DJANGOS = {"#changelist-filter", "#toolbar", "#searchbar", "#nav-sidebar", "#header", ".paginator", ".actions"}


def pages():
    """Return the addresses of all of them, by name."""
    rows = RayTaskExecution.objects
    found = {
        "live": LIVE,
        "tasks": f"{LIVE}tasks/?hours=24",
        "history": f"{LIVE}history/?name=default&backend=default",
        "executions": LIST,
        "waiting": f"{LIST}?state=waiting",
        "search": f"{LIST}?q=args:43",
        "supervisors": f"{ADMIN}rayworker/",
        "flows": f"{ADMIN}rayflow/",
        "gates": f"{ADMIN}raygate/",
        "schedules": f"{ADMIN}rayschedule/",
        "new-schedule": f"{ADMIN}rayschedule/add/",
    }
    for state in (State.FAILED, State.RUNNING, State.READY):
        if row := rows.filter(state=state).first():
            found[f"execution-{state.lower()}"] = f"{LIST}{row.pk}/change/"
    if row := rows.filter(state=State.FAILED).first():
        found["edit"] = f"{LIST}{row.pk}/edit/"
    if row := rows.filter(state=State.READY).first():
        found["now"] = f"{LIST}{row.pk}/now/"
    if queue := RayQueue.objects.exclude(paused_at=None).first():
        found["explain"] = f"{LIVE}explain/?name={queue.name}&backend={queue.backend}"
        found["supervisor"] = f"{ADMIN}rayworker/{rows.filter(state=State.RUNNING).first().claimed_by_id}/change/"
        found["flow"] = f"{ADMIN}rayflow/{RayFlow.objects.first().pk}/change/"
        found["schedule"] = f"{ADMIN}rayschedule/{RaySchedule.objects.first().pk}/change/"
    return found


def fill(connect):
    worker = busy(connect)
    connect().execute("SELECT django_ray_identify(%s)", [worker.pk])
    RayQueue.objects.pause("other", by="ada", because="The printer is on fire, and everything waits for somebody.")
    failed(connect, 2, "Order 43: " + "no address " * 30, callable_path="shop.a_module_with_a_long_name.tasks.ship_it")
    with Flow("nightly import of all shops"):
        first = tasks.add.enqueue(1, 2)
        tasks.add.enqueue(first, 3)
    RayGate.objects.create(name="shop:*", limit=4)
    insert(connect, state="WAITING", gate="shop:7", gate_rule='{"limit": 4}')
    RaySchedule.objects.create(
        name="nightly", callable_path="shop.tasks.monthly_report", cron="0 3 * * *", time_zone="Europe/Berlin"
    )
    for number in range(30):
        RayTaskExecution.objects.create(
            callable_path=f"shop.tasks.task_{number % 3}", state="SUCCESSFUL", result=number,
            started_at=timezone.now(), last_attempted_at=timezone.now(), finished_at=timezone.now(), worker_ids=["1"],
        )  # fmt: skip


# What is wider than the element it is in: the page, and those that a selector finds.
_CUT = """inside => [document.documentElement, ...document.querySelectorAll(inside)]
    .map(one => one.scrollWidth - one.clientWidth).filter(beyond => beyond > 1)"""


def problems(page):
    """Return what axe says of a page, as far as it is serious and ours."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (one["id"], node["target"][0], node.get("failureSummary", "")[:300])
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
        if not any(part in str(node["target"][0]) for part in DJANGOS)
    ]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_full", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["busy", "empty"])
def test_each_page(log_in, connect, take, scheme, is_full):
    if is_full:
        fill(connect)
    page = log_in(color_scheme=scheme)
    wrong = {}
    for name, address in pages().items():
        page.set_viewport_size({"width": WIDE, "height": 900})
        page.goto(address)
        if found := problems(page):
            wrong[name] = found
        for width, suffix in ((WIDE, ""), (420, "-narrow")):
            page.set_viewport_size({"width": width, "height": 900})
            # On a narrow screen, Django's lists scroll sideways inside of the page.
            inside = ".dr-scroll:not(.dr-canvas)" + (", .results" if width == WIDE else "")
            cut = page.evaluate(_CUT, inside)
            if cut:
                wrong[f"{name}{suffix}"] = f"{cut} pixels are cut off"
            take(page, f"all-{name}{suffix}-{scheme}-{'busy' if is_full else 'empty'}")
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_docs(log_in, connect, picture, scheme):
    """`make pictures` puts them into docs/pictures."""
    fill(connect)
    page = log_in(color_scheme=scheme)
    page.set_viewport_size({"width": WIDE, "height": 820})
    page.evaluate("localStorage.setItem('django.admin.navSidebarIsOpen', 'false')")
    for name in ("live", "history"):
        page.goto(pages()[name])
        picture(page, f"{name}-{scheme}")
