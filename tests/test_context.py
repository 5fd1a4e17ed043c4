"""OPTIONS["CONTEXT"]: what was in place at the enqueue is in place around the body, and only then."""

import json
from contextlib import contextmanager

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTaskBackend
from django.tasks.signals import task_finished, task_started
from django.test.utils import CaptureQueriesContext

from django_ray import checks
from django_ray.backends import RayTaskBackend
from django_ray.models import RayTaskExecution
from django_ray.runtime.entrypoint import invoke
from django_ray.testing import run_tasks
from tests import tasks, travellers
from tests.travellers import Capricious, Tenant, tenant, tenant_of

pytestmark = pytest.mark.django_db
BOTH = ["tests.travellers.Tenant", "tests.travellers.Language"]
NEWER = "tests.travellers.Capricious"


@pytest.fixture
def context(settings):
    """Set CONTEXT."""

    def _context(*paths, backend="django_ray.backends.RayTaskBackend", **options):
        options = {"PULSE": 600, "IMPORT_GRACE": 0, "CONTEXT": list(paths), **options}
        settings.TASKS = {"default": {"BACKEND": backend, "QUEUES": ["default", "other"], "OPTIONS": options}}

    travellers.HAPPENED.clear()
    _context(*BOTH)
    return _context


@pytest.fixture
def capricious(context, monkeypatch):
    """Have CONTEXT name a class that does what it is told."""

    def _capricious(**told):
        for name, value in told.items():
            monkeypatch.setattr(Capricious, name, value)

    context(NEWER)
    return _capricious


def ran(result):
    run_tasks()
    result.refresh()
    return result


def carrier_of(result):
    return RayTaskExecution.objects.get(pk=result.id).carrier


@pytest.mark.usefixtures("context")
def test_the_body_finds_what_the_enqueue_had_and_the_next_body_does_not():
    with tenant_of("acme", "de"):
        result = travellers.look.enqueue()
    plain = travellers.look.enqueue()
    assert carrier_of(result) == {"context": {BOTH[0]: {"schema": "acme"}, BOTH[1]: "de"}}
    assert carrier_of(plain) is None
    run_tasks()
    result.refresh()
    plain.refresh()
    assert (result.return_value, plain.return_value) == (["acme", "de", "acme"], ["nobody", "en-us", None])


@pytest.mark.usefixtures("context")
def test_they_nest_in_the_order_of_the_settings_around_the_signals_too():
    def started(**_):
        travellers.HAPPENED.append(f"started for {tenant.get()}")

    def finished(**_):
        travellers.HAPPENED.append(f"finished for {tenant.get()}")

    task_started.connect(started)
    task_finished.connect(finished)
    with tenant_of("acme", "de"):
        travellers.look.enqueue()
    run_tasks()
    task_started.disconnect(started)
    task_finished.disconnect(finished)
    assert travellers.HAPPENED == [
        "restored acme", "speaks de to acme", "started for acme", "looks", "finished for acme", "is silent",
        "left acme",
    ]  # fmt: skip


@pytest.mark.usefixtures("context")
def test_a_coroutine_finds_it_too():
    with tenant_of("acme", "de"):
        result = travellers.look_later.enqueue()
    assert ran(result).return_value == ["acme", "de", ["acme", "de", "acme"]]


@pytest.mark.usefixtures("context")
def test_each_attempt_has_what_the_enqueue_had(tmp_path):
    with tenant_of("acme"):
        result = travellers.fail_and_look.enqueue(str(tmp_path / "failed"))
    with tenant_of("other"):
        assert ran(result).return_value == ["acme", "en-us", "acme"]
    assert ((tmp_path / "failed").read_text(), result.attempts) == ("acme", 2)


@pytest.mark.usefixtures("context")
def test_what_a_body_enqueues_takes_it_along():
    with tenant_of("acme"):
        result = travellers.enqueue_look.enqueue()
    inner = task_backends["default"].get_result(ran(result).return_value)
    assert inner.return_value == ["acme", "en-us", "acme"]


def test_many_are_captured_once_and_inserted_as_before(context, monkeypatch):
    captures = []
    monkeypatch.setattr(Tenant, "capture", lambda _: captures.append(1) or {"schema": "acme"})
    with CaptureQueriesContext(connection) as queries:
        task_backends["default"].enqueue_many([(travellers.look, [], {})] * 1500)
    assert len([query for query in queries if "django_ray_enqueue" in query["sql"]]) == 2
    task_backends["default"].enqueue_many([])
    assert captures == [1]
    assert RayTaskExecution.objects.filter(carrier__context__has_key=BOTH[0]).count() == 1500


