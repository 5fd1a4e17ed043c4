"""OPTIONS["CONTEXT"] on a real Ray, under a supervisor whose settings have it."""

import pytest

from django_ray.models import RayTaskExecution
from tests import settings_context, travellers
from tests.supervisors import until
from tests.travellers import Capricious, tenant_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def supervisor(listen_for_all):
    return listen_for_all("--local", "--concurrency", "2", DJANGO_SETTINGS_MODULE=settings_context.__name__)


@pytest.fixture(autouse=True)
def ours(supervisor, settings):
    settings.TASKS = settings_context.TASKS


def test_a_tenant_reaches_bodies_of_all_kinds_each_attempt_and_other_processes(finished, tmp_path):
    with tenant_of("acme", "de"):
        results = [
            travellers.look.enqueue(),
            travellers.look_later.enqueue(),
            travellers.fail_and_look.enqueue(str(tmp_path / "failed")),
            travellers.look_from_another_process.enqueue(),
        ]
    plain = travellers.look.enqueue()
    assert [finished(result).return_value for result in results] == [
        ["acme", "de", "acme"],
        ["acme", "de", ["acme", "de", "acme"]],
        ["acme", "de", "acme"],
        ["acme", "de", "acme", True],
    ]
    assert finished(plain).return_value == ["nobody", "en-us", None]


def test_what_a_newer_web_process_enqueues_waits_for_newer_supervisors(settings, monkeypatch):
    """A rolling deploy: no attempt is charged, and the body does not run without what belongs to it."""
    ours = settings_context.TASKS["default"]
    context = [*ours["OPTIONS"]["CONTEXT"], "tests.travellers.Capricious"]
    settings.TASKS = {"default": {**ours, "OPTIONS": {**ours["OPTIONS"], "CONTEXT": context}}}
    monkeypatch.setattr(Capricious, "captured", 1)
    result = travellers.look.enqueue()
    rows = RayTaskExecution.objects.filter(pk=result.id)
    until(lambda: rows.get().missing_since, what="given back")
    row = rows.get()
    assert (row.state, row.failures, row.worker_ids) == ("READY", 0, [])
    rows.update(carrier=None)
