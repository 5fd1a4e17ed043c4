"""What the supervisor logs, for machines."""

import json
import logging
from uuid import uuid4

import pytest
from anyio import fail_after, sleep

from django_ray.requirements import TaskOptions
from django_ray.retry import RetryPolicy
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.judge import judge
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.core.outcome import Error, Raised, Returned
from django_ray_worker.database.statements import Record
from django_ray_worker.logs import _Json
from django_ray_worker.recording.recorder import Recorder
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
