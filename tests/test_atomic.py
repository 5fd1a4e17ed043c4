"""@task(atomic=True) and context.completing(): what a body writes, and that it has succeeded, are one transaction."""

import json
import sys
from types import ModuleType

import pytest
from django.db import connection, connections, transaction
from django.tasks.exceptions import InvalidTask
from django.test import override_settings

from django_ray import current, task
from django_ray.checks import check_atomic
from django_ray.models import RayTaskExecution, RayWorker, State
from django_ray.runtime import completion
from django_ray.runtime.entrypoint import invoke
from django_ray.testing import run_tasks
from django_ray_worker.database.statements import SQL, claim_parameters
from tests import ledger


@pytest.fixture
def claimed(transactional_db):
    """Enqueue, claim as a supervisor does, and return the payload and the row."""

    def _claimed(task, *args):
        result = task.enqueue(*args)
        worker = RayWorker.objects.create(hostname="h", pid=1, concurrency=1, backend="default", queues=[])
        where = {"backend": "default", "queues": ["default"]}
        with connection.cursor() as cursor:
            cursor.execute(SQL["claim"].decode(), where | claim_parameters(worker.pk, 1))
            row = dict(zip([column.name for column in cursor.description], cursor.fetchone(), strict=True))
        assert str(row["task_id"]) == str(result.id)
        return row["payload"], RayTaskExecution.objects.filter(pk=result.id)

    return _claimed


def row_of(result):
    return RayTaskExecution.objects.get(pk=result.id)


@pytest.mark.django_db
def test_in_a_test_case_the_effects_and_the_end_come_together():
    ledger.execute(ledger.DROP + ledger.CREATE)
    good, bad = ledger.note.enqueue("", 42), ledger.note.enqueue("raise once", 43)
    run_tasks()
    run_tasks()
    assert (row_of(good).state, row_of(good).result) == (State.SUCCESSFUL, 42)
    assert (row_of(bad).state, row_of(bad).failures, row_of(bad).attempt_number) == (State.SUCCESSFUL, 1, 2)
    assert ledger.written() == sorted([(str(good.id), 1), (str(bad.id), 2)])


@pytest.mark.django_db
def test_the_transaction_of_a_test_case_has_no_limit_afterwards():
    """Somebody may look at it in a debugger."""
    ledger.execute(ledger.DROP + ledger.CREATE)
    limit = "SELECT current_setting('idle_in_transaction_session_timeout')"
    with connection.cursor() as cursor:
        before = cursor.execute(limit).fetchone()
        result = ledger.note.enqueue("", 42)
        run_tasks()
        assert row_of(result).state == State.SUCCESSFUL
        assert cursor.execute(limit).fetchone() == before


def test_the_connection_is_kept_for_the_next_body(table, claimed, monkeypatch):
    """What its end sets on the session is over with its transaction."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", None)
    pids = []
    for _ in range(2):
        payload, _row = claimed(ledger.note, "", 1)
        assert invoke(payload)["is_settled"]
        pids.append(connection.connection.info.backend_pid)
    assert pids[0] == pids[1]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("too large", "django_ray.exceptions.InvalidResult"),
        ("no JSON", "builtins.ValueError"),
        ("bad", "django.db.utils.IntegrityError"),
        ("twice", "django.db.utils.IntegrityError"),
        ("left open", "django.db.transaction.TransactionManagementError"),
        ("left open, and raise", "builtins.ValueError"),
        ("swallowed", "django.db.utils.InternalError"),
    ],
)
def test_an_attempt_that_fails_leaves_nothing(table, claimed, what, error):
    """Also where the failure comes with the COMMIT; what cannot be stored is not tried again, as anywhere."""
    payload, _ = claimed(ledger.note, what)
    envelope = invoke(payload)
    assert envelope["kind"] == ("refused" if what in {"too large", "no JSON"} else "raised")
    assert envelope["exception_class_path"] == error
    assert ledger.written() == []
    assert invoke(claimed(ledger.note, "", 1)[0])["result"] == "1", "the connection is fit for the next one"


def test_who_has_lost_the_attempt_rolls_back(table, claimed, caplog):
    """A zombie: frozen, rescued by a peer, and awake again."""
    payload, row = claimed(ledger.note, "", 1)
    row.update(attempt_number=2)
    envelope = invoke(payload)
    assert envelope["exception_class_path"] == "django_ray.exceptions.TaskSuperseded"
    assert ledger.written() == []
    assert "its transaction is rolled back" in caplog.text
    assert row.get().state == State.RUNNING


def test_what_fails_after_the_commit_changes_nothing(table, claimed, caplog):
    payload, row = claimed(ledger.note, "after commit", 5)
    envelope = invoke(payload)
    assert (envelope["kind"], envelope["is_settled"]) == ("returned", True)
    assert (row.get().state, row.get().result) == (State.SUCCESSFUL, 5)
    assert len(ledger.written()) == 1
    assert "has ended; what came after its commit failed." in caplog.text


def test_an_answer_to_commit_that_is_lost_is_looked_for(table, claimed):
    """The server has committed; the connection breaks before it says so."""
    payload, row = claimed(ledger.note, "", 6)
    real = connection.commit

    def commit():
        real()
        connection.connection.close()
        connection.cursor().execute("SELECT 1")

    connection.commit = commit
    try:
        envelope = invoke(payload)
    finally:
        vars(connections["default"]).pop("commit", None)
    assert (envelope["kind"], envelope["is_settled"]) == ("returned", True)
    assert (row.get().state, len(ledger.written())) == (State.SUCCESSFUL, 1)


@pytest.mark.parametrize("statement", ['UPDATE "django_ray_execution"', "COMMIT"])
def test_a_connection_that_is_forgotten_at_the_end_rolls_back(table, proxied, claimed, monkeypatch, statement):
    """It would hold its slot for ever: neither we nor the body can tell that nothing comes any more."""
    payload, row = claimed(ledger.note, "", 1)
    swallowed = proxied.swallow_next(statement)
    with monkeypatch.context() as patch:
        patch.setattr(completion, "ANSWER_SECONDS", 2)
        envelope = invoke(payload)
    assert swallowed.is_set()
    assert envelope["exception_class_path"] == "django.db.utils.OperationalError"
    assert envelope["message"] == "The database has not answered for 2 s."
    with transaction.atomic():
        found = row.select_for_update().get()  # once the server has ended the transaction whose COMMIT never came
    assert (found.state, ledger.written()) == (State.RUNNING, [])
    proxied.cut()  # the server learns of the end, and what the body had locked is free
    assert invoke(payload)["is_settled"]


def test_what_waits_for_the_commit_takes_its_time(table, claimed, monkeypatch):
    """A callback of transaction.on_commit() is the body's, and so is what it asks."""
    monkeypatch.setattr(completion, "ANSWER_SECONDS", 2)
    payload, row = claimed(ledger.note, "ask after commit", 7)
    assert (invoke(payload)["result"], row.get().state) == ("7", State.SUCCESSFUL)
    assert ledger.written() == sorted([(str(row.get().task_id), 1)] * 2)


