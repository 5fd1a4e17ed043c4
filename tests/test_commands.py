"""The management commands for operators."""

import builtins
import io
import os
import signal
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.utils import timezone

from django_ray import Flow
from django_ray.management.commands import django_ray_prune
from django_ray.models import RayQueue, RaySchedule, RayTaskExecution, State
from tests import tasks

pytestmark = pytest.mark.django_db(transaction=True)


def run(command, *arguments):
    """Return what it prints."""
    output = io.StringIO()
    call_command(f"django_ray_{command}", *map(str, arguments), stdout=output)
    return output.getvalue().strip()


def states():
    return list(RayTaskExecution.objects.order_by("pk").values_list("state", flat=True))


def finish(*ids, state=State.FAILED, ago=timedelta(0), error="builtins.ValueError"):
    errors = [] if state == State.SUCCESSFUL else [{"exception_class_path": error, "message": "", "traceback": ""}]
    rows = RayTaskExecution.objects.filter(pk__in=ids)
    rows.update(state=state, finished_at=Now() - ago, errors=errors, failures=1)


def enqueue(number=1, **options):
    return [tasks.add.using(**options).enqueue(1, n).id for n in range(number)]


def test_retry_by_id_makes_a_failed_execution_ready_with_all_its_attempts():
    failed, other = enqueue(2)
    finish(failed, other)
    assert run("retry", failed) == "Retried 1 execution."
    assert states() == ["READY", "FAILED"]
    assert RayTaskExecution.objects.get(pk=failed).failures == 0


def test_filters_narrow_each_other():
    (mine,), (other,) = enqueue(), enqueue(queue_name="other")
    later = tasks.add_later.enqueue(1, 2).id
    finish(mine, other, later)
    assert run("retry", "--queue", "default", "--task", "tests.tasks.add") == "Retried 1 execution."
    assert states() == ["READY", "FAILED", "FAILED"]
    assert run("retry", "--queue", "default", "--queue", "other", "--backend", "default") == "Retried 2 executions."


def test_a_task_is_found_by_any_path_that_it_can_be_imported_from():
    """This module imports tests.tasks as tasks."""
    (failed,) = enqueue()
    finish(failed)
    assert run("retry", "--task", "tests.tasks.add_later") == "Retried 0 executions."
    with pytest.raises(CommandError, match="nothing has this task"):
        run("retry", "--task", f"{__name__}.tasks.add")  # no module
    assert run("retry", "--task", f"{__name__}.alias") == "Retried 1 execution."


alias = tasks.add


def test_retry_by_the_class_of_the_last_error_or_its_name_alone():
    value, key, near = enqueue(3)
    finish(value)
    finish(key, error="builtins.KeyError")
    finish(near, error="shop.errors.NotAKeyError")
    assert run("retry", "--exception", "KeyError") == "Retried 1 execution."
    assert run("retry", "--exception", "builtins.ValueError") == "Retried 1 execution."
    assert states() == ["READY", "READY", "FAILED"]


def test_retry_by_state():
    failed, cancelled = enqueue(2)
    finish(failed)
    finish(cancelled, state=State.CANCELLED)
    assert run("retry", "--state", "cancelled") == "Retried 1 execution."
    assert states() == ["FAILED", "READY"]


def test_cancel_cancels_what_waits_and_leaves_what_is_finished():
    waits, done = enqueue(2)
    finish(done, state=State.SUCCESSFUL)
    assert run("cancel", waits, done) == "Cancelled 1 execution."
    assert states() == ["CANCELLED", "SUCCESSFUL"]


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_everything_there_is_needs_a_word_of_its_own(command):
    with pytest.raises(CommandError, match=r"choose some by id, --queue, --task.*or say --all"):
        run(command)
    enqueue(2)
    assert run("cancel", "--all") == "Cancelled 2 executions."
    assert run("retry", "--all") == "Retried 2 executions."


