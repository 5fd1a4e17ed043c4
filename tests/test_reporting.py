"""The thread that writes what bodies say: a lock, a dead connection, an attempt that was taken away."""

import os

import pytest
from django.db import connection

from django_ray.models import RayProgress, RayTaskExecution, RayWorker, State
from django_ray.rows import Fence
from django_ray.runtime import connections, reporting
from django_ray.runtime.output import Output
from django_ray.runtime.reporting import Reporter, save_metadata
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def attempt(monkeypatch):
    """Begin an attempt; returns its fence."""
    before = sessions()
    worker = RayWorker.objects.create(
        hostname="host-1",
        pid=7,
        backend="default",
        queues=["default"],
        concurrency=4,
        ray_address="",
        version="",
    )

    def _attempt():
        row = RayTaskExecution.objects.create(
            callable_path="a.task", state=State.RUNNING, claimed_by=worker, attempt_number=1,
            worker_ids=[str(worker.pk)],
        )  # fmt: skip
        return Fence(str(row.pk), 1, worker.pk)

    yield _attempt
    monkeypatch.setattr(reporting, "IDLE_SECONDS", 0.05)
    reporting._writer().look()
    reporting._writer.cache_clear()
    # The thread's own connection would keep the database in use.
    until(lambda: not sessions() - before, what="the end of the writer's connection")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(reporting, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(reporting, "PAUSE_SECONDS", 0.05)
    reporting._writer.cache_clear()


def sessions():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        return {pid for (pid,) in cursor.fetchall()}


def said():
    return dict(RayProgress.objects.values_list("pk", "message"))


def begin(fence, output=None):
    reporter = Reporter("default", fence, output or Output("a task"))
    reporter.report(0.1, "begun")
    until(lambda: "begun" in said().values(), what="the first value")
    return reporter


def test_a_row_that_is_locked_holds_up_no_other_attempt(attempt, connect, monkeypatch, caplog):
    monkeypatch.setattr(reporting, "LAST_SECONDS", 0.3)
    locked = begin(attempt())
    stranger = connect(autocommit=False)
    stranger.execute("SELECT FROM django_ray_progress FOR UPDATE")
    locked.report(0.2, "locked")
    other = Reporter("default", attempt(), Output("a task"))
    until(lambda: "could not be written" in caplog.text, what="the warning")
    locked.report(0.2, "locked still")
    other.report(0.3, "other")
    until(lambda: "other" in said().values(), what="the value of the other attempt")
    other.close()
    until(other._has_ended.is_set, what="the end of the other attempt")
    stranger.rollback()
    locked.report(0.4, "free again")
    until(lambda: "free again" in said().values(), what="the value after the lock")
    locked.close()


@pytest.mark.parametrize("said_next", ["progress", "metadata"])
def test_a_connection_that_has_died_meanwhile_costs_nothing(attempt, connect, caplog, monkeypatch, said_next):
    monkeypatch.setattr(reporting, "IDLE_SECONDS", 60)
    admin = connect()
    before, fence = sessions(), attempt()
    reporter = begin(fence)
    if said_next == "metadata":
        reporter.close()  # what comes next is of another attempt
    (pid,) = sessions() - before
    admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    if said_next == "metadata":
        save_metadata("default", fence, {"a": 1})
        assert RayTaskExecution.objects.get().carrier == {"metadata": {"a": 1}}
    else:
        reporter.report(0.3, "written")
        reporter.close()
        assert set(said().values()) == {"written"}
    assert "could not be written" not in caplog.text


def test_a_connection_that_has_not_answered_for_long_is_replaced(attempt, monkeypatch):
    """Its socket looks well, though a firewall may have forgotten it."""
    monkeypatch.setattr(reporting, "IDLE_SECONDS", 60)
    before, fence = sessions(), attempt()
    begin(fence).close()
    kept = sessions() - before
    save_metadata("default", fence, {"a": 1})
    assert (len(kept), sessions() - before) == (1, kept)
    monkeypatch.setattr(connections, "ASK_SECONDS", 0)
    save_metadata("default", fence, {"a": 2})
    until(lambda: len(found := sessions() - before) == 1 and found != kept, what="another connection")


def test_a_connection_that_is_forgotten_costs_one_value(attempt, proxied, monkeypatch, caplog):
    """The thread would wait for ever, and every attempt of this process for it."""
    reporter = begin(attempt())
    monkeypatch.setattr(reporting, "SAVE_SECONDS", 0.3)
    swallowed = proxied.swallow_next(reporting._WRITE[:40])
    reporter.report(0.2, "lost")
    assert swallowed.wait(20)
    until(lambda: "has not answered for 0.3 s" in caplog.text, what="the warning")
    monkeypatch.setattr(reporting, "SAVE_SECONDS", 10)
    reporter.report(0.3, "written")
    reporter.close()
    assert set(said().values()) == {"written"}


def test_who_has_lost_the_attempt_writes_nothing(attempt):
    fence = attempt()
    reporter = begin(fence)
    RayTaskExecution.objects.update(attempt_number=2)
    reporter.report(0.9, "too late")
    reporter.close()
    assert set(said().values()) == {"begun"}


def test_lines_are_told_while_somebody_watches_and_not_before(attempt):
    output, fence = Output("a task"), attempt()
    reporter = begin(fence, output)
    output.add("unseen\n")
    until(lambda: reporter._looked == 1, what="a look whether somebody watches")
    save_metadata("default", fence, {})  # by the same thread: the look is over
    assert RayProgress.objects.get().output == ""
    RayTaskExecution.objects.update(awaited=True)
    output.add("seen\nnot ended")
    until(lambda: RayProgress.objects.get().output, what="the lines")
    assert (RayProgress.objects.get().output, RayProgress.objects.get().lines) == ("unseen\nseen", 2)
    reporter.close()
    assert RayProgress.objects.get().output == "unseen\nseen\nnot ended"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # what bodies do all the same
def test_a_child_that_the_body_forks_writes_as_well(attempt):
    fence = attempt()
    reporter = begin(fence)
    child = os.fork()
    if not child:
        try:
            reporter.report(0.5, "from the child")
            save_metadata("default", fence, {"a": 1})
            reporter.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert said() == {RayTaskExecution.objects.get(carrier={"metadata": {"a": 1}}).pk: "from the child"}
    reporter.close()
