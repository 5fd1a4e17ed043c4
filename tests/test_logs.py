"""What the supervisor logs, for machines."""

import io
import json
import logging
import logging.config
from uuid import uuid4

import pytest
from anyio import fail_after, sleep
from django.utils.log import AdminEmailHandler

from django_ray.requirements import TaskOptions
from django_ray.retry import RetryPolicy
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.judge import judge
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.outcome import Error, Raised, Returned
from django_ray_worker.database.statements import Record
from django_ray_worker.logs import _Json, _Objects, _Own, configure
from django_ray_worker.recording.recorder import Recorder
from tests import tasks
from tests.supervisors import Instant, living

BROKEN = Raised(
    Error(
        exception_class_path="builtins.ValueError",
        message="no",
        traceback="Traceback ...\nValueError: no\n",
        mro=("builtins.ValueError",),
    )
)


@pytest.fixture
def entries():
    """The lines of the log so far, parsed."""
    logger, lines = logging.getLogger("django_ray"), []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(json.loads(self.format(record)))

    handler = Lines()
    handler.setFormatter(_Json())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def claim(**changes):
    values = {
        "task_id": uuid4(),
        "attempt": 1,
        "worker": 7,
        "queue_name": "reports",
        "callable_path": "shop.tasks.report",
        "options": TaskOptions(retry=RetryPolicy(max_attempts=2)),
        "unfit": "",
        "failures": 0,
        "losses": 0,
        "missing_for": 0.0,
        "waited": None,
        "payload": "",
    }
    return Claim(**values | changes)


def fields(mine, attempt):
    return {"task_id": str(mine.task_id), "attempt": attempt, "queue": "reports", "task": "shop.tasks.report"}


@pytest.mark.parametrize(
    ("failures", "outcome", "level", "message"),
    [
        (0, BROKEN, "WARNING", "failed, again in"),
        (1, BROKEN, "ERROR", "ValueError: no"),
        (0, Returned('"x"'), "DEBUG", "Succeed"),
    ],
)
def test_a_line_about_an_execution_says_which_in_fields(entries, failures, outcome, level, message):
    mine = claim(failures=failures, attempt=failures + 1)
    judge(mine, outcome)
    (entry,) = entries
    assert entry["level"] == level
    assert message in entry["message"]
    assert entry.items() >= fields(mine, failures + 1).items()
    assert entry.get("outcome") == (None if level == "DEBUG" else "Raised")


def test_a_line_about_nothing_in_particular_has_no_such_fields(entries):
    logging.getLogger("django_ray.supervisor").info("ready")
    (entry,) = entries
    assert set(entry) == {"time", "level", "logger", "message"}


async def test_an_outcome_that_the_fence_refuses_is_named(entries):
    class Store:
        async def record(self, batch):
            return set()

    mine = claim()
    recorder = Recorder(Store(), Metrics(), on_recorded=lambda: None)
    await recorder._write([Record(mine, judge(mine, Returned('"x"')))])
    assert entries[-1].items() >= fields(mine, 1).items()
    assert "is not ours any more" in entries[-1]["message"]


async def test_a_running_supervisor_names_the_execution_that_fails(database, insert, entries):
    task_id = insert(options='{"timeout": "never"}')
    executor = Instant()
    async with living(database, executor):
        with fail_after(20):
            while not any(entry.get("task_id") == str(task_id) for entry in entries):  # noqa: ASYNC110
                await sleep(0.005)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("mode", ["--sync", pytest.param("--local", marks=pytest.mark.slow)])
