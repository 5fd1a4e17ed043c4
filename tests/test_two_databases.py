"""OPTIONS["DATABASE"]: the executions of a backend live in a database of their own, here on a server of its own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as project
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction
from django.db.models.functions import Now
from django.tasks import TaskResultStatus, default_task_backend, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone

import django_ray.views
from django_ray import Flow, streaming
from django_ray.checks import check_atomic, check_database, check_router, check_triggers
from django_ray.databases import database_of, databases
from django_ray.models import RayFlow, RayGate, RayQueue, RaySchedule, RayTaskExecution, RayWorker
from django_ray.rights import check_rights, check_strangers
from django_ray.status import gates, status
from django_ray.testing import fire_schedules, run_tasks
from django_ray.why import why
from tests import elsewhere, tasks
from tests.chaos.postgres import Postgres
from tests.settings_two import HEAVY, second
from tests.supervisors import ROOT, Process, database_url, until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "tasks2"])
HERE, THERE = "default", "tasks2"


@pytest.fixture(scope="module", autouse=True)
def server(django_db_setup, django_db_blocker):
    """The second server, known as tasks2."""
    with Postgres() as postgres, django_db_blocker.unblock():
        project.DATABASES[THERE] = second(str(postgres.port))
        connections.configure_settings(connections.settings)
        call_command("migrate", database=THERE, verbosity=0)
        try:
            yield postgres
        finally:
            connections[THERE].close()
            del connections[THERE], project.DATABASES[THERE]


@pytest.fixture(autouse=True)
def heavy(settings, server):
    settings.TASKS = {**settings.TASKS, "heavy": HEAVY}
    yield task_backends["heavy"]
    for alias in (HERE, THERE):
        RayWorker.objects.using(alias).all().delete()


@pytest.fixture(scope="module")
def supervisor(server, listen_for_all):
    """One that serves the second backend, without Ray."""
    two = {"DJANGO_SETTINGS_MODULE": "tests.settings_two", "SECOND_PORT": str(server.port)}
    return listen_for_all("--backend", "heavy", "--queue", "alive", "--sync", **two)


def enqueue(a=1, b=2, **said):
    return tasks.add.using(backend="heavy", **said).enqueue(a, b)


def rows(alias=THERE):
    return RayTaskExecution.objects.using(alias)


def states(alias=THERE):
    return list(rows(alias).order_by("pk").values_list("state", flat=True))


def run(name, *arguments):
    output = StringIO()
    call_command(f"django_ray_{name}", *arguments, stdout=output, stderr=output)
    return output.getvalue()


# -- enqueueing and reading


def test_an_execution_lives_where_its_backend_says(heavy):
    there, here = enqueue(), tasks.add.enqueue(1, 2)
    many = heavy.enqueue_many([(tasks.add, [1, number], {}) for number in range(3)])
    later = async_to_sync(tasks.add.using(backend="heavy").aenqueue)(1, 2)
    ids = {str(pk) for pk in rows().values_list("pk", flat=True)}
    assert ids == {there.id, later.id, *(one.id for one in many)}
    assert [str(pk) for pk in rows(HERE).values_list("pk", flat=True)] == [here.id]
    assert (database_of("heavy"), database_of("default"), databases()) == (THERE, HERE, [HERE, THERE])
    assert databases(first=THERE) == [THERE, HERE]


def test_a_rollback_takes_what_was_enqueued_in_its_own_database_alone():
    """That of the business data is another one: what was enqueued there stays. The docs say so."""
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=HERE):
        there, here = enqueue(), tasks.add.enqueue(1, 2)
        raise ZeroDivisionError
    assert (rows().filter(pk=there.id).count(), rows(HERE).filter(pk=here.id).count()) == (1, 0)
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=THERE):
        there = enqueue()
        raise ZeroDivisionError
    assert not rows().filter(pk=there.id).exists()


@pytest.mark.parametrize("backend", ["default", "heavy"])
def test_a_result_is_found_from_any_backend(backend):
    there, here = enqueue(), tasks.add.enqueue(1, 2)
    found = [task_backends[backend].get_result(one.id) for one in (there, here)]
    assert [(one.id, one.backend) for one in found] == [(there.id, "heavy"), (here.id, "default")]
    assert async_to_sync(task_backends[backend].aget_result)(there.id).id == there.id
    found[0].refresh()
    with pytest.raises(TaskResultDoesNotExist):
        task_backends[backend].get_result(str(uuid4()))


@pytest.mark.parametrize("backend", ["default", "heavy"])
def test_any_backend_cancels(backend):
    there = enqueue()
    assert task_backends[backend].cancel(there.id)
    assert not task_backends[backend].cancel(there.id)
    assert states() == ["CANCELLED"]
    with pytest.raises(TaskResultDoesNotExist):
        task_backends[backend].cancel(str(uuid4()))
    another = enqueue()
    assert async_to_sync(another.acancel)()
    another.refresh()
    assert another.is_finished


def test_its_own_database_is_asked_first(django_assert_num_queries):
    there, here = enqueue(), tasks.add.enqueue(1, 2)
    with django_assert_num_queries(0, connection=connections[HERE]):
        there.refresh()
        assert there.cancel()
    with django_assert_num_queries(0, connection=connections[THERE]):
        default_task_backend.get_result(here.id)


def test_why_is_answered_where_it_is():
    there = enqueue()
    sentence = "No supervisor serves the queue 'default' of backend 'heavy'"
    assert there.why().startswith(sentence)
    assert why(rows().get().pk).startswith(sentence)
    assert default_task_backend.why(there.id).startswith(sentence)
    assert run("why", there.id).startswith(sentence)
    assert json.loads(run("why", "--json", there.id))["executions"][0]["state"] == "READY"


def test_equal_ones_are_found_and_the_same_key_in_another_database_is_no_twin():
    first, second_, other = enqueue(unique=True), enqueue(unique=True), tasks.add.using(unique=True).enqueue(1, 2)
    assert (second_.id, second_.is_duplicate, other.is_duplicate) == (first.id, True, False)
    assert second_.backend == "heavy"


# -- running


def test_a_body_finds_its_row_and_all_that_belongs_to_it(supervisor, tmp_path):
    """With arguments that a claim does not carry, so that the row is read where it runs."""
    elsewhere.tenant.set("library")
    first = enqueue(1, 2, queue_name="alive")
    result = elsewhere.everything.using(backend="heavy", queue_name="alive").enqueue(first, "x" * 100_000)
    elsewhere.tenant.set("")
    value = result.wait(timeout=60).return_value
    assert value["first"] == 3
    assert value["upstreams"] == [first.id]
    assert value["tenant"] == "library"
    assert [rows(alias).filter(pk=pk).count() for alias, pk in zip((THERE, HERE), value["enqueued"], strict=True)] == [
        1, 1,
    ]  # fmt: skip
    assert result.metadata == {"seen": 100_000}
    assert (result.progress.fraction, result.progress.message) == (0.5, "half")
    assert rows().get(pk=result.id).output == "a line"


def test_results_are_waited_for_in_their_own_database(supervisor, tmp_path):
    assert enqueue(3, 4, queue_name="alive").wait(timeout=60).return_value == 7

    async def both():
        results = [await tasks.add.using(backend="heavy", queue_name="alive").aenqueue(n, n) for n in range(3)]
        return [(await one.await_result(timeout=60)).return_value for one in results]

    assert async_to_sync(both)() == [0, 2, 4]
    waiting = elsewhere.touch_and_wait.using(backend="heavy", queue_name="alive").enqueue(str(tmp_path))

    async def watch():
        said = []
        async for update in waiting.updates():
            said.append(update.message)
            (tmp_path / "go").touch()
        return said

    assert "waiting" in async_to_sync(watch)()
    assert waiting.wait(timeout=60).return_value == "went"


def test_the_transaction_of_an_atomic_task_is_that_of_its_database(supervisor):
    good = elsewhere.write_atomically.using(backend="heavy", queue_name="alive").enqueue("good")
    assert good.wait(timeout=60).return_value == "good"
    bad = elsewhere.write_atomically.using(backend="heavy", queue_name="alive", max_attempts=1).enqueue("bad", "raise")
    assert bad.wait(timeout=60).status == TaskResultStatus.FAILED
    part = elsewhere.write_completing.using(backend="heavy", queue_name="alive").enqueue("part")
    assert part.wait(timeout=60).return_value == "part"
    with connections[THERE].cursor() as cursor:
        cursor.execute("SELECT note FROM ledger2")
        assert [text for (text,) in cursor.fetchall()] == ["good", "part"]
        cursor.execute("DROP TABLE ledger2")


def test_a_running_one_is_cancelled_there(supervisor, tmp_path):
    result = elsewhere.touch_and_wait.using(backend="heavy", queue_name="alive").enqueue(str(tmp_path))

    async def cancel():
        async for _ in result.updates():
            return await result.acancel()
        return False

    assert async_to_sync(cancel)()
    error = result.wait(timeout=60).errors[-1]
    (tmp_path / "go").touch()  # with --sync nobody interrupts it
    assert error.exception_class_path == "django_ray.exceptions.TaskCancelled"


def test_a_schedule_is_fired_there(supervisor):
    row = RaySchedule.objects.create(
        backend="heavy",
        name="often",
        callable_path="tests.elsewhere.note",
        every=timedelta(seconds=1),
        queue_name="alive",
    )
    assert row._state.db == THERE

    until(lambda: rows().filter(schedule=row.pk, state="SUCCESSFUL").exists(), what="a tick")
    row.delete()
    assert not rows(HERE).exists()


def test_run_tasks_runs_those_of_a_backend():
    there, here = enqueue(2, 3), tasks.add.enqueue(1, 2)
    with transaction.atomic(using=THERE):
        assert [one.id for one in run_tasks(backend="heavy")] == [there.id]
    assert states(HERE) == ["READY"]
    assert [one.id for one in run_tasks()] == [here.id]


def test_fire_schedules_fires_those_of_a_backend():
    at = timezone.now().replace(second=0, microsecond=0)
    for backend in ("heavy", "default"):
        RaySchedule.objects.create(backend=backend, name="m", callable_path="tests.elsewhere.note", cron="* * * * *")
    (result,) = fire_schedules(at, backend="heavy", name="m")
    assert rows().get().tick == at
    assert result.backend == "heavy"
    assert not rows(HERE).exists()


# -- flows


def test_an_upstream_in_another_database_is_refused():
    here, there = tasks.add.enqueue(1, 2), enqueue()
    with pytest.raises(InvalidTask, match=rf"database 'tasks2', cannot wait for tests.tasks.add {here.id} .*'default'"):
        enqueue(here, 1)
    with pytest.raises(InvalidTask, match=r"of backend 'heavy', which is in the database 'tasks2'"):
        tasks.add.using(after=there).enqueue(1, 2)
    assert (len(states()), len(states(HERE))) == (1, 1)


def test_a_flow_lives_in_the_database_of_its_backend():
    with Flow("import", backend="heavy") as flow:
        first = enqueue()
        second_ = enqueue(first, 1)
        failing = tasks.fail.using(backend="heavy", max_attempts=1).enqueue()
    assert (RayFlow.objects.using(THERE).get().name, RayFlow.objects.using(HERE).count()) == ("import", 0)
    assert {str(pk) for pk in flow.executions.values_list("pk", flat=True)} == {first.id, second_.id, failing.id}
    found = Flow.get(flow.id)
    assert found.progress().total == 3
    run_tasks(backend="heavy")
    assert (found.progress().successful, found.wait(timeout=60).failed) == (2, 1)
    assert async_to_sync(found.await_end)(timeout=60).failed == 1
    assert found.retry() == 1
    assert found.cancel() == 1


def test_the_block_of_a_flow_is_a_transaction_there():
    with pytest.raises(ZeroDivisionError), Flow("broken", backend="heavy"):
        enqueue()
        raise ZeroDivisionError
    assert not rows().exists()
    assert not RayFlow.objects.using(THERE).exists()


def test_another_database_cannot_be_enqueued_into_in_the_block_of_a_flow():
    with Flow("one", backend="heavy") as flow:
        enqueue()
        with pytest.raises(InvalidTask, match=r"lives in the database 'tasks2', .* backend 'default' in 'default'"):
            tasks.add.enqueue(1, 2)
    assert (len(states()), len(states(HERE))) == (1, 0)
    assert flow.progress().total == 1


def test_what_a_body_enqueues_into_another_database_belongs_to_no_flow():
    with Flow("one", backend="heavy") as flow:
        result = elsewhere.everything.using(backend="heavy").enqueue(1, "x")
    run_tasks(backend="heavy", raise_errors=True)
    result.refresh()
    here, there = (
        rows(alias).get(pk=pk) for alias, pk in zip((THERE, HERE), result.return_value["enqueued"], strict=True)
    )
    assert (str(here.flow_id), there.flow_id) == (flow.id, None)


# -- operators


def test_commands_reach_every_database():
    pairs = [(enqueue(), tasks.add.enqueue(1, 2)) for _ in range(2)]
    assert run("cancel", "--dry-run", "--all") == "4 executions would be cancelled.\n"
    assert run("cancel", *(one.id for one in pairs[0])) == "Cancelled 2 executions.\n"
    assert run("cancel", "--backend", "heavy") == "Cancelled 1 execution.\n"
    assert (states(), states(HERE)) == (["CANCELLED", "CANCELLED"], ["CANCELLED", "READY"])
    assert run("retry", "--all", "--dry-run") == "3 executions would be retried.\n"
    assert run("retry", "--backend", "heavy") == "Retried 2 executions.\n"
    assert run("cancel", "--all") == "Cancelled 3 executions.\n"
    for alias in (HERE, THERE):
        rows(alias).update(finished_at=Now() - timedelta(days=2))
    assert run("prune", "--older-than", "1d", "--dry-run") == "4 executions would be deleted.\n"
    assert run("prune", "--older-than", "1d", "--max", "3") == "Deleted 3 executions.\n"
    assert run("prune", "--older-than", "1d") == "Deleted 1 execution.\n"
    with pytest.raises(CommandError, match="nothing has this queue"):
        run("cancel", "--queue", "othr")


def test_queues_are_paused_where_they_are_claimed():
    assert run("pause", "--backend", "heavy", "default") == "default is paused.\n"
    assert RayQueue.objects.using(THERE).get().paused_at is not None
    assert not RayQueue.objects.using(HERE).exists()
    assert [one.name for one in status().queues if one.paused_at is not None] == ["default"]
    assert run("resume", "--backend", "heavy", "default") == "default is resumed.\n"
    assert RayQueue.objects.pause("default", "heavy")
    assert RayQueue.objects.resume("default", "heavy")


def a_supervisor(alias=THERE, backend="heavy"):
    return RayWorker.objects.using(alias).create(
        hostname=f"host of {backend}",
        pid=1,
        backend=backend,
        queues=["default"],
        concurrency=1,
        ray_address="",
        version="0",
    )


def test_status_shows_all_of_them():
    a_supervisor()
    tasks.fail.using(backend="heavy", max_attempts=1).enqueue()
    run_tasks(backend="heavy")
    tasks.add.enqueue(1, 2)
    found = json.loads(run("status", "--json"))
    assert {(one["backend"], one["database"]) for one in found["queues"]} == {("default", HERE), ("heavy", THERE)}
    assert [one["task"] for one in found["failures"]] == ["tests.tasks.fail"]
    # That of the module may be there as well: it says so again when its row is gone.
    mine = [one for one in found["supervisors"] if one["hostname"] == "host of heavy"]
    assert [(one["backend"], one["database"]) for one in mine] == [("heavy", THERE)]
    assert found["unreachable"] == {}
    assert "tests.tasks.fail" in run("status")


def test_metrics_tell_of_all_of_them(server):
    enqueue()
    text = django_ray.views.metrics(RequestFactory().get("/")).text
    assert 'django_ray_queue_depth{backend="heavy",queue="default"} 1' in text
    assert 'django_ray_database_up{database="default"} 1' in text
    assert 'django_ray_database_up{database="tasks2"} 1' in text


def test_a_server_that_has_restarted_is_shown_at_once(server):
    """The connections that this process keeps have died with it."""
    enqueue()
    assert connections[THERE].connection is not None
    server.restart()
    text = django_ray.views.metrics(RequestFactory().get("/")).text
    assert 'django_ray_database_up{database="tasks2"} 1' in text


def test_a_server_that_is_away_takes_nothing_of_the_others_away(server, admin_client):
    here = tasks.add.enqueue(1, 2)
    connections[THERE].close()
    server.stop()
    try:
        text = django_ray.views.metrics(RequestFactory().get("/")).text
        assert 'django_ray_queue_depth{backend="default",queue="default"} 1' in text
        assert 'django_ray_database_up{database="tasks2"} 0' in text
        assert "The database 'tasks2' cannot be reached" in run("status")
        found, unreachable = gates()
        assert (found, [*unreachable]) == ([], [THERE])
        page = admin_client.get(reverse("admin:django_ray_live")).text
        assert "The database <code>tasks2</code> cannot be reached" in page
        assert default_task_backend.get_result(here.id).id == here.id
        assert here.cancel()
        with pytest.raises(OperationalError):
            enqueue()
        with pytest.raises(OperationalError):  # nobody can say that it is nowhere
            default_task_backend.get_result(str(uuid4()))
    finally:
        connections[THERE].close()
        server.start()


def test_who_watches_goes_on_without_a_server_that_goes_away(server):
    two = {
        "DJANGO_SETTINGS_MODULE": "tests.settings_two",
        "DATABASE_URL": database_url(connections[HERE]),
        "SECOND_PORT": str(server.port),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
    }
    with Process("-m", "django", "django_ray_status", "--watch", "--json", **two) as watching:
        watching.wait_for('"unreachable": {}')
        connections[THERE].close()
        server.stop()
        try:
            watching.wait_for('"unreachable": {"tasks2": ')
            here = tasks.add.enqueue(1, 2)
            with connections[HERE].cursor() as cursor:
                cursor.execute("SELECT pg_notify(django_ray_channel('activity:default'), '')")
            watching.wait_for('"waiting": 1')
            assert here.cancel()
        finally:
            connections[THERE].close()
            server.start()


def test_schedules_are_declared_and_shown_where_they_are_fired():
    RaySchedule.objects.using(THERE).all().delete()
    for alias in (HERE, THERE):
        call_command("migrate", "django_ray", database=alias, verbosity=0)
    assert [one.name for one in RaySchedule.objects.using(THERE).all()] == ["yearly"]
    assert not RaySchedule.objects.using(HERE).filter(backend="heavy").exists()
    assert "yearly" in run("schedules")
    assert run("schedules", "--run-now", "yearly").startswith("yearly is enqueued as")
    assert rows().get().schedule.name == "yearly"
    assert run("schedules", "--backend", "heavy", "--pause", "yearly") == "yearly is paused.\n"
    assert [one.row.name for one in status().schedules] == []
    assert run("schedules", "--resume", "yearly") == "yearly is resumed.\n"
    assert [one.row.name for one in status().schedules] == ["yearly"]
    assert RaySchedule.objects.using(THERE).get().run_now().backend == "heavy"
    assert 'django_ray_schedule_paused{backend="heavy",schedule="yearly"} 0' in (
        django_ray.views.metrics(RequestFactory().get("/")).text
    )


def test_gates_are_overridden_where_they_hold():
    assert run("gates", "--backend", "heavy", "--set", "g", "--limit", "1").startswith("g: ")
    assert not RayGate.objects.using(HERE).exists()
    assert RayGate.objects.create(backend="heavy", name="h", limit=2)._state.db == THERE
    row = RayGate(backend="heavy", name="i", limit=3)
    row.save()
    assert [(one.name, one.limit) for one in RayGate.objects.using(THERE).order_by("name")] == [
        ("g", 1), ("h", 2), ("i", 3),
    ]  # fmt: skip
    for _ in range(2):
        enqueue(gate="g", limit=5)
    with connections[THERE].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_ray_admissible('heavy', '{default}', 5, NULL, NULL)"
                       " WHERE task_id IS NOT NULL")  # fmt: skip
        assert cursor.fetchone() == (1,)
    assert "heavy" in run("gates", "g")
    assert run("gates", "--backend", "heavy", "--clear", "g").startswith("g: ")


def test_flows_of_all_databases_are_listed_shown_and_repaired():
    with Flow("far", backend="heavy") as far:
        enqueue()
    with Flow("near") as near:
        tasks.add.enqueue(1, 2)
    listed = [one["id"] for one in json.loads(run("flows", "--json"))["flows"]]
    assert listed == [near.id, far.id]
    assert [one["id"] for one in json.loads(run("flows", "--json", "--backend", "heavy"))["flows"]] == [far.id]
    assert json.loads(run("flows", "--json", far.id))["ready"] == 1
    assert run("flows", far.id, "--cancel") == "1 execution cancelled.\n"
    assert "Nothing had to be changed." in run("flows", "--repair")


# -- the admin


def test_a_list_shows_one_database_and_offers_the_others(admin_client):
    there, here = enqueue(), tasks.fail.enqueue()
    listing = reverse("admin:django_ray_raytaskexecution_changelist")
    first, second_ = admin_client.get(listing).text, admin_client.get(f"{listing}?database=tasks2").text
    assert (here.id in first, there.id in first) == (True, False)
    assert (here.id in second_, there.id in second_) == (False, True)
    assert "?database=tasks2" in first
    data = {"_selected_action": there.id, "action": "cancel", "index": 0}
    admin_client.post(f"{listing}?database=tasks2", data)
    assert (states(), states(HERE)) == (["CANCELLED"], ["READY"])
    admin_client.post(f"{listing}?database=tasks2", {**data, "action": "enqueue_again"})
    admin_client.post(f"{listing}?database=tasks2", {**data, "action": "retry"})
    assert states() == ["READY", "READY"]
    data |= {"action": "delete_selected", "post": "yes"}
    admin_client.post(f"{listing}?database=tasks2", data)
    assert (len(states()), len(states(HERE))) == (1, 1)


def test_with_one_database_there_is_no_chooser(admin_client, settings):
    settings.TASKS = {"default": settings.TASKS["default"]}
    assert "?database=" not in admin_client.get(reverse("admin:django_ray_raytaskexecution_changelist")).text


def test_the_page_of_an_execution_is_found_in_any_database(admin_client):
    first = enqueue()
    there = enqueue(first, 1)
    page = reverse("admin:django_ray_raytaskexecution_change", args=[there.id])
    text = admin_client.get(page).text
    assert first.id in text
    assert "database <b>tasks2</b>" in text
    admin_client.post(reverse("admin:django_ray_raytaskexecution_do", args=[first.id]), {"verb": "cancel"})
    assert states() == ["CANCELLED", "FAILED"]
    delete = reverse("admin:django_ray_raytaskexecution_delete", args=[there.id])
    assert admin_client.post(delete, {"post": "yes"}).status_code == 302
    assert [str(pk) for pk in rows().values_list("pk", flat=True)] == [first.id]


def test_pages_of_numbers_are_of_the_database_that_the_list_says(admin_client):
    """Two schedules and two gates may have the same number."""
    two = {}
    for alias, backend in ((HERE, "default"), (THERE, "heavy")):
        RaySchedule.objects.using(alias).all().delete()
        two[alias] = RaySchedule(
            pk=1000, backend=backend, name=f"of {backend}", callable_path="tests.elsewhere.note", cron="0 3 * * *"
        )
        two[alias].save()
    listing = reverse("admin:django_ray_rayschedule_changelist")
    assert "of default" in admin_client.get(listing).text
    text = admin_client.get(f"{listing}?database=tasks2").text
    assert "of heavy" in text
    # As Django's own link from the list has it.
    query = "?_changelist_filters=database%3Dtasks2"
    page = reverse("admin:django_ray_rayschedule_change", args=[1000])
    assert page + query in text
    assert "of default" in admin_client.get(page).text
    there = admin_client.get(page + query).text
    assert "of heavy" in there
    do = reverse("admin:django_ray_rayschedule_do", args=[1000])
    assert do + query in there
    answer = admin_client.post(do + query, {"verb": "pause"})
    assert answer["Location"] == page + query
    for alias, is_paused in ((HERE, False), (THERE, True)):
        assert (RaySchedule.objects.using(alias).get().paused_at is not None) is is_paused
    admin_client.post(do + query, {"verb": "run_now"})
    assert (len(states()), len(states(HERE))) == (1, 0)
    execution = reverse("admin:django_ray_raytaskexecution_change", args=[rows().get().pk])
    assert page + query in admin_client.get(execution).text
    delete = reverse("admin:django_ray_rayschedule_delete", args=[1000])
    admin_client.post(delete + query, {"post": "yes"})
    assert [RaySchedule.objects.using(alias).count() for alias in (HERE, THERE)] == [1, 0]


def test_forms_write_where_the_backend_lives(admin_client):
    add = reverse("admin:django_ray_raygate_add")
    said = {"name": "g", "backend": "heavy", "limit": 1, "rate_count": "", "rate_per": "", "rate_burst": 1}
    answer = admin_client.post(add, said)
    assert answer["Location"].endswith("?database=tasks2")
    row = RayGate.objects.using(THERE).get()
    text = admin_client.get(reverse("admin:django_ray_raygate_changelist")).text
    change = reverse("admin:django_ray_raygate_change", args=[row.pk]) + "?_changelist_filters=database%3Dtasks2"
    assert change in text
    assert admin_client.post(change, {**said, "limit": 7}).status_code == 302
    row.refresh_from_db(using=THERE)
    assert row.limit == 7
    assert "another database" in admin_client.post(change, {**said, "backend": "default"}).text
    assert not RayGate.objects.using(HERE).exists()
    add = reverse("admin:django_ray_rayschedule_add")
    said = {
        "name": "s", "task": "heavy tests.elsewhere.note", "args": "[]", "kwargs": "{}", "cron": "0 3 * * *",
        "every": "", "time_zone": "UTC", "missed": "one", "missed_within": "", "overlap": "skip",
    }  # fmt: skip
    assert admin_client.post(add, said)["Location"].endswith("?database=tasks2")
    assert RaySchedule.objects.using(THERE).filter(name="s").exists()


def test_the_pages_of_flows_and_supervisors_know_their_database(admin_client):
    with Flow("far", backend="heavy") as flow:
        enqueue(run_after=timedelta(hours=1))
    page = reverse("admin:django_ray_rayflow_change", args=[flow.id])
    text = admin_client.get(page).text
    assert "tests.tasks.add" in text
    assert "&amp;database=tasks2" in text
    assert "far" in admin_client.get(reverse("admin:django_ray_rayflow_changelist") + "?database=tasks2").text
    admin_client.post(reverse("admin:django_ray_rayflow_do", args=[flow.id]), {"verb": "cancel"})
    assert states() == ["CANCELLED"]
    a_supervisor()
    workers = reverse("admin:django_ray_rayworker_changelist")
    assert "host of heavy" not in admin_client.get(workers).text
    assert "host of heavy" in admin_client.get(f"{workers}?database=tasks2").text


def test_the_live_page_shows_all_of_them_and_pauses_there(admin_client):
    text = admin_client.get(reverse("admin:django_ray_live")).text
    assert "heavy, database tasks2" in text
    admin_client.post(reverse("admin:django_ray_pause"), {"verb": "pause", "name": "default", "backend": "heavy"})
    assert RayQueue.objects.using(THERE).get().paused_at is not None
    admin_client.post(reverse("admin:django_ray_pause"), {"verb": "resume", "name": "default", "backend": "heavy"})


@pytest.mark.parametrize("backend", ["default", "heavy"])
def test_the_stream_hears_each_database(backend):
    numbers = iter(range(10))

    async def watch():
        pages = streaming._pages(lambda: str(next(numbers)), [HERE, THERE])
        first = await anext(pages)
        async with asyncio.timeout(10):  # less than it would send one anyway
            await tasks.add.using(backend=backend).aenqueue(1, 2)
            second_ = await anext(pages)
        await pages.aclose()
        return first, second_

    assert async_to_sync(watch)() == ('data: "0"\n\n', 'data: "1"\n\n')


# -- checks


class KeepsOut:
    def allow_migrate(self, db, app_label, **hints):
        return False if (db, app_label) == (THERE, "django_ray") else None


def with_database(settings, name):
    options = {**HEAVY["OPTIONS"], "DATABASE": name}
    settings.TASKS = {**settings.TASKS, "heavy": {**HEAVY, "OPTIONS": options}}


def test_an_unknown_alias_is_refused(settings):
    with_database(settings, "taks2")
    with pytest.raises(InvalidTaskBackend, match="is 'taks2': DATABASES has no such alias: did you mean tasks2"):
        task_backends["heavy"]


@pytest.mark.parametrize("name", ["", 3, None, ["tasks2"]])
def test_what_is_no_alias_is_refused(settings, name):
    with_database(settings, name)
    with pytest.raises(InvalidTaskBackend, match=r'"DATABASE"\] is .*an alias of DATABASES'):
        task_backends["heavy"]


def test_checks_look_at_each_database(settings):
    both = [HERE, THERE]
    assert [
        *check_database(),
        *check_router(),
        *check_triggers(both),
        *check_rights(both),
        *check_strangers(both),
    ] == []
    with connections[THERE].cursor() as cursor:
        cursor.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER django_ray_on_insert")
        assert [one.id for one in check_triggers(both)] == ["django_ray.E002"]
        assert check_triggers([HERE]) == []
        cursor.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER django_ray_on_insert")
        cursor.execute("ALTER TABLE django_ray_execution RENAME TO elsewhere")
        (missing,) = check_triggers(both)
        cursor.execute("ALTER TABLE elsewhere RENAME TO django_ray_execution")
    assert missing.id == "django_ray.W001"
    assert "run manage.py migrate django_ray --database tasks2" in missing.msg


def test_a_router_that_keeps_the_tables_out_is_told(settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.KeepsOut"]
    (warning,) = check_router()
    assert warning.id == "django_ray.W008"
    assert """TASKS["heavy"]["OPTIONS"]["DATABASE"] is 'tasks2', where a router""" in warning.msg


def test_a_database_that_is_not_postgresql_is_told(settings):
    connections.settings["lite"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    connections.configure_settings(connections.settings)
    try:
        with_database(settings, "lite")
        (error,) = check_database()
        assert (error.id, error.msg.startswith("The database 'lite' is SQLite")) == ("django_ray.E001", True)
    finally:
        del connections["lite"], connections.settings["lite"]


def test_atomic_tasks_of_another_database_are_told(monkeypatch):
    module = SimpleNamespace(write=elsewhere.write_atomically.using(backend="heavy"))
    monkeypatch.setitem(__import__("sys").modules, "tests.clockwork.tasks", module)
    (warning,) = check_atomic()
    assert warning.id == "django_ray.W006"
    assert "tests.elsewhere.write_atomically: atomic=True is of the database 'tasks2'" in warning.msg


# -- what takes longer


@pytest.mark.slow
def test_a_server_that_stands_still_holds_up_nothing_of_the_other(server, supervisor, listen, client):
    """For twenty seconds, without a word: its connections stay open. Then what was left goes on."""
    other = listen("--sync", "--queue", "default")
    other.wait_for("is ready")
    assert enqueue(1, 1, queue_name="alive").wait(timeout=60).return_value == 2
    left = enqueue(1, 2, queue_name="alive", run_after=timedelta(seconds=10))
    began, number = time.monotonic(), 0
    with server.standing_still():
        while time.monotonic() - began < 20:
            assert tasks.add.enqueue(number, 1).wait(timeout=20).return_value == number + 1
            number += 1
            if number == 20:
                text = django_ray.views.metrics(RequestFactory().get("/")).text
                assert 'django_ray_database_up{database="tasks2"} 0' in text
                assert 'django_ray_database_up{database="default"} 1' in text
    assert number > 40
    assert left.wait(timeout=60).return_value == 3
    assert enqueue(3, 4, queue_name="alive").wait(timeout=60).return_value == 7


@pytest.mark.slow
def test_calls_of_ray_write_where_their_rows_are(server, listen, tmp_path, heavy):
    """A call settles the others itself when a body turns out to be long: by the connection of the project."""
    where = {"DJANGO_SETTINGS_MODULE": "tests.settings_two", "SECOND_PORT": str(server.port)}
    listen("--backend", "heavy", "--queue", "default", "--local", "--concurrency", "2", **where).wait_for("is ready")
    heavy.enqueue_many([(tasks.play, ["quick"], {})] * 500)
    until(lambda: not rows().exclude(state="SUCCESSFUL").exists(), what="the end of all")
    held = str(tmp_path / "a")
    heavy.enqueue_many([(tasks.play, [*what], {}) for what in [["quick"]] * 20 + [["hold", held]] + [["quick"]] * 20])
    try:
        until(lambda: rows().filter(state="SUCCESSFUL").count() == 540, what="all the others")
    finally:
        (tmp_path / "a.go").touch()
    result = elsewhere.everything.using(backend="heavy").enqueue(enqueue(1, 2), "x" * 100_000)
    assert result.wait(timeout=60).return_value["first"] == 3
    assert elsewhere.write_atomically.using(backend="heavy").enqueue("on Ray").wait(timeout=60).return_value == "on Ray"
    with connections[THERE].cursor() as cursor:
        cursor.execute("DROP TABLE ledger2")
    until(lambda: rows(HERE).count() == 1, what="what the body has enqueued here")
    assert states(HERE) == ["READY"]


@pytest.mark.slow
def test_the_tables_are_made_as_the_docs_say(server):
    """In a database that has nothing else, by `migrate django_ray --database`."""
    with closing(psycopg.connect(server.url, autocommit=True)) as session:
        session.execute("CREATE DATABASE empty")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings_two", "SECOND_PORT": str(server.port)}
    environment |= {"SECOND_NAME": "empty", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}"}

    def manage(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    manage("migrate", "django_ray", "--database", "tasks2")
    with closing(psycopg.connect(f"{server.url.rpartition('/')[0]}/empty", autocommit=True)) as session:
        names = {name for (name,) in session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
        assert {name for name in names if not name.startswith("django_ray_")} == {"django_migrations"}
        assert session.execute("SELECT name, backend FROM django_ray_schedule").fetchall() == [("yearly", "heavy")]
    assert "no issues" in manage("check", "--database", "tasks2")
