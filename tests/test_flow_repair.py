"""manage.py django_ray_flows: what it shows, and what it repairs of rows that were written without the triggers."""

import io
import json
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.tasks import default_task_backend

from django_ray import Flow, repairing
from django_ray.models import RayEdge, RayTaskExecution
from django_ray.repairing import repaired
from django_ray.testing import run_tasks
from tests.tasks import add, double, fail, look_back, total

pytestmark = pytest.mark.django_db(transaction=True)
NOTHING = {"marked": 0, "edges": 0, "deleted": 0, "held": 0, "freed": 0, "failed": 0, "locked": 0}


def run(*arguments):
    output = io.StringIO()
    call_command("django_ray_flows", *map(str, arguments), stdout=output)
    return output.getvalue()


def repair():
    """Return what was changed; a second time finds nothing to do."""
    done, again = (json.loads(run("--repair", "--json")) for _ in range(2))
    assert {name: again[name] for name in NOTHING} == NOTHING
    return {name: number for name, number in done.items() if number and name != "upstreams"}


def state(*results):
    rows = RayTaskExecution.objects.in_bulk([result.id for result in results])
    found = {str(pk): row.state for pk, row in rows.items()}
    return [found.get(result.id) for result in results]


@pytest.fixture
def behind_the_back(connect):
    """Write rows as a restore does: without triggers."""
    session = connect()
    session.execute("SET session_replication_role = replica")
    return lambda sql, *values: session.execute(sql, values).rowcount


END = "UPDATE django_ray_execution SET state = %s, finished_at = now() WHERE task_id = %s"


def test_where_nothing_is_wrong_nothing_is_changed():
    first = add.enqueue(1, 2)
    default_task_backend.enqueue_many([(add, [first, number], {}) for number in range(3)])
    look_back.using(after=fail.enqueue("no"), needs="end").enqueue()
    add.using(after=fail.enqueue("no")).enqueue(1, 2)
    before = list(RayTaskExecution.objects.order_by("pk").values())
    assert repair() == {}
    assert list(RayTaskExecution.objects.order_by("pk").values()) == before
    run_tasks()
    before = list(RayTaskExecution.objects.order_by("pk").values())
    assert run("--repair") == "Looked at what waits for 3 executions.\nNothing had to be changed.\n"
    assert list(RayTaskExecution.objects.order_by("pk").values()) == before