def test_one_instance_serves_the_process(context):
    made = Tenant.made
    for name in ("acme", "other"):
        with tenant_of(name):
            ran(travellers.look.enqueue())
    assert Tenant.made <= made + 1


def test_without_the_setting_nothing_is_carried():
    with tenant_of("acme", "de"):
        result = travellers.look.enqueue()
    assert carrier_of(result) is None


@pytest.mark.parametrize(
    ("captured", "kind", "message"),
    [
        (
            LookupError("no tenant"),
            RuntimeError,
            f"{NEWER}, of the setting CONTEXT, could not capture: LookupError: no",
        ),
        (
            {1},
            TypeError,
            rf"{NEWER}.capture\(\) returned \{{1\}}, which cannot be stored: .* which is not JSON: pass a list",
        ),
        (float("nan"), ValueError, rf"{NEWER}.capture\(\) returned nan, which cannot be stored"),
        ("\0", ValueError, rf"{NEWER}.capture\(\) returned '\\x00', which cannot be stored"),
        ("x" * 70_000, ValueError, rf"{NEWER}.capture\(\) returned 'xxx.* is 70,0.. bytes of JSON; 65,536 is the most"),
    ],
)
def test_what_cannot_be_captured_is_not_enqueued(capricious, captured, kind, message):
    capricious(captured=captured)
    with transaction.atomic():
        with pytest.raises(kind, match=message):
            tasks.add.enqueue(1, 2)
        User.objects.create(username="the transaction goes on")
    assert not RayTaskExecution.objects.exists()


@pytest.mark.parametrize("captured", [0, False, "", [], {"a": None}])
def test_whatever_is_not_none_travels(capricious, captured, monkeypatch):
    capricious(captured=captured)
    came = []
    monkeypatch.setattr(Capricious, "restore", contextmanager(lambda _, value: (yield came.append(value))))
    ran(tasks.add.enqueue(1, 2))
    assert came == [captured]


def test_who_cannot_restore_fails_the_attempt_as_a_body_does(capricious):
    seen = []
    task_finished.connect(receiver := lambda task_result, **_: seen.append(task_result.status))
    capricious(captured=1, restored=ConnectionError("no such tenant"))
    result = ran(tasks.add.using(max_attempts=2, backoff={"base": 0}).enqueue(1, 2))
    task_finished.disconnect(receiver)
    row = RayTaskExecution.objects.get(pk=result.id)
    assert (result.status, row.failures, len(result.errors), seen) == ("FAILED", 2, 2, ["FAILED"])
    assert result.errors[0].exception_class_path == "builtins.ConnectionError"
    assert "no such tenant" in result.errors[0].traceback
    assert "in restore" in result.errors[0].traceback
    assert f"Raised by {NEWER}.restore(), of the setting CONTEXT." in result.errors[0].traceback


def test_a_tenant_that_is_gone_is_an_error_that_a_test_can_raise(capricious):
    capricious(captured=1, restored=LookupError("gone"))
    tasks.add.enqueue(1, 2)
    with pytest.raises(LookupError, match="gone"):
        run_tasks(raise_errors=True)


def test_what_was_in_place_already_is_left_when_the_next_cannot_restore(context, monkeypatch):
    monkeypatch.setattr(Capricious, "captured", 1)
    monkeypatch.setattr(Capricious, "restored", LookupError("gone"))
    context(BOTH[0], NEWER)
    with tenant_of("acme"):
        tasks.add.using(max_attempts=1).enqueue(1, 2)
    run_tasks()
    assert travellers.HAPPENED == ["restored acme", "tries", "left acme"]


def test_what_goes_wrong_after_the_body_changes_nothing_and_is_logged(capricious, caplog):
    capricious(captured=1, left=ValueError("too late"))
    assert ran(tasks.add.enqueue(1, 2)).return_value == 3
    assert "The end of what a class of CONTEXT had restored raised builtins.ValueError" in caplog.text


@pytest.mark.usefixtures("context")
def test_the_error_of_a_body_ends_what_was_restored():
    with tenant_of("acme"):
        result = travellers.fail.enqueue()
    assert ran(result).status == "FAILED"
    assert travellers.HAPPENED == ["restored acme", "left acme"] * 2