@pytest.mark.parametrize(
    ("how", "result"),
    [
        ("", {"from": "the block"}),
        ("raise after it", {"from": "the block"}),
        ("again", {"from": "the block"}),
        ("nothing said", None),
    ],
)
def test_a_block_completes_and_what_follows_changes_nothing(table, claimed, how, result):
    payload, row = claimed(ledger.complete, how)
    envelope = invoke(payload)
    assert (envelope["kind"], json.loads(envelope["result"]), envelope["is_settled"]) == ("returned", result, True)
    assert (row.get().state, row.get().result, len(ledger.written())) == (State.SUCCESSFUL, result, 1)


def test_a_block_that_fails_leaves_nothing(table, claimed):
    payload, row = claimed(ledger.complete, "raise once")
    assert invoke(payload)["kind"] == "raised"
    assert (row.get().state, ledger.written()) == (State.RUNNING, [])


def test_current_is_the_attempt_that_runs_here(claimed):
    payload, row = claimed(ledger.deep)
    assert json.loads(invoke(payload)["result"]) == [1, str(row.get().task_id)]
    with pytest.raises(RuntimeError, match="No task runs here"):
        current()


def test_what_cannot_be_atomic_is_refused_where_it_is_said():
    async def later():
        pass

    with pytest.raises(InvalidTask, match="atomic is not for coroutines"):
        task(atomic=True)(later)
    with pytest.raises(InvalidTask, match="atomic is 'yes': it must be True or False"):
        task(atomic="yes")(ledger.fail)


@override_settings(TASKS={"default": {"BACKEND": "django_ray.testing.ImmediateBackend"}})
def test_in_place_there_is_a_transaction_and_no_row(table):
    """The double keeps no rows: the body's own writes come or do not come all the same."""
    assert ledger.note.enqueue("", 7).return_value == 7
    assert ledger.note.enqueue("raise once", 7).status == "FAILED"
    assert ledger.complete.enqueue("").return_value == {"from": "the block"}
    assert len(ledger.written()) == 2


def test_where_the_executions_have_a_database_of_their_own_the_check_says_so(settings, monkeypatch):
    """W006: what an atomic task writes elsewhere is not part of the transaction."""
    module = ModuleType("django.contrib.auth.tasks")
    module.note = ledger.note
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert check_atomic() == []
    settings.DATABASE_ROUTERS = ["tests.test_atomic.Elsewhere"]
    (message,) = check_atomic()
    assert (message.id, "tests.ledger.note" in message.msg) == ("django_ray.W006", True)


class Elsewhere:
    """A router: executions have a database of their own."""

    def db_for_write(self, model, **_):
        return "executions" if model._meta.app_label == "django_ray" else None
