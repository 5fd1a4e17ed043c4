"""Starting and stopping django-ray-listen, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest
from anyio import fail_after, sleep
from django.db import connection
from django.utils import timezone

from django_ray.models import RayTaskExecution, RayWorker, State
from django_ray_worker.stop import Stop
from tests import tasks
from tests.chaos import faults
from tests.supervisors import ROOT, Listen, database_url, until

pytestmark = pytest.mark.django_db(transaction=True)


def test_sigterm_lets_running_tasks_finish(listen, tmp_path):
    supervisor = listen("--local", "--concurrency", "2")
    supervisor.wait_for("is ready")
    result = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 1)
    until((tmp_path / "started").exists)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    result.refresh()
    assert result.return_value == "slept"
    assert RayWorker.objects.get().stopped_at is not None


def test_sigterm_interrupts_at_the_end_of_the_grace_and_releases(listen, tmp_path):
    """E1: nothing is RUNNING afterwards, interrupted work is READY, no attempt is charged."""
    supervisor = listen("--local", "--concurrency", "2", "--grace", "1")
    supervisor.wait_for("is ready")
    for number in range(4):
        tasks.touch_and_sleep.enqueue(str(tmp_path / f"started-{number}"), 600)
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    before = time.monotonic()
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert time.monotonic() - before < 25
    rows = RayTaskExecution.objects.all()
    assert {(row.state, row.failures, row.losses, row.claimed_by_id) for row in rows} == {(State.READY, 0, 0, None)}
    assert sorted(row.attempt_number for row in rows) == [0, 0, 1, 1]


@pytest.mark.slow
def test_a_second_signal_interrupts_at_once(listen, tmp_path):
    """E2."""
    supervisor = listen("--local", "--concurrency", "1", "--grace", "600")
    supervisor.wait_for("is ready")
    tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 600)
    until((tmp_path / "started").exists)
    supervisor.signal(signal.SIGTERM)
    supervisor.wait_for("stopping")
    supervisor.signal(signal.SIGINT)
    assert supervisor.wait(60) == 0, supervisor.log
    assert RayTaskExecution.objects.get().state == State.READY


def begun(supervisor, what, old=()):
    """Return when the Ray that is being started has come so far."""

    def look():
        return [process for process in faults.named(supervisor, what) if process not in old]

    until(look, 60, f"a {what}")


@pytest.mark.parametrize("what", [None, "raylet"])
def test_sigterm_while_ray_starts_ends_with_zero(listen, what):
    """E1: before Ray has begun, and later. (When its first Ray workers come, a signal is for a moment Ray's own.)"""
    supervisor = listen("--local")
    supervisor.wait_for("Starting Ray")
    if what:
        begun(supervisor, what)
    supervisor.signal(signal.SIGTERM)
    ends_well(supervisor)
    assert not RayWorker.objects.exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", [None, "raylet"])
def test_sigterm_while_ray_is_started_again_ends_with_zero(listen, what):
    """E1, G2: while the Ray that is gone is left, and while the next one starts."""
    supervisor = listen("--local", "--concurrency", "1")
    supervisor.wait_for("is ready")
    old = faults.processes(supervisor)
    faults.kill_raylet(supervisor)
    supervisor.wait_for("starting Ray again")
    if what:
        begun(supervisor, what, old)
    supervisor.signal(signal.SIGTERM)
    ends_well(supervisor)
    assert RayWorker.objects.get().stopped_at is not None


@pytest.fixture
def signals_restored():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield numbers
    for number, action in zip(numbers, before, strict=True):
        signal.signal(number, action)


@pytest.mark.parametrize("taken", ["within", "at the end"])
async def test_signals_that_are_taken_from_us_are_taken_back(signals_restored, taken):
    """E1: what Ray does to them in the middle of a start, and when it ends."""
    rays, stop = [], Stop()

    def take(number, _):
        rays.append(number)

    stop.watch()
    async with stop.guard():
        for number in signals_restored:
            signal.signal(number, take)
        if taken == "within":
            with fail_after(20):
                while any(signal.getsignal(number) is take for number in signals_restored):  # noqa: ASYNC110
                    await sleep(0.001)
            signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    with fail_after(20):
        while not (stop.intake.cancel_called and (taken == "at the end" or stop.attempts.cancel_called)):  # noqa: ASYNC110
            await sleep(0.001)
    assert rays == []


def ends_well(supervisor):
    """Soon, with 0, and without what Ray has to say of signals."""
    assert supervisor.wait(60) == 0, supervisor.log
    for word in ("Traceback", "SIGTERM received", "Stack trace", "stack dump"):
        assert word not in supervisor.log


def test_a_burst_drains_and_ends(listen):
    """E4, and what running tasks enqueue is drained too."""
    ids = [tasks.add.enqueue(number, 1).id for number in range(10)]
    supervisor = listen("--sync", "--burst")
    assert supervisor.wait() == 0, supervisor.log
    assert [tasks.add.get_result(task_id).return_value for task_id in ids] == [number + 1 for number in range(10)]
    assert "has ended: 10 succeeded." in supervisor.lines[-1]
    empty = listen("--sync", "--burst")
    assert empty.wait() == 0
    assert "has ended: nothing has run." in empty.lines[-1]


def test_the_last_lines_say_what_runs_and_what_was_done(listen, finished):
    supervisor = listen("--sync")
    supervisor.wait_for("is ready")
    finished(tasks.add.enqueue(1, 2))
    finished(tasks.fail.enqueue("it says why"))
    supervisor.signal()
    assert supervisor.wait() == 0
    said = [line.split("INFO", 1)[1].strip() for line in supervisor.lines[-3:]]
    assert said == [
        "SIGTERM: stopping.",
        "Nothing is running.",
        f"Supervisor {RayWorker.objects.get().pk} has ended: 1 failed, 1 succeeded.",
    ]
    # The traceback is there once, and begins with the body.
    assert supervisor.log.count("ValueError: it says why") == supervisor.log.count("Traceback") == 1
    assert "entrypoint.py" not in supervisor.log
    assert RayTaskExecution.objects.get(state=State.FAILED).errors[0]["traceback"].splitlines()[1].endswith("in fail")


@pytest.mark.slow
def test_under_uv_run_tasks_run_where_the_supervisor_does(transactional_db, finished):
    """Ray would copy the folder, and build an environment of its own."""
    command = [str(ROOT / ".tools" / "bin" / "uv"), "run", "--no-project", "--python", sys.executable, "python"]
    with Listen(connection, "--local", "--concurrency", "1", above=command) as supervisor:
        supervisor.wait_for("is ready", 180)
        assert finished(tasks.where.enqueue()).return_value == [sys.executable, str(ROOT), tasks.__file__]


def test_the_package_is_a_command_as_well():
    said = subprocess.run(
        [sys.executable, "-m", "django_ray_worker", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "examples:" in said
    for option in said.partition("options:")[2].partition("examples:")[0].split("\n  -")[1:]:
        assert len(option.split(maxsplit=1)[1].split()) > 2, option


def test_a_burst_includes_what_is_due_and_leaves_what_is_not(listen):
    now = timezone.now()
    due = tasks.add.using(run_after=now - timedelta(minutes=1)).enqueue(1, 1)
    later = tasks.add.using(run_after=now + timedelta(hours=1)).enqueue(1, 1)
    supervisor = listen("--sync", "--burst")
    assert supervisor.wait() == 0, supervisor.log
    due.refresh()
    later.refresh()
    assert (due.status, later.status) == ("SUCCESSFUL", "READY")


@pytest.mark.slow
def test_a_killed_supervisor_leaves_its_work_to_its_successor(listen, tmp_path):
    """C1."""
    first = listen("--local", "--concurrency", "1")
    first.wait_for("is ready")
    result = tasks.touch_and_sleep.enqueue(str(tmp_path / "started"), 2)
    until((tmp_path / "started").exists)
    first.process.kill()
    first.wait()
    second = listen("--sync", "--burst")
    assert second.wait() == 0, second.log
    result.refresh()
    assert result.return_value == "slept"
    assert result.attempts == 2
    assert result.errors[0].exception_class_path == "django_ray.exceptions.TaskLost"


def test_a_lost_session_is_opened_again_and_looks(listen, connect, sleepers, finished):
    """A2, A3: what is enqueued while nobody listens runs once somebody does."""
    supervisor = listen("--sync")
    supervisor.wait_for("is ready")
    until(sleepers)
    connect().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'django-ray-listen' AND datname = current_database()"
    )
    assert finished(tasks.add.enqueue(1, 2)).return_value == 3
    supervisor.wait_for("connecting again")


def test_the_banner_tells_what_it_works_for(listen):
    line = listen("--sync", "--queue", "other").wait_for("is ready")
    for part in ("backend default", "queues other", "1 slot", "PostgreSQL", connection.settings_dict["NAME"]):
        assert part in line


def test_logs_can_be_json(listen):
    line = listen("--sync", "--log-format", "json").wait_for("is ready")
    entry = json.loads(line)
    assert entry["level"] == "INFO"
    assert abs((datetime.fromisoformat(entry["time"]) - timezone.now()).total_seconds()) < 60


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--backend", "nope"], {}, "There is no backend 'nope' in TASKS"),
        (["--queue", "nope"], {}, "--queue 'nope' is not a queue of backend 'default'"),
        ([], {"DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none"}, "Check that PostgreSQL runs"),
        ([], {"DATABASE_URL": "sqlite://:memory:"}, "django-ray needs PostgreSQL"),
        ([], {"DJANGO_SETTINGS_MODULE": ""}, "give --settings"),
        (["--settings", "no.such.settings"], {}, "cannot be imported"),
        (["--settings", "tests.settings_broken"], {}, "cannot be used: "),
        (["--cluster", "ray://127.0.0.1:10001"], {}, "is a Ray Client address"),
        ([], {"RAY_ADDRESS": "http://127.0.0.1:8265"}, "'http://127.0.0.1:8265' is no Ray head's address"),
        (["--cluster", "nonsense"], {}, "is not host:port"),
        (["--cluster", "[::1]:99999"], {}, "is not host:port"),
        (["--cluster", ":6379"], {}, "is not host:port"),
    ],
)
def test_a_start_that_cannot_work_ends_in_one_sentence_that_names_the_fix(listen, arguments, environment, says):
    supervisor = listen(*arguments, **environment)
    assert supervisor.wait() == 78, supervisor.log
    assert says in supervisor.log
    assert "Traceback" not in supervisor.log


def test_missing_migrations_and_triggers_are_named(listen, connect):
    """B5."""
    session = connect()
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER django_ray_on_insert")
    supervisor = listen("--sync")
    assert supervisor.wait() == 78
    assert "The trigger django_ray_on_insert on django_ray_execution is missing or disabled" in supervisor.log
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER django_ray_on_insert")
    last = session.execute("SELECT max(name) AS name FROM django_migrations WHERE app = 'django_ray'").fetchone()[
        "name"
    ]
    session.execute("UPDATE django_migrations SET name = 'away' WHERE app = 'django_ray' AND name = %s", [last])
    supervisor = listen("--sync")
    assert supervisor.wait() == 78
    assert "run manage.py migrate" in supervisor.log
    session.execute("UPDATE django_migrations SET name = %s WHERE app = 'django_ray' AND name = 'away'", [last])


def test_the_management_command_is_the_same(listen):
    result = tasks.add.enqueue(20, 22)
    done = subprocess.run(
        [sys.executable, "-m", "django", "django_ray_listen", "--sync", "--burst"],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={
            **os.environ,
            "DATABASE_URL": database_url(connection),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result.refresh()
    assert result.return_value == 42
