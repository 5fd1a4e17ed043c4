"""What comes back without having ended or been charged: at once the first times, then more and more seldom."""

import json
import logging
import math
from dataclasses import replace

import pytest
from anyio import fail_after, sleep
from asgiref.sync import sync_to_async
from django.db import connections
from ray import exceptions

from django_ray.retry import LONGEST_PAUSE, MOST_RELEASED, pause
from django_ray.runtime import call
from django_ray_worker.core.judge import judge
from django_ray_worker.core.outcome import (
    Gone,
    Interrupted,
    Lost,
    Missing,
    OutOfMemory,
    Raised,
    Returned,
    Unplaced,
    Unprepared,
    Unstarted,
)
from django_ray_worker.core.policy import Fail, Postpone, Release, Retry, decide
from django_ray_worker.database.statements import Record
from django_ray_worker.running.answer import Answer, NoAnswer
from django_ray_worker.running.onray.executor import _meaning
from tests.supervisors import Instant, living
from tests.test_policy import CLAIM, ERROR

UNCHARGED = [
    Interrupted(),
    Unstarted(),
    Unplaced(),
    Gone("gone"),
    Missing(ERROR),
    Unprepared(ERROR),
    OutOfMemory("full"),
]


def lives(outcome, chance, claim=CLAIM):
    """Yield the verdict on each attempt and the seconds after it, as if attempts took no time, up to the end."""
    while True:
        verdict = decide(claim, outcome, chance)
        if isinstance(verdict, Fail):
            yield verdict, 0.0
            return
        yield verdict, verdict.after
        claim = replace(
            claim,
            attempt=claim.attempt + 1,
            released=verdict.released,
            losses=claim.losses + getattr(verdict, "losses", 0),
            missing_for=claim.missing_for + verdict.after if isinstance(verdict, Postpone) else 0,
        )


@pytest.mark.parametrize("chance", [0, 0.5, 1])
@pytest.mark.parametrize("outcome", UNCHARGED, ids=lambda outcome: type(outcome).__name__)
def test_no_way_back_is_taken_more_than_ten_times_in_its_first_minute(outcome, chance):
    """K3."""
    at, times = 0.0, 0
    for _, after in lives(outcome, chance):
        times += 1
        at += after
        if at > 60:
            break
    assert times <= 11  # the last of them after the minute


@pytest.mark.parametrize("charged", [Raised(ERROR), Lost("died")], ids=lambda outcome: type(outcome).__name__)
def test_an_attempt_that_fails_in_between_does_not_begin_the_free_returns_anew(charged):
    """K3."""
    claim = replace(CLAIM, released=8)
    verdict = decide(claim, charged, 0)
    assert isinstance(verdict, Retry)
    assert decide(replace(claim, released=verdict.released), Unstarted(), 0).after == pause(9)


def test_the_first_returns_cost_no_time_and_later_ones_a_minute_at_most():
    """K3."""
    pauses = [pause(times) for times in range(1, 13)]
    assert pauses == [0] * 5 + [2, 4, 8, 16, 32, 60, 60]
    assert pause(MOST_RELEASED) == LONGEST_PAUSE
    assert decide(replace(CLAIM, released=MOST_RELEASED), Unstarted(), 0).released == MOST_RELEASED


def test_whatever_takes_its_node_down_each_time_ends_as_a_loss():
    """K3: a node or a Ray that goes away costs nothing nine times; then each time is a loss."""
    *verdicts, (last, _) = lives(Gone("Ray is gone"), 0)
    kinds = [type(verdict) for verdict, _ in verdicts]
    assert kinds == [Release] * 9 + [Retry] * 3
    assert [verdict.losses for verdict, _ in verdicts[9:]] == [1, 1, 1]
    assert (type(last), last.error.exception_class_path) == (Fail, "django_ray.exceptions.TaskLost")


def test_a_supervisor_that_stops_costs_nothing_however_often():
    """K3."""
    claim = replace(CLAIM, released=500, losses=3)
    assert decide(claim, Interrupted(), 0) == Release(after=60.0, released=501)


def test_who_is_ended_for_want_of_memory_comes_back_later_and_later_and_is_not_charged_at_first():
    """L15."""
    *verdicts, (last, _) = lives(OutOfMemory("OutOfMemoryError: 15 of 16 GB are used on the node 10.0.0.3"), 0.5)
    assert [(verdict.losses, after) for verdict, after in verdicts] == [
        (0, 10), (0, 20), (0, 40), (1, 80), (1, 160), (1, 320),
    ]  # fmt: skip
    assert "10.0.0.3" in verdicts[0][0].error.message
    assert (type(last), last.losses) == (Fail, 1)