def test_an_end_that_nobody_has_seen(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    third = add.using(after=second).enqueue(1, 1)
    behind_the_back(END, "SUCCESSFUL", first.id)
    assert state(second, third) == ["WAITING", "WAITING"]
    assert repair() == {"edges": 1, "freed": 1}
    assert state(second, third) == ["READY", "WAITING"]


def test_a_failure_that_nobody_has_seen(behind_the_back):
    first = fail.enqueue("no")
    second = add.enqueue(first, 1)
    third = add.using(after=second).enqueue(1, 1)
    callback = look_back.using(after=third, needs="end").enqueue()
    behind_the_back(END, "FAILED", first.id)
    assert repair() == {"edges": 1, "freed": 1, "failed": 2}
    assert state(second, third, callback) == ["FAILED", "FAILED", "READY"]


def test_an_upstream_that_is_gone(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    behind_the_back("DELETE FROM django_ray_execution WHERE task_id = %s", first.id)
    assert repair() == {"failed": 1}
    assert state(second) == ["FAILED"]


def test_a_downstream_that_is_gone(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    behind_the_back("DELETE FROM django_ray_execution WHERE task_id = %s", second.id)
    assert repair() == {"deleted": 1}
    assert not RayEdge.objects.exists()


def test_what_is_held_without_a_reason(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    third = add.using(after=first, gate="g", limit=1).enqueue(1, 1)
    behind_the_back(END, "SUCCESSFUL", first.id)
    behind_the_back("UPDATE django_ray_edge SET met = true")
    assert repair() == {"freed": 2}
    assert state(second, third) == ["READY", "WAITING"]
    assert RayTaskExecution.objects.get(pk=third.id).gate == "g"


def test_what_is_held_without_an_edge(behind_the_back):
    second = add.enqueue(add.enqueue(1, 2), 1)
    behind_the_back("DELETE FROM django_ray_edge")
    assert repair() == {"freed": 1}
    assert state(second) == ["READY"]


def test_what_is_not_held_though_it_should_be(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    third = add.using(after=first, gate="g", limit=1).enqueue(1, 1)
    behind_the_back("UPDATE django_ray_execution SET state = 'READY' WHERE task_id = %s", second.id)
    behind_the_back("UPDATE django_ray_execution SET gate = 'g', gate_rule = '{}' WHERE task_id = %s", third.id)
    assert repair() == {"held": 2}
    assert state(second, third) == ["WAITING", "WAITING"]
    assert RayTaskExecution.objects.get(pk=third.id).gate is None


def test_an_edge_that_is_met_too_early(behind_the_back):
    second = add.enqueue(add.enqueue(1, 2), 1)
    behind_the_back("UPDATE django_ray_edge SET met = true")
    behind_the_back("UPDATE django_ray_execution SET state = 'READY' WHERE task_id = %s", second.id)
    assert "1 edge says now what is.\n1 execution waits now.\n" in run("--repair")
    assert state(second) == ["WAITING"]


def test_a_mark_that_is_missing(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    behind_the_back("UPDATE django_ray_execution SET is_upstream = false")
    assert repair() == {"marked": 1}
    run_tasks()
    assert state(first, second) == ["SUCCESSFUL", "SUCCESSFUL"]


def test_what_failed_because_of_one_that_fails_no_more(behind_the_back):
    first = fail.enqueue("no")
    second = add.enqueue(first, 1)
    first.cancel()
    assert state(second) == ["FAILED"]
    behind_the_back("UPDATE django_ray_execution SET state = 'READY', finished_at = NULL WHERE task_id = %s", first.id)
    assert repair() == {"held": 1}
    assert state(second) == ["WAITING"]


def test_an_edge_that_is_late(behind_the_back):
    first = add.enqueue(1, 2)
    second = add.enqueue(first, 1)
    behind_the_back(END, "SUCCESSFUL", first.id)
    behind_the_back("UPDATE django_ray_edge SET is_late = true")
    assert repair() == {"edges": 1, "freed": 1}
    assert state(second) == ["READY"]


def test_many_batches(behind_the_back, monkeypatch):
    monkeypatch.setattr(repairing, "BATCH", 3)
    pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(10)])
    read = default_task_backend.enqueue_many([(add, [page, 1], {}) for page in pages])
    merged = total.enqueue(read)
    behind_the_back("UPDATE django_ray_execution SET state = 'SUCCESSFUL', finished_at = now() WHERE needs IS NULL")
    behind_the_back("UPDATE django_ray_execution SET state = 'READY' WHERE needs IS NOT NULL")
    # Those that may start are held, for the moment between two batches.
    done = repaired("default")
    assert (done.upstreams, done.edges, done.freed, done.locked) == (20, 10, 10, 0)
    assert set(state(*read)) == {"READY"}
    assert state(merged) == ["WAITING"]
    assert repaired("default").changed == 0


def test_what_somebody_has_locked_is_left_and_told(behind_the_back, connect):
    first, other = add.enqueue(1, 2), add.enqueue(1, 2)
    second, third = add.enqueue(first, 1), add.enqueue(other, 1)
    behind_the_back(END, "SUCCESSFUL", first.id)
    behind_the_back(END, "SUCCESSFUL", other.id)
    session = connect(autocommit=False)
    session.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [second.id])
    assert "1 time another transaction had locked rows" in run("--repair")
    assert state(second, third) == ["WAITING", "READY"]
    assert RayEdge.objects.filter(is_late=True).count() == 1
    session.rollback()
    assert repair() == {"edges": 1, "freed": 1}


# What it shows.


def test_flows_are_listed_with_counts():
    with Flow("import 42") as flow:
        pages = default_task_backend.enqueue_many([(double, [number], {}) for number in range(3)])
        total.enqueue(pages)
    with Flow("odd\nname \x1b[31m"):
        pass
    listed = run()
    assert "import 42" in listed
    assert "\x1b" not in listed
    newest, found = json.loads(run("--json"))["flows"]
    assert newest["name"] == "odd\nname \x1b[31m"
    assert (found["id"], found["ready"], found["blocked"], found["cancelled_at"]) == (flow.id, 3, 1, None)
    assert len(json.loads(run("--json", "--number", 1))["flows"]) == 1
    assert json.loads(run("--json", "--backend", "any"))["flows"] == []


def test_one_flow_is_shown_with_its_executions_the_failed_ones_first():
    with Flow("one") as flow:
        add.enqueue(1, 2)
        fail.enqueue("no")
    run_tasks()
    found = json.loads(run(flow.id, "--json"))
    assert [one["state"] for one in found["executions"]] == ["FAILED", "SUCCESSFUL"]
    assert (found["failed"], found["successful"]) == (1, 1)
    text = run(flow.id)
    assert "tests.tasks.fail" in text
    assert flow.id in text
    assert run(flow.id, "--retry") == "1 execution tried again.\n"
    assert run(flow.id, "--cancel") == "1 execution cancelled.\n"
    assert "cancelled" in run()


def test_without_any_it_says_so():
    assert run() == "Flows\n  None.\n"
    with Flow("empty") as flow:
        pass
    assert "None: none was enqueued into it" in run(flow.id)


def test_what_cannot_be_meant_is_refused():
    for arguments, message in (
        ([uuid4()], "There is no flow"),
        (["x"], "There is no flow x"),
        (["--number", 0], "a number of 1 to 1,000"),
        (["--cancel"], "give its id"),
        ([uuid4(), "--repair"], "leave the id out"),
        (["--backend", "x"], "TASKS has no such alias"),
    ):
        with pytest.raises(CommandError, match=message):
            run(*arguments)