def test_a_dry_run_says_how_many_and_changes_nothing():
    enqueue(2)
    assert run("cancel", "--all", "--dry-run") == "2 executions would be cancelled."
    assert run("retry", "--all", "--dry-run") == "0 executions would be retried."
    finish(*RayTaskExecution.objects.values_list("pk", flat=True))
    assert run("retry", "--all", "--dry-run") == "2 executions would be retried."
    assert run("prune", "--older-than", "0s", "--dry-run") == "2 executions would be deleted."
    assert run("prune", "--older-than", "0s", "--max", 1, "--dry-run") == "1 execution would be deleted."
    assert states() == ["FAILED", "FAILED"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry", "7"], "'7' is not the id of an execution.*give result.id"),
        (["retry", "--state", "FAILD"], "--state FAILD: there is no such state: did you mean FAILED?"),
        (["cancel", "--state", "done"], "--state done: there is no such state: there are READY, RUNNING."),
        (["cancel", "--state", "failed"], "--state failed: this command is for what is WAITING or READY or RUNNING."),
        (["pause", "othr"], r"TASKS\[\"default\"\]\[\"QUEUES\"\] has no 'othr': did you mean other?"),
        (["resume", "x"], "has no 'x': there are default, other."),
        (["pause", "default", "--backend", "defalt"], "TASKS has no such alias: did you mean default?"),
        (["prune", "--older-than", "7"], "--older-than is '7': it must be a number with a unit"),
        (["prune", "--older-than", "-7d"], "expected one argument"),
        (["prune", "--older-than", "99999999w"], "with a unit"),
        (["prune", "--older-than", "7d", "--state", "ready"], "this command is for what is SUCCESSFUL"),
        (["prune", "--older-than", "7d", "--max", "0"], "--max is 0: it must be at least 1"),
        (["prune", "--older-than", "7d", "--batch-size", "0"], "--batch-size is 0"),
        (["prune"], "--older-than"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_value_and_the_remedy(arguments, message):
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_an_id_that_nobody_has_is_none():
    assert run("retry", uuid4()) == "Retried 0 executions."


def test_queues_are_paused_and_resumed_and_what_happened_is_said():
    assert run("pause", "default", "other") == "default is paused.\nother is paused."
    assert run("pause", "default") == "default was paused already."
    assert set(RayQueue.objects.filter(paused_at__isnull=False).values_list("name", flat=True)) == {"default", "other"}
    assert run("resume", "default") == "default is resumed."
    assert run("resume", "default") == "default was not paused."


def test_a_backend_that_allows_any_queue_pauses_any():
    assert run("pause", "customer-7", "--backend", "any") == "customer-7 is paused."
    assert RayQueue.objects.get().backend == "any"


def test_prune_deletes_what_ended_before_and_leaves_the_rest():
    old, new, other, _ = [*enqueue(2), *enqueue(queue_name="other"), *enqueue()]
    finish(old, other, ago=timedelta(days=8))
    finish(new, ago=timedelta(days=6))
    assert run("prune", "--older-than", "1w", "--queue", "default") == "Deleted 1 execution."
    assert states() == ["FAILED", "FAILED", "READY"]
    assert run("prune", "--older-than", "168h") == "Deleted 1 execution."
    assert run("prune", "--older-than", "8640m") == "Deleted 1 execution."
    assert states() == ["READY"]


def test_prune_by_state():
    finish(*enqueue(2), ago=timedelta(days=1))
    finish(*enqueue(3, queue_name="other"), state=State.SUCCESSFUL, ago=timedelta(days=1))
    RayTaskExecution.objects.filter(queue_name="other").update(errors=[])
    assert run("prune", "--older-than", "1h", "--state", "SUCCESSFUL") == "Deleted 3 executions."
    assert states() == ["FAILED", "FAILED"]


def test_prune_goes_on_until_none_is_left_or_as_many_as_were_asked_for_are_gone():
    finish(*enqueue(7), ago=timedelta(days=1))
    assert run("prune", "--older-than", "1h", "--batch-size", 2, "--max", 3) == "Deleted 3 executions."
    assert run("prune", "--older-than", "1h", "--batch-size", 2) == "Deleted 4 executions."


def test_what_somebody_is_busy_with_is_skipped(connect):
    first, _ = enqueue(2)
    finish(*RayTaskExecution.objects.values_list("pk", flat=True), ago=timedelta(days=1))
    session = connect(autocommit=False)
    session.execute("SELECT FROM django_ray_execution WHERE task_id = %s FOR UPDATE", [first])
    assert run("prune", "--older-than", "1h") == "Deleted 1 execution."
    session.rollback()


def test_ctrl_c_ends_between_two_batches_and_says_how_many_went(monkeypatch):
    finish(*enqueue(5), ago=timedelta(days=1))
    batches = []

    def press(number):
        batches.append(number)
        os.kill(os.getpid(), signal.SIGINT)
        return f"{number} executions"

    monkeypatch.setattr(django_ray_prune.Command, "_progress", lambda *_: _shows(press))
    before, output = signal.getsignal(signal.SIGINT), io.StringIO()
    with pytest.raises(SystemExit) as exit_:
        call_command("django_ray_prune", "--older-than", "1h", "--batch-size", "2", stdout=output)
    assert exit_.value.code == 130
    assert output.getvalue() == "Interrupted: deleted 2 executions until then.\n"
    assert batches == [2]
    assert len(states()) == 3
    assert signal.getsignal(signal.SIGINT) is before


class _shows:  # noqa: N801
    def __init__(self, show):
        self._show = show

    def __enter__(self):
        return self._show

    def __exit__(self, *_): ...


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_people_at_a_terminal_see_how_far_it_is(monkeypatch):
    finish(*enqueue(3), ago=timedelta(days=1))
    real = builtins.__import__

    def without_rich(name, *arguments, **keywords):
        if name.startswith("rich"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    output = Terminal()
    call_command("django_ray_prune", "--older-than", "1h", "--batch-size", "2", stdout=output, no_color=True)
    assert output.getvalue().splitlines() == ["2 executions ...", "3 executions ...", "Deleted 3 executions."]


def test_with_rich_they_see_a_bar(monkeypatch, capsys):
    finish(*enqueue(3), ago=timedelta(days=1))
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = Terminal()
    call_command("django_ray_prune", "--older-than", "1h", stdout=output)
    shown = capsys.readouterr().out
    assert "Deleting" in shown
    assert "100%" in shown
    assert "Deleted 3 executions." in output.getvalue()


@pytest.fixture
def ada(django_user_model):
    return django_user_model.objects.create_user("ada", password="x")


def history(user):
    """Return what Django's history says that somebody did, the last entry last."""
    return [
        (entry.content_type.model, entry.change_message)
        for entry in user.logentry_set.order_by("pk").select_related("content_type")
    ]


def test_django_s_history_says_who_did_what_with_a_command(ada):
    waiting = tasks.add.enqueue(1, 2)
    RayTaskExecution.objects.create(callable_path="x.y", state="FAILED", finished_at=timezone.now())
    RaySchedule.objects.create(name="nightly", callable_path="x.y", cron="@daily")
    flow = Flow("import")
    with flow:
        tasks.add.enqueue(3, 4)
    run("pause", "default", "--because", "fire", "--by", "ada")
    run("resume", "default", "--by", "ada")
    run("cancel", waiting.id, "--by", "ada")
    run("retry", "--state", "FAILED", "--task", "x.y", "--by", "ada")
    run("schedules", "nightly", "--pause", "--by", "ada")
    run("schedules", "nightly", "--pause", "--by", "ada")  # which changes nothing
    run("gates", "--set", "shop:7", "--limit", "3", "--by", "ada")
    run("gates", "--clear", "shop:7", "--by", "ada")
    run("flows", str(flow.id), "--cancel", "--by", "ada")
    run("prune", "--older-than", "0s", "--state", "CANCELLED", "--by", "ada")
    assert history(ada) == [
        ("rayqueue", "Paused. (by a command: queues default, backend default)"),
        ("rayqueue", "Resumed. (by a command: queues default, backend default)"),
        ("raytaskexecution", f"Cancelled 1 execution. (by a command: ids {waiting.id})"),
        ("raytaskexecution", "Retried 1 execution. (by a command: task x.y, state FAILED)"),
        ("rayschedule", "It is paused. (by a command: names nightly)"),
        ("raygate", "Overridden: limit 3. (by a command: names shop:7)"),
        ("raygate", "Overridden no more. (by a command: names shop:7)"),
        ("rayflow", f"1 execution cancelled. (by a command: id {flow.id})"),
        ("raytaskexecution", "Deleted 2 executions. (by a command: state CANCELLED, older_than 0s)"),
    ]


def test_a_queue_is_paused_by_who_says_so(ada):
    run("pause", "default", "--by", "ada")
    assert RayQueue.objects.get(name="default").paused_by == "ada"


def test_somebody_whom_nobody_knows_does_nothing():
    result = tasks.add.enqueue(1, 2)
    for command in (["cancel", result.id], ["retry", "--all"], ["pause", "default"], ["gates", "--clear", "x"]):
        with pytest.raises(CommandError, match="--by bob: this project has no such user"):
            run(*command, "--by", "bob")
    result.refresh()
    assert result.status == "READY"


def test_a_login_without_a_user_leaves_no_entry(monkeypatch, ada):
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    run("pause", "default")
    assert LogEntry.objects.count() == 0
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    run("resume", "default")
    assert len(history(ada)) == 1
