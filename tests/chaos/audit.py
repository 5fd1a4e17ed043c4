"""What became of everything: the ledger that the tasks wrote, the rows, and every change of a row, compared.

The changes are noted by a trigger of our own, in a table of our own, in the transaction of whoever makes them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos import order_of_flows
from tests.chaos.customer import Customer, Order
from tests.chaos.graphs import ancestors
from tests.chaos.postgres import Postgres
from tests.chaos.tasks import ANY_ATTEMPT, MOST_AT_A_GATE, is_poison

__all__ = [
    "FINISHED", "MOST_UNBEGUN", "TICK", "Findings", "History", "audit", "install", "read_history", "read_ledger",
    "read_moments",
]  # fmt: skip

TICK = timedelta(seconds=1)  # Between two ticks of the schedule of a soak.
MOST_UNBEGUN = 10  # Claims of one execution that were given back before its body began.
FINISHED = order_of_flows.ENDED

_INSTALL = """
CREATE TABLE chaos_change (
    id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), task_id uuid NOT NULL,
    old_state text, new_state text, old_attempt int, new_attempt int, old_owner int, new_owner int,
    due_at timestamptz, failures int, losses int, new_pid int, gate text,
    written_by text DEFAULT current_setting('application_name')
);
CREATE TABLE chaos_effect (key text NOT NULL, attempt int NOT NULL);
CREATE TABLE chaos_worker (place bigserial PRIMARY KEY, id int NOT NULL, pid int NOT NULL);
CREATE FUNCTION chaos_note_worker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_worker (id, pid) VALUES (NEW.id, NEW.pid);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_note_worker AFTER INSERT ON django_ray_worker FOR EACH ROW EXECUTE FUNCTION chaos_note_worker();
CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_change (
        task_id, old_state, new_state, old_attempt, new_attempt, old_owner, new_owner, due_at, failures, losses,
        new_pid, gate
    ) VALUES (
        OLD.task_id, OLD.state, NEW.state, OLD.attempt_number, NEW.attempt_number, OLD.claimed_by_id,
        NEW.claimed_by_id, NEW.due_at, NEW.failures, NEW.losses,
        (SELECT pid FROM chaos_worker WHERE id = NEW.claimed_by_id ORDER BY place DESC LIMIT 1), NEW.gate
    );
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_note AFTER UPDATE ON django_ray_execution FOR EACH ROW EXECUTE FUNCTION chaos_note();
"""


def install(postgres: Postgres) -> None:
    """Install the trigger; the tables of django_ray must be there."""
    with psycopg.connect(postgres.url, autocommit=True) as session:
        session.execute(_INSTALL)


@dataclass(frozen=True)
class History:
    """Everything that the database knows."""

    rows: list[dict[str, Any]]
    changes: Mapping[Any, list[dict[str, Any]]]  # By task_id, in their order.
    effects: Counter[str] = field(default_factory=Counter)  # Rows that atomic tasks have written, by key.


def read_history(postgres: Postgres) -> History:
    with psycopg.connect(postgres.url, autocommit=True, row_factory=dict_row) as session:
        changes = defaultdict(list)
        for change in session.execute("SELECT * FROM chaos_change ORDER BY id"):
            changes[change["task_id"]].append(change)
        return History(
            rows=session.execute("SELECT * FROM django_ray_execution ORDER BY task_id").fetchall(),
            changes=changes,
            effects=Counter(effect["key"] for effect in session.execute("SELECT key FROM chaos_effect")),
        )


def read_ledger(folder: Path) -> Counter[tuple[str, int, str]]:
    """Return how often each (key, attempt, event) was noted."""
    return Counter((key, attempt, event) for key, attempt, event, _ in _lines(folder))


def read_moments(folder: Path) -> dict[tuple[str, int, str], float]:
    """Return when each (key, attempt, event) was noted, the first time."""
    moments: dict[tuple[str, int, str], float] = {}
    for key, attempt, event, at in _lines(folder):
        moments[key, attempt, event] = min(at, moments.get((key, attempt, event), at))
    return moments


def _lines(folder: Path) -> Iterator[tuple[str, int, str, float]]:
    for file in folder.glob("*.ledger"):
        for line in file.read_text().splitlines():
            key, attempt, event, _, at = line.split()
            yield key, int(attempt), event, float(at)


@dataclass
class Findings:
    """The answer. Each sentence names an execution."""

    states: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)  # That do not fit the end of their atomic execution.
    unasked: list[str] = field(default_factory=list)  # Ran, failed or was cancelled although nobody wanted it.
    reasons: Counter[str] = field(default_factory=Counter)  # Why a body was started once more.
    started_again: int = 0
    started_twice: list[str] = field(default_factory=list)  # Within one attempt.
    went_round: list[str] = field(default_factory=list)  # Claimed again and again without being begun.
    gates_full: int = 0  # Times that as many ran behind a gate as may.
    gates_crowded: list[str] = field(default_factory=list)  # When more than that ran.
    out_of_order: list[str] = field(default_factory=list)  # What began, or ended, as no flow has it.
    ran_once_more: int = 0  # Callbacks, after another end of what they wait for.
    ticks: int = 0  # Of the schedule.
    ticks_wrong: list[str] = field(default_factory=list)  # Those that are missing, are there twice, or have not run.

    @property
    def is_clean(self) -> bool:
        wrong = (self.lost, self.twice, self.effects, self.unasked, self.went_round, self.gates_crowded)
        return not any((*wrong, self.ticks_wrong, self.out_of_order))


def audit(
    customer: Customer,
    history: History,
    ledger: Counter[tuple[str, int, str]],
    moments: Mapping[tuple[str, int, str], float] | None = None,
) -> Findings:
    """Compare what was enqueued with the rows, the changes and the ledger."""
    findings = Findings()
    by_key = {row["args"][0]: row for row in history.rows if row.get("tick") is None}
    members = {key: order.member for key, order in customer.orders.items() if order.member is not None}
    upstreams = {key: member.upstreams for key, member in members.items()}
    back = {key for key in members if customer.retry_asked & ancestors(key, upstreams)}
    changes_of = {key: history.changes.get(row["task_id"], []) for key, row in by_key.items()}
    findings.out_of_order += order_of_flows.judge(members, by_key, changes_of, moments or {}, back)
    _judge_gates(findings, [change for changes in history.changes.values() for change in changes])
    _judge_ticks(findings, [row for row in history.rows if row.get("tick") is not None])
    for key, order in customer.orders.items():
        row = by_key.get(key)
        if row is None:
            findings.lost.append(f"{key}: its row is gone")
            continue
        findings.states[row["state"]] += 1
        _judge_end(findings, order, row, ledger, is_cancelled=key in customer.cancel_asked)
        _explain(findings, order, row, ledger)
        effects = history.effects[key]
        if effects != (order.kind == "atomic" and row["state"] == "SUCCESSFUL"):
            findings.effects.append(f"{key}: {row['state']} with {effects} effects")
        if (unbegun := row["attempt_number"] - len(row["worker_ids"])) > MOST_UNBEGUN:
            findings.went_round.append(f"{key}: was claimed {unbegun} times without being begun")
    is_back = {by_key[key]["task_id"]: key in back for key in members if key in by_key}
    for task_id, changes in history.changes.items():
        findings.twice += (
            f"{task_id}: {sentence}" for sentence in _judge_changes(changes, comes_back=is_back.get(task_id))
        )
    strangers = {key for key, _, _ in ledger} | by_key.keys()
    findings.unasked += (f"{key}: was never committed" for key in sorted(strangers - customer.orders.keys()))
    findings.started_twice += (
        f"{key}: attempt {attempt} was started {times} times"
        for (key, attempt, event), times in ledger.items()
        if event == "started" and times > 1
    )
    return findings


def _judge_end(
    findings: Findings,
    order: Order,
    row: Mapping[str, Any],
    ledger: Counter[tuple[str, int, str]],
    *,
    is_cancelled: bool,
) -> None:
    key = order.key
    # As the body sees it: claims that were given back unbegun are none.
    attempt = ANY_ATTEMPT if order.kind == "batched" else len(row["worker_ids"])
    match row["state"]:
        case "SUCCESSFUL" if not ledger[key, attempt, "ended"]:
            findings.lost.append(f"{key}: SUCCESSFUL, but attempt {attempt} never ended")
        case "SUCCESSFUL":
            pass
        case "FAILED" if not _may_fail(order, row["exception_type"]):
            last = row["errors"][-1]
            message = f"{last['exception_class_path']}: {last['message'][:300]}"
            findings.unasked.append(f"{key}: FAILED at attempt {attempt} for no reason of its own: {message}")
        case "FAILED":
            pass
        case "CANCELLED" if not is_cancelled:
            findings.unasked.append(f"{key}: CANCELLED, which nobody asked for")
        case "CANCELLED":
            pass
        case state:
            findings.lost.append(f"{key}: still {state} after attempt {attempt}, owned by {row['claimed_by_id']}")


def _may_fail(order: Order, exception_type: str) -> bool:
    if order.member is None:
        is_meant = order.kind == "failing" or (order.kind == "batched" and is_poison(order.key))
        return is_meant and exception_type.endswith(".Meant")
    if exception_type == order_of_flows.UPSTREAM_FAILED:
        return True  # order_of_flows says whether it has to be
    return order.member.fate.startswith("fails") and exception_type.endswith(".Meant")


def _judge_ticks(findings: Findings, rows: Iterable[Mapping[str, Any]]) -> None:
    """Each tick from the first to the last has been enqueued once, and has run."""
    by_tick = defaultdict(list)
    for row in rows:
        by_tick[row["tick"]].append(row["state"])
    findings.ticks = len(by_tick)
    first = min(by_tick, default=None)
    for number in range((max(by_tick) - first) // TICK + 1 if first else 0):
        if (states := by_tick.pop(first + TICK * number, [])) != ["SUCCESSFUL"]:
            findings.ticks_wrong.append(
                f"the tick of {first + TICK * number:%H:%M:%S}: {', '.join(states) or 'missing'}"
            )
    findings.ticks_wrong += (f"{tick} is no tick" for tick in by_tick)


def _judge_gates(findings: Findings, changes: Iterable[Mapping[str, Any]]) -> None:
    """Replay who was RUNNING behind each gate. Whoever is admitted comes after the end that made room for it."""
    running: dict[str, set[Any]] = defaultdict(set)
    behind = [one for one in changes if one.get("gate") and not one["gate"].startswith("!")]  # that is no lane
    for change in sorted(behind, key=lambda one: one["id"]):
        inside = running[change["gate"]]
        if change["new_state"] != "RUNNING":
            inside.discard(change["task_id"])
            continue
        before = len(inside)
        inside.add(change["task_id"])
        findings.gates_full += before < len(inside) == MOST_AT_A_GATE
        if len(inside) > MOST_AT_A_GATE:
            findings.gates_crowded.append(f"{change['task_id']}: {len(inside)} ran behind {change['gate']!r}")


def _judge_changes(changes: Iterable[Mapping[str, Any]], *, comes_back: bool | None) -> Iterable[str]:
    """Of one execution; comes_back is None for what belongs to no flow.

    What belongs to one is written when something upstream is, and may come back when something upstream is retried.
    """
    outcomes: Counter[int] = Counter()
    for change in changes:
        old, new, attempt = change["old_state"], change["new_state"], change["old_attempt"]
        who = f"by {change['written_by']} at {change['at']:%H:%M:%S.%f}"
        is_written = comes_back is not None and new == old
        is_back = bool(comes_back) and new in {"READY", "WAITING"}
        if old in FINISHED and not is_written and not is_back:
            yield f"changed from {old} to {new} {who}, after it was finished"
        if old == "RUNNING" and new != "RUNNING":
            outcomes[attempt] += 1
            if outcomes[attempt] > 1:
                yield f"attempt {attempt} has another outcome, {new}, {who}"
        is_claim = old != "RUNNING" and new == "RUNNING"
        if change["new_attempt"] != attempt + is_claim:
            yield f"from {old} to {new}, attempt {attempt} became {change['new_attempt']} {who}"
        if old == new == "RUNNING" and change["old_owner"] != change["new_owner"]:
            yield f"attempt {attempt} went from {change['old_owner']} to {change['new_owner']} {who}"


def _explain(findings: Findings, order: Order, row: Mapping[str, Any], ledger: Counter[tuple[str, int, str]]) -> None:
    """Tell why each attempt but the last was not the last."""
    key = order.key
    is_callback = order.member is not None and order.member.needs == "end"
    errors = {error.get("attempt"): error for error in row["errors"]}
    attempts = len(row["worker_ids"])
    started = [attempt for attempt in range(1, attempts + 1) if ledger[key, attempt, "started"]]
    findings.started_again += len(started) > 1
    for attempt in range(1, attempts):
        if is_callback and attempt not in errors and ledger[key, attempt, "ended"]:
            findings.ran_once_more += 1
            continue
        reason = _reason(errors.get(attempt))
        is_known = attempt in started or order.kind == "batched"
        findings.reasons[reason if is_known else f"{reason}, before the body started"] += 1


def _reason(error: Mapping[str, Any] | None) -> str:
    if error is None:
        return "released"
    path, message = error["exception_class_path"], error["message"]
    if path.endswith(".Meant"):
        return "failed, as meant"
    if path.endswith(".TaskLost"):
        return "TaskLost: " + ("its supervisor died" if message.startswith("The supervisor") else message.split(":")[0])
    return path