def test_what_loses_its_process_again_waits_a_while():
    """L15: the kernel's killer cannot be told from another end of a process."""
    assert [after for _, after in lives(Lost("died"), 0.5)] == [0, 2, 8, 0]


@pytest.mark.parametrize("outcome", [Returned("1"), *UNCHARGED], ids=lambda outcome: type(outcome).__name__)
def test_the_log_says_so_when_it_waits(outcome, caplog):
    """K3: what is placed nowhere was said to be so when it was parked."""
    with caplog.at_level(logging.WARNING, "django_ray.attempt"):
        judge(replace(CLAIM, released=7), outcome)
    is_told = not isinstance(outcome, Returned | Unplaced)
    assert len(caplog.records) == is_told
    if is_told:
        assert "again in" in caplog.text
        assert caplog.records[0].task_id == str(CLAIM.task_id)


async def test_ten_returns_are_forgotten_when_it_has_ended(open_store, insert, rows):
    store, worker = await open_store()
    insert(released=10)
    (claim,) = (await store.claim(worker, 1)).claims
    assert claim.released == 10
    await store.record([Record(claim, decide(claim, Unstarted(), 0))])
    assert rows("released, due_at - statement_timestamp() > '55 s'::interval AS is_later") == [
        {"released": 11, "is_later": True}
    ]
    await _make_due()
    (claim,) = (await store.claim(worker, 1)).claims
    await store.record([Record(claim, decide(claim, Returned("1"), 0))])
    assert rows("released") == [{"released": 0}]


async def _make_due():
    from django_ray.models import RayTaskExecution

    await sync_to_async(RayTaskExecution.objects.update)(due_at=None)
    await sync_to_async(connections.close_all)()


async def test_a_call_that_gives_the_rest_back_counts_it_as_well(open_store, insert, rows):
    """K3: what a Ray worker makes READY itself, because another body of its call is long."""
    store, worker = await open_store()
    counts = (0, 4, 5, 7, MOST_RELEASED)
    for count in counts:
        insert(released=count)
    claims = (await store.claim(worker, len(counts))).claims
    payloads = [claim.payload for claim in claims]
    assert all("released" not in json.loads(payload) for payload in payloads)
    await sync_to_async(call._write)([], payloads)
    await sync_to_async(connections.close_all)()
    found = rows("released, state, worker_ids, extract(epoch FROM due_at - clock_timestamp())::float8 AS after")
    assert [row["released"] for row in found] == [1, 5, 6, 8, MOST_RELEASED]
    assert {(row["state"], *row["worker_ids"]) for row in found} == {("READY",)}
    assert [row["after"] for row in found[:2]] == [None, None]
    # A second or so has passed.
    assert [math.ceil(row["after"] / most) for row, most in zip(found[2:], (2, 8, 60), strict=True)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (exceptions.OutOfMemoryError("15 of 16 GB are used on the node 10.0.0.3"), OutOfMemory),
        (exceptions.NodeDiedError("the node 10.0.0.3 died"), Gone),
        (exceptions.LocalRayletDiedError(), Gone),
        (exceptions.WorkerCrashedError(), Lost),
        (exceptions.RuntimeEnvSetupError("no such package"), Unprepared),
        (exceptions.RayTaskError("invoke_on_ray", "TypeError", TypeError("unexpected"), ip="10.0.0.3"), Unprepared),
        (exceptions.TaskCancelledError(), Interrupted),
    ],
)  # fmt: skip
def test_what_ray_says_of_a_call_is_told_apart(error, outcome):
    """K3, K4, L15: what a node without our code, or with code that does not understand us, says is no one's failure."""
    found = _meaning(error)
    assert isinstance(found, outcome)
    if "10.0.0.3" in str(error):
        assert "10.0.0.3" in str(found)


class Fruitless(Instant):
    """A fake executor that gives everything back."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    async def run(self, claims):
        await super().run(claims)
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [NoAnswer(Interrupted()), NoAnswer(Gone("gone")), Answer(outcomes=[], seconds=[], outputs=[])],
    ids=["interrupted", "gone", "nothing to say"],
)
async def test_a_supervisor_claims_what_comes_back_six_times_and_then_waits(database, insert, rows, answer):
    """K3, K4: also when a Ray node has nothing to say."""
    insert()
    executor = Fruitless(answer)
    async with living(database, executor):
        with fail_after(60):
            while (row := rows("released, due_at, attempt_number")[0])["due_at"] is None:  # noqa: ASYNC110
                await sleep(0.02)
    assert (row["released"], row["attempt_number"], len(executor.ran)) == (6, 6, 6)
