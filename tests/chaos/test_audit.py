"""The audit finds what is wrong, and the stalls are as long as they were."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest

from tests.chaos import audit, stalls
from tests.chaos.customer import Order
from tests.chaos.postgres import Postgres

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ID = UUID(int=1)
MEANT = {"exception_class_path": "tests.chaos.tasks.Meant", "message": "", "attempt": 1}
LOST = {"exception_class_path": "django_ray.exceptions.TaskLost", "message": "The supervisor 1 died.", "attempt": 2}


def at(seconds):
    return EPOCH + timedelta(seconds=seconds)


def a_row(**columns):
    row = {
        "task_id": ID,
        "args": ["key"],
        "state": "SUCCESSFUL",
        "attempt_number": 1,
        "claimed_by_id": None,
        "errors": [],
        "exception_type": None,
        "enqueued_at": at(0),
        "run_after": None,
    }
    row |= columns
    row.setdefault("worker_ids", ["1"] * row["attempt_number"])
    if row["errors"]:
        row["exception_type"] = row["errors"][-1]["exception_class_path"]
    return row


def a_change(moment, old, new, attempt, **columns):
    is_claim = new == "RUNNING" != old
    return {
        "at": at(moment),
        "old_state": old,
        "new_state": new,
        "old_attempt": attempt,
        "new_attempt": attempt + is_claim,
        "old_owner": None if old != "RUNNING" else 1,
        "new_owner": None if new != "RUNNING" else 1,
        "new_pid": None if new != "RUNNING" else 100,
        "due_at": None,
        "written_by": "a test",
        **columns,
    }


LIFE = [a_change(1, "READY", "RUNNING", 0), a_change(2, "RUNNING", "SUCCESSFUL", 1)]


def judge(row=None, changes=LIFE, *, kind="quick", ledger="1 started,1 ended", cancelled=(), key="key", effects=0):
    customer = SimpleNamespace(orders={key: Order(key, kind, None)}, cancel_asked=set(cancelled), retry_asked=set())
    history = audit.History(rows=[row] if row else [], changes={ID: list(changes)}, effects=Counter({key: effects}))
    noted = Counter()
    for event in filter(None, ledger.split(",")):
        attempt, name = event.split()
        noted["key", int(attempt), name] += 1
    return audit.audit(customer, history, noted)


@pytest.mark.parametrize(
    ("kind", "state", "effects", "is_clean"),
    [
        ("atomic", "SUCCESSFUL", 1, True),
        ("atomic", "SUCCESSFUL", 0, False),
        ("atomic", "SUCCESSFUL", 2, False),
        ("atomic", "CANCELLED", 0, True),
        ("atomic", "CANCELLED", 1, False),
        ("quick", "SUCCESSFUL", 1, False),
    ],
)
def test_an_atomic_task_that_succeeded_has_one_effect_and_nothing_else_has_any(kind, state, effects, is_clean):
    findings = judge(a_row(state=state), kind=kind, effects=effects, cancelled=["key"])
    assert findings.is_clean is is_clean
    assert findings.effects == ([] if is_clean else [f"key: {state} with {effects} effects"])


def test_a_normal_life_is_clean():
    findings = judge(a_row())
    assert findings.is_clean
    assert findings.states == {"SUCCESSFUL": 1}
    assert findings.started_again == 0


def test_attempts_that_were_not_the_last_are_explained():
    findings = judge(
        a_row(attempt_number=5, errors=[MEANT, LOST]),
        ledger="1 started,2 started,3 started,5 started,5 ended",
    )
    assert findings.is_clean
    assert findings.started_again == 1
    assert findings.reasons == {
        "failed, as meant": 1,
        "TaskLost: its supervisor died": 1,
        "released": 1,
        "released, before the body started": 1,
    }


@pytest.mark.parametrize(
    ("row", "ledger"),
    [(None, ""), (a_row(state="READY"), ""), (a_row(state="RUNNING"), "1 started"), (a_row(), "1 started")],
)
def test_what_is_lost_is_found(row, ledger):
    assert len(judge(row, ledger=ledger).lost) == 1


@pytest.mark.parametrize(
    "changes",
    [
        [*LIFE, a_change(3, "SUCCESSFUL", "SUCCESSFUL", 1)],
        [*LIFE[:1], a_change(2, "RUNNING", "READY", 1), a_change(3, "RUNNING", "SUCCESSFUL", 1)],
        [a_change(1, "READY", "RUNNING", 0, new_attempt=0), LIFE[1]],
        [LIFE[0], a_change(2, "RUNNING", "RUNNING", 1, new_owner=2), LIFE[1]],
    ],
)
def test_what_is_recorded_twice_is_found(changes):
    assert len(judge(a_row(), changes).twice) == 1


@pytest.mark.parametrize(
    ("row", "kind", "cancelled", "is_clean"),
    [
        (a_row(state="FAILED", errors=[MEANT]), "failing", [], True),
        (a_row(state="FAILED", errors=[MEANT]), "flaky", [], False),
        (a_row(state="FAILED", errors=[LOST]), "failing", [], False),
        (a_row(state="CANCELLED", errors=[LOST]), "quick", ["key"], True),
        (a_row(state="CANCELLED", errors=[LOST]), "quick", [], False),
    ],
)
def test_an_end_that_nobody_asked_for_is_found(row, kind, cancelled, is_clean):
    findings = judge(row, kind=kind, cancelled=cancelled)
    assert findings.is_clean == is_clean
    assert len(findings.unasked) == 1 - is_clean


@pytest.mark.parametrize(("claims", "is_clean"), [(11, True), (12, False)])
def test_what_was_claimed_without_end_is_found(claims, is_clean):
    findings = judge(a_row(attempt_number=claims, worker_ids=["1"]), ledger="1 started,1 ended")
    assert findings.is_clean == is_clean
    assert len(findings.went_round) == 1 - is_clean


def test_what_ran_without_a_commit_is_found():
    assert judge(a_row(args=["other"]), key="other").unasked == ["key: was never committed"]


def test_a_body_that_was_started_twice_in_one_attempt_is_found():
    assert len(judge(a_row(), ledger="1 started,1 started,1 ended").started_twice) == 1


def test_the_trigger_notes_every_change():
    with Postgres() as postgres, psycopg.connect(postgres.url, autocommit=True) as session:
        session.execute("CREATE TABLE django_ray_worker (id int, pid int)")
        session.execute(
            "CREATE TABLE django_ray_execution AS SELECT %s::uuid AS task_id, 'READY' AS state, 0 AS attempt_number,"
            " NULL::int AS claimed_by_id, NULL::timestamptz AS due_at, 0 AS failures, 0 AS losses, NULL::text AS gate",
            [ID],
        )
        audit.install(postgres)
        session.execute("INSERT INTO django_ray_worker VALUES (1, 99); INSERT INTO django_ray_worker VALUES (1, 100)")
        session.execute("TRUNCATE django_ray_worker")
        session.execute("UPDATE django_ray_execution SET state = 'RUNNING', attempt_number = 1, claimed_by_id = 1")
        session.execute("UPDATE django_ray_execution SET state = 'FAILED', claimed_by_id = NULL")
        history = audit.read_history(postgres)
    names = ("old_state", "new_state", "old_attempt", "new_attempt", "old_owner", "new_owner", "new_pid")
    assert [[change[name] for name in names] for change in history.changes[ID]] == [
        ["READY", "RUNNING", 0, 1, None, 1, 100],
        ["RUNNING", "FAILED", 1, 1, 1, None, None],
    ]


def a_life(ready=0.0, ended=None, frozen=()):
    moments = [(at(begin).timestamp(), at(end).timestamp()) for begin, end in frozen]
    return SimpleNamespace(
        pid=100,
        ready_at=at(ready).timestamp(),
        ended_at=None if ended is None else at(ended).timestamp(),
        frozen=moments,
    )


def stalled(lives, *, claimed=10, outages=(), **columns):
    changes = {ID: [a_change(claimed, "READY", "RUNNING", 0), a_change(claimed + 1, "RUNNING", "SUCCESSFUL", 1)]}
    history = audit.History(rows=[a_row(**columns)], changes=changes)
    down = [(at(begin).timestamp(), at(end).timestamp()) for begin, end in outages]
    return [round(stall.seconds, 3) for stall in stalls.find(history, lives, down, at(20).timestamp())]


def test_a_stall_lasts_from_the_due_time_to_the_claim():
    assert stalled([a_life()]) == [10]
    assert stalled([a_life()], run_after=at(4)) == [6]


def test_no_stall_while_the_database_is_down_or_nobody_works():
    assert stalled([a_life()], outages=[(2, 5)]) == [7]
    assert stalled([a_life(frozen=[(0, 9)])]) == [1]
    assert stalled([a_life(ready=8)]) == [2]
    assert stalled([a_life(ended=3)]) == [3]
    assert stalled([]) == []


def test_no_stall_while_every_slot_is_taken():
    busy = [
        a_row(task_id=UUID(int=number), args=[str(number)], enqueued_at=at(0)) for number in range(2, 2 + stalls.SLOTS)
    ]
    changes = {
        row["task_id"]: [a_change(0, "READY", "RUNNING", 0), a_change(6, "RUNNING", "SUCCESSFUL", 1)] for row in busy
    }
    changes[ID] = [a_change(10, "READY", "RUNNING", 0)]
    history = audit.History(rows=[a_row(state="RUNNING"), *busy], changes=changes)
    found = stalls.find(history, [a_life()], [], at(20).timestamp())
    assert [round(stall.seconds, 3) for stall in found] == [4]


def judged_ticks(*rows):
    history = audit.History(rows=[a_row(args=[], tick=at(second), state=state) for second, state in rows], changes={})
    found = audit.audit(SimpleNamespace(orders={}, cancel_asked=set(), retry_asked=set()), history, Counter())
    return found.ticks, found.ticks_wrong, found.is_clean


def test_a_tick_that_is_missing_or_there_twice_or_did_not_run_is_found():
    ended = [(second, "SUCCESSFUL") for second in range(4)]
    assert judged_ticks() == (0, [], True)
    assert judged_ticks(*ended) == (4, [], True)
    assert judged_ticks(*ended[:2], *ended[3:]) == (3, ["the tick of 00:00:02: missing"], False)
    assert judged_ticks(*ended, ended[2])[1] == ["the tick of 00:00:02: SUCCESSFUL, SUCCESSFUL"]
    assert judged_ticks(*ended, (4, "READY"))[1] == ["the tick of 00:00:04: READY"]
    assert judged_ticks(*ended, (1.5, "SUCCESSFUL"))[1] == [f"{at(1.5)} is no tick"]


def test_more_behind_a_gate_than_may_run_are_found():
    """In the order in which the changes were made, whatever the rows say in the end."""
    first, second, third = (UUID(int=number) for number in (1, 2, 3))

    def change(number, task_id, new):
        return {**a_change(number, "WAITING", new, 1), "id": number, "task_id": task_id, "gate": "g"}

    fine = [
        change(1, first, "RUNNING"),
        change(2, second, "RUNNING"),
        change(3, first, "SUCCESSFUL"),
        change(4, third, "RUNNING"),
    ]
    findings = audit.Findings()
    audit._judge_gates(findings, reversed(fine))
    assert (findings.gates_full, findings.gates_crowded) == (2, [])
    audit._judge_gates(findings, [change for change in fine if change["id"] != 3])
    assert findings.gates_crowded == [f"{third}: 3 ran behind 'g'"]