def payload_of(result):
    row = RayTaskExecution.objects.get(pk=result.id)
    columns = {"task_id": str(row.pk), "callable_path": row.callable_path, "worker_ids": ["1"], "attempt_number": 1}
    return json.dumps({**columns, "carrier": row.carrier})


def test_a_class_that_the_settings_here_do_not_name_gives_the_execution_back(context):
    """A deploy: the web process has the new settings, this Ray worker the old ones."""
    with tenant_of("acme"):
        result = travellers.look.enqueue()
    context(BOTH[1])
    envelope = invoke(payload_of(result))
    assert envelope["kind"] == "missing"
    assert (
        envelope["message"] == f"It was enqueued with {BOTH[0]!r} in the setting CONTEXT, which has no such entry here."
    )
    assert travellers.HAPPENED == []  # the body did not run without its tenant
    context(*BOTH)
    assert json.loads(invoke(payload_of(result))["result"]) == ["acme", "en-us", "acme"]


@pytest.mark.parametrize("path", ["tests.travellers.Gone", "tests.gone.Tenant", "tests.travellers.Difficult"])
def test_a_class_that_cannot_be_used_here_gives_the_execution_back(context, path):
    result = tasks.add.enqueue(1, 2)
    RayTaskExecution.objects.update(carrier={"context": {path: 1}})
    context(path)
    assert invoke(payload_of(result))["kind"] == "missing"


def test_a_class_without_a_value_in_the_row_is_not_asked(context):
    """A deploy, too: the row is older than the setting."""
    context()
    result = travellers.look.enqueue()
    context(*BOTH, NEWER)
    assert ran(result).return_value == ["nobody", "en-us", None]
    assert travellers.HAPPENED == ["looks"]


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    "carrier", [{"context": 5}, {"context": []}, {"context": {}}, {"context": None}, [], "context", 7]
)
def test_a_carrier_that_is_none_stops_nothing(carrier):
    result = tasks.add.enqueue(1, 2)
    RayTaskExecution.objects.update(carrier=carrier)
    assert ran(result).return_value == 3


@pytest.mark.usefixtures("context")
def test_what_is_enqueued_again_takes_the_context_along_and_nothing_else():
    with tenant_of("acme"):
        travellers.look.enqueue()
    travellers.look.enqueue()
    kept = {"context": {BOTH[0]: {"schema": "acme"}}}
    RayTaskExecution.objects.filter(carrier__isnull=False).update(carrier={"traceparent": "x", **kept})
    old = set(RayTaskExecution.objects.values_list("pk", flat=True))
    assert RayTaskExecution.objects.enqueue_again() == 2
    carriers = RayTaskExecution.objects.exclude(pk__in=old).values_list("carrier", flat=True)
    assert sorted(carriers, key=str, reverse=True) == [kept, None]


def test_a_double_that_runs_at_once_restores_it(context):
    context(*BOTH, backend="django_ray.testing.ImmediateBackend")
    with tenant_of("acme", "de"):
        result = travellers.look.enqueue()
    assert result.return_value == ["acme", "de", "acme"]
    assert travellers.HAPPENED == ["restored acme", "speaks de to acme", "looks", "is silent", "left acme"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("tests.gone.Tenant", "No module named 'tests.gone'"),
        ("tests.travellers.Gone", 'does not define a "Gone"'),
        ("tests.travellers.not_a_class", "which is no class"),
        ("tests.travellers.Mute", r"has no method restore\(\)"),
        ("tests.travellers.Difficult", "Not today."),
    ],
)
def test_the_check_names_what_cannot_be_used(context, path, why):
    context(BOTH[0], path)
    (error,) = checks.check_context()
    assert error.id == "django_ray.E005"
    assert error.msg.startswith(f"""TASKS["default"]["OPTIONS"]["CONTEXT"] names {path!r}, which cannot be used: """)
    with pytest.raises(RuntimeError, match=why):
        tasks.add.enqueue(1, 2)


@pytest.mark.usefixtures("context")
def test_the_check_is_content_with_what_can():
    assert checks.check_context() == []


@pytest.mark.parametrize(
    "value", ["shop.Tenant", 5, None, [5], ["Tenant"], ["a b.c"], [Tenant], {"a.b": 1}, ["a.b", "a.b"]]
)
def test_a_setting_that_is_no_list_of_paths_is_refused(value):
    with pytest.raises(InvalidTaskBackend, match=r'TASKS\["default"\]\["OPTIONS"\]\["CONTEXT"\] is '):
        RayTaskBackend("default", {"OPTIONS": {"CONTEXT": value}})
