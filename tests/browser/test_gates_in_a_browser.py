"""The pages of gates, and why an execution does not run, in a real browser."""

import json

import pytest
from playwright.sync_api import expect

from django_ray.models import RayGate, RayTaskExecution, RayWorker, State
from tests.browser.test_admin_pages import EVIL, insert

GATES = "/admin/django_ray/raygate/"
LIST = "/admin/django_ray/raytaskexecution/"


def fill(connect):
    """What tenants leave on a busy afternoon."""
    worker = RayWorker.objects.create(
        hostname="worker-1", pid=4711, backend="default", queues=["default"], concurrency=8, ray_address="", version="0"
    )
    session = connect()
    session.execute("SELECT django_ray_identify(%s)", [worker.pk])
    rule = json.dumps({"limit": 5})
    for tenant, waiting, running in ((7, 312, 5), (8, 41, 2), (9, 3, 0)):
        gate = {"gate": f"shop.tasks.call_api:{tenant}", "gate_rule": rule}
        insert(connect, running, state="RUNNING", claimed_by_id=worker.pk, worker_ids=f'["{worker.pk}"]', **gate)
        insert(connect, waiting, **gate)
    insert(connect, 12, gate="shop.tasks.mail", gate_rule=json.dumps({"count": 100, "per": 60}))
    RayGate.objects.create(name="shop.tasks.call_api:9", limit=0)
    RayGate.objects.create(name="shop.tasks.call_api:*", rate_count=1000, rate_per=60, rate_burst=10)
    RayGate.objects.create(name="shop.tasks.report", limit=1)
    RayGate.objects.create(name="shop.tasks.mail")
    session.execute("UPDATE django_ray_gate SET next_at = now() + interval '40 s' WHERE name = 'shop.tasks.mail'")
    return session


def row_of(page, name):
    return page.locator(".dr-gates tbody tr", has=page.locator("th", has_text=name))


def test_a_gate_is_closed_and_opened_again_by_clicking(log_in, connect):
    fill(connect)
    page = log_in()
    page.goto("/admin/django_ray/rayqueue/")
    page.get_by_role("link", name="368 behind gates").click()
    expect(row_of(page, "call_api:7").locator("td").first).to_have_text("312")
    row_of(page, "call_api:7").get_by_role("link", name="1,000 in 60 s").click()
    page.go_back()
    row_of(page, "shop.tasks.mail").get_by_role("link", name="Override").click()
    expect(page.locator("#id_name")).to_have_value("shop.tasks.mail")
    page.fill("#id_limit", "0")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(row_of(page, "shop.tasks.mail")).to_contain_text("Closed")
    row_of(page, "shop.tasks.mail").get_by_role("link", name="limit 0").click()
    page.locator(".deletelink").click()
    page.get_by_role("button", name="Yes").click()
    expect(row_of(page, "shop.tasks.mail")).not_to_contain_text("Closed")
    page.get_by_label("Names that begin with").fill("shop.tasks.r")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".dr-gates tbody tr")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_pictures(log_in, connect, take, scheme):
    session = fill(connect)
    page = log_in(color_scheme=scheme)
    page.goto(GATES)
    take(page, f"gates-{scheme}")
    page.goto(f"{GATES}add/?name=shop.tasks.call_api:7&backend=default")
    take(page, f"gate-form-{scheme}")
    page.goto(LIST + "?gate=shop.tasks.call_api:7&state=WAITING")
    take(page, f"executions-behind-a-gate-{scheme}")
    newest = RayTaskExecution.objects.filter(state=State.WAITING, gate="shop.tasks.call_api:7").latest("pk")
    page.goto(f"{LIST}{newest.pk}/change/")
    expect(page.locator(".dr-why")).to_have_text(
        "It waits behind gate 'shop.tasks.call_api:7': 5 of 5 running, 311 before it."
    )
    take(page, f"why-{scheme}")
    page.goto("/admin/django_ray/rayqueue/")
    take(page, f"live-with-gates-{scheme}")
    assert session.execute("SELECT 1").fetchone()


def test_scripts_in_names_of_gates_stay_text(log_in, connect):
    insert(connect, 2, gate=EVIL, gate_rule="{}")
    row = RayGate.objects.create(name=EVIL, limit=1)
    page = log_in()
    execution = RayTaskExecution.objects.first()
    for address in (
        GATES, f"{GATES}{row.pk}/change/", f"{GATES}{row.pk}/delete/", f"{GATES}{row.pk}/history/", LIST,
        f"{LIST}{execution.pk}/change/",
    ):  # fmt: skip
        page.goto(address)
        assert page.evaluate("window.owned") is None, address


def test_the_pages_fit_a_narrow_screen(log_in, connect):
    fill(connect)
    page = log_in()
    page.set_viewport_size({"width": 400, "height": 800})
    for address in (GATES, f"{GATES}add/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, address