def test_every_line_of_the_process_is_an_object(listen, finished, mode):
    """Also those of bodies, which say whose they are, and those of Ray."""
    supervisor = listen(mode, "--log-format", "json", "--concurrency", "1")
    supervisor.wait_for("is ready", 180)
    written = finished(tasks.write_lines.enqueue(2, "end"))
    failed = finished(tasks.fail.enqueue())
    for _ in range(5):
        supervisor.wait_for(f'"task_id": "{written.id}"')
    supervisor.signal()
    assert supervisor.wait() == 0
    entries = [json.loads(line) for line in supervisor.lines]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    assert not any("\x1b" in entry["message"] for entry in entries)
    lines = [entry for entry in entries if entry.get("task_id") == written.id]
    assert sorted(entry["message"] for entry in lines) == ["a warning", "end", "line 0", "line 1", "to standard error"]
    for entry in lines:
        assert entry.items() >= {"attempt": 1, "queue": "default", "task": "tests.tasks.write_lines"}.items()
        assert ("process" in entry) == (mode == "--local")
    assert [entry["level"] for entry in entries if entry.get("task_id") == failed.id] == ["ERROR"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_what_subprocesses_write_has_the_label_of_their_task(listen, finished):
    """Also those of parallel_map's functions; and in the same process, the next task has its own."""
    supervisor = listen("--local", "--log-format", "json", "--concurrency", "1")
    supervisor.wait_for("is ready", 180)
    below = finished(tasks.write_from_below.enqueue())
    following = finished(tasks.write_lines.enqueue(1, "end"))
    awaited = {
        below.id: {
            "before", "from below", "from below to standard error", "from a loop", "after", "from elsewhere",
            "from elsewhere to standard error",
        },
        following.id: {"a warning", "to standard error", "line 0", "end"},
    }  # fmt: skip
    while any(awaited.values()):
        entry = json.loads(supervisor.wait_for('"attempt": 1'))
        awaited[entry["task_id"]].remove(entry["message"])
        assert "process" in entry


def objects(text):
    """What becomes of it on a stream that writes objects."""
    below = io.StringIO()
    stream = _Objects(below, "stderr")
    stream.write(text)
    stream.flush()
    return [json.loads(line) for line in below.getvalue().splitlines()]


def test_a_line_that_is_an_object_is_left_alone():
    assert objects('{"mine": 1}\n') == [{"mine": 1}]


TASK_ID = "019a2b3c-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("\x1b[36m(pid=12, ip=10.0.0.7)\x1b[0m hello", "hello"),
        ("(invoke_on_ray pid=12) hello", "hello"),
        (f"[shop.send {TASK_ID} #2 my mail] hello", "hello"),
        (f"([shop.send {TASK_ID} #2 my mail] pid=12) hello", "hello"),
        (f"([shop.send {TASK_ID} #2 my mail] pid=12, ip=10.0.0.7) hello", "hello"),
        ("(raylet) is gone", "is gone"),
        ("(note) it is full", "(note) it is full"),
        ("(3) again", "(3) again"),
        ("{not an object}", "{not an object}"),
        ("[1, 2]", "[1, 2]"),
        ("no end", "no end"),
        ('say "what"\r', 'say "what"'),
    ],
)
def test_any_other_line_becomes_one(line, message):
    (entry,) = objects(line)
    assert (entry["message"], entry["logger"], entry["level"]) == (message, "stderr", "INFO")
    assert entry.get("node") == ("10.0.0.7" if "ip=" in line else None)
    assert entry.get("queue") == ("my mail" if "my mail" in line else None)


def test_lines_that_come_in_pieces_and_several_at_once():
    below = io.StringIO()
    stream = _Objects(below, "stdout")
    for piece in ("one", " line\ntwo\n", "\n", "three"):
        stream.write(piece)
    assert [json.loads(line)["message"] for line in below.getvalue().splitlines()] == ["one line", "two"]
    stream.flush()
    assert json.loads(below.getvalue().splitlines()[-1])["message"] == "three"


NAMES = ("django_ray", "django.tasks", "django", "psycopg", "")


@pytest.fixture
def loggers():
    """Those that matter, as Django leaves them when LOGGING is empty; as before when the test is over."""
    found = {name: logging.getLogger(name) for name in NAMES}
    before = {name: (one.level, [*one.handlers], one.propagate) for name, one in found.items()}
    for name, one in found.items():
        one.handlers, one.propagate = [], True
        one.setLevel(logging.WARNING if not name else logging.NOTSET)
    yield found
    for name, (level, handlers, propagate) in before.items():
        found[name].handlers, found[name].propagate = handlers, propagate
        found[name].setLevel(level)


def start(loggers, level, form, *handlers):
    """Configure, with these handlers of the project on the root logger, and without those of pytest."""
    loggers[""].handlers = [*handlers]
    configure(level, form)


def is_ours(logger):
    return [type(handler) for handler in logger.handlers] == [_Own]


def test_a_handler_is_added_where_nothing_would_be_shown(loggers):
    mail = AdminEmailHandler()
    loggers["django"].addHandler(mail)  # as Django's own LOGGING does
    start(loggers, "info", "text")
    for name in ("django_ray", "django.tasks"):
        assert is_ours(loggers[name])
        assert loggers[name].level == logging.INFO
    assert loggers["psycopg"].level == logging.ERROR


def test_handlers_of_the_project_that_show_the_lines_are_enough(loggers):
    start(loggers, "debug", "text", logging.StreamHandler())
    for name in ("django_ray", "django.tasks"):
        assert (loggers[name].handlers, loggers[name].propagate, loggers[name].level) == ([], True, logging.DEBUG)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_logger_that_the_project_names_is_left_as_it_is(loggers, settings, form):
    settings.LOGGING = {"version": 1, "loggers": {"django_ray": {"level": "ERROR"}, "psycopg": {"level": "DEBUG"}}}
    logging.config.dictConfig({**settings.LOGGING, "disable_existing_loggers": False})
    start(loggers, "debug", form)
    assert (loggers["django_ray"].handlers, loggers["django_ray"].level) == ([], logging.ERROR)
    assert loggers["psycopg"].level == logging.DEBUG
    assert is_ours(loggers["django.tasks"])
