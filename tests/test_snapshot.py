"""What a running execution does now: asked of its supervisor, and answered by the process that runs its body."""

import select
from datetime import timedelta
from io import StringIO
from uuid import uuid4

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse
from django.utils import timezone

from django_ray.models import RayTaskExecution, RayWorker
from django_ray.snapshot import NoSnapshot, snapshot
from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def begun(on_ray, finished, tmp_path):
    """Enqueue a task with a path; return its result once its body has made the file there."""
    results = []

    def begin(task):
        path = tmp_path / f"{len(results)}"
        results.append(task.enqueue(str(path)))
        until(path.exists, what="the body")
        return results[-1]

    yield begin
    RayTaskExecution.objects.filter(pk__in=[result.id for result in results]).cancel()
    for result in results:
        finished(result)


def code(found):
    """Return the lines of code of a stack."""
    return [line.strip() for line in found.stack if not line.startswith("  File")]


def there(result, *lines):
    """Return a snapshot with these lines of code: a body may have made its file, and not come to them."""
    return until(lambda: {*lines} <= {*code(found := snapshot(result.id))} and found, what=f"{lines}")


def test_where_a_body_is(begun, tmp_path):
    result = begun(tasks.touch_and_wait)
    found = snapshot(result.id)
    assert found.process == int((tmp_path / "0").read_text())
    assert "touch_and_wait" in found.stack[0]  # nothing of ours stands before it
    assert not found.is_locked
    (tmp_path / "0.go").touch()


def test_what_a_coroutine_awaits(begun):
    found = there(begun(tasks.await_three_levels), "await asyncio.sleep(600)")
    assert [line for line in code(found) if line.startswith("await")] == [
        "await middle()", "await inner()", "await asyncio.sleep(600)"
    ]  # fmt: skip
    assert found.output == ["three levels down"]


def test_the_threads_that_a_body_has_started(begun):
    there(begun(tasks.wait_for_a_thread), "thread.join()", "threading.Event().wait(600)")


def test_a_body_that_keeps_the_lock_of_python(begun, finished, tmp_path):
    result = begun(tasks.keep_the_lock)
    found = until(lambda: (found := snapshot(result.id)).is_locked and found, what="a body in code in C")
    assert "keep_the_lock" in found.stack[-1]
    assert "in code that keeps Python's lock" in found.text
    (tmp_path / "0.pipe").write_text("1")
    finished(result)
    assert result.return_value == 1  # it was looked at, and nothing else


def test_nothing_happens_to_a_body_that_is_looked_at_often(begun, finished, tmp_path):
    result = begun(tasks.touch_and_wait)
    for _ in range(20):
        assert snapshot(result.id).stack
    (tmp_path / "0.go").touch()
    finished(result)
    assert result.return_value == "waited"
    assert len(result.worker_ids) == 1


def test_an_answer_counts_that_is_read_together_with_the_end_of_the_question(begun, monkeypatch):
    execute = psycopg.Connection.execute

    def late(session, query, *args, **options):
        cursor = execute(session, query, *args, **options)
        if "pg_notify" in str(query):
            select.select([session], [], [], 30)  # the answer is there
            execute(session, "SELECT 1")  # which reads it
        return cursor

    result = begun(tasks.touch_and_wait)
    monkeypatch.setattr(psycopg.Connection, "execute", late)
    assert "touch_and_wait" in snapshot(result.id).stack[0]


def test_each_body_gives_its_own(begun):
    first, second = begun(tasks.block), begun(tasks.loop)
    assert any("block" in line for line in snapshot(first.id).stack)
    assert any("loop" in line for line in snapshot(second.id).stack)


def test_the_command(begun):
    result, out = begun(tasks.block), StringIO()
    there(result, "threading.Event().wait()")
    call_command("django_ray_snapshot", result.id, stdout=out)
    assert out.getvalue().startswith("Process ")
    assert "threading.Event().wait()" in out.getvalue()
    out = StringIO()
    call_command("django_ray_snapshot", result.id, "--json", stdout=out)
    assert '"stack": [' in out.getvalue()


def test_questions_that_make_no_sense_hurt_nobody(begun, finished, connect):
    result = begun(tasks.block)
    (worker,) = RayTaskExecution.objects.filter(pk=result.id).values_list("claimed_by_id", flat=True)
    session = connect()
    for message in ("snapshot", "snapshot ", "snapshot x", f"snapshot {uuid4()}", "snapshot " + "9" * 5000, "\\", "{}"):
        session.execute("SELECT pg_notify(django_ray_channel(%s), %s)", [f"worker:{worker}", message])
    assert snapshot(result.id).stack
    assert finished(tasks.add.enqueue(1, 2)).return_value == 3


def test_of_what_does_not_run(insert):
    with pytest.raises(NoSnapshot, match="It does not run: it is Ready"):
        snapshot(insert(due_at=timezone.now() + timedelta(hours=1)))


def test_of_a_supervisor_that_does_not_answer():
    worker = RayWorker.objects.create(
        hostname="x", pid=1, backend="default", queues=[], concurrency=1, version="0", pulse=1
    )
    row = RayTaskExecution.objects.create(
        callable_path="tests.tasks.add", state="RUNNING", claimed_by=worker, attempt_number=1
    )
    with pytest.raises(NoSnapshot, match=f"Supervisor {worker.pk} has not answered within 0.2 s"):
        snapshot(row.pk, timeout=0.2)


def test_of_nothing():
    with pytest.raises(NoSnapshot, match="There is no execution"):
        snapshot(uuid4())
    with pytest.raises(CommandError, match="There is no execution"):
        call_command("django_ray_snapshot", str(uuid4()))


def now(row):
    return reverse("admin:django_ray_raytaskexecution_now", args=[row])


def test_the_page(begun, admin_client):
    result = begun(tasks.await_three_levels)
    there(result, "await asyncio.sleep(600)")
    page = admin_client.get(reverse("admin:django_ray_raytaskexecution_change", args=[result.id])).content.decode()
    assert now(result.id) in page
    shown = admin_client.get(now(result.id)).content.decode()
    assert "await asyncio.sleep(600)" in shown
    assert "three levels down" in shown


def test_the_page_says_why_there_is_none(insert, admin_client):
    answer = admin_client.get(now(insert(due_at=timezone.now() + timedelta(hours=1))))
    assert "It does not run" in answer.content.decode()
    assert admin_client.get(now(uuid4())).status_code == 404
    assert admin_client.post(now(uuid4())).status_code == 405


def test_who_may_not_see_executions_sees_no_snapshot(insert, client, django_user_model):
    user = django_user_model.objects.create_user("ada", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(now(insert(due_at=timezone.now() + timedelta(hours=1)))).status_code == 403
