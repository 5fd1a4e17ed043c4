"""The end of the node test: what became of every task, what each fault cost, and whether that is what is promised."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tests.chaos.audit import audit, read_history
from tests.nodes.faults import Fault
from tests.nodes.load import Load
from tests.nodes.watch import Watch

__all__ = ["account"]

MOST = 20  # Sentences about what is wrong.

_CHANGES = """
SELECT count(DISTINCT task_id) AS tasks,
       count(*) FILTER (WHERE new_state = 'RUNNING' AND old_state = 'READY') AS attempts,
       count(*) FILTER (WHERE new_state = 'READY' AND lost = 0) AS released,
       coalesce(sum(lost), 0) AS lost
FROM (SELECT *, losses - lag(losses, 1, 0) OVER (PARTITION BY task_id ORDER BY id) AS lost FROM chaos_change) AS change
WHERE at >= %s AND at < %s
"""
_ROWS = """
SELECT count(*) AS tasks, count(*) FILTER (WHERE state = 'SUCCESSFUL') AS successful, sum(attempt_number) AS attempts,
       max(attempt_number) AS most, sum(losses) AS losses, sum(failures) AS failures
FROM django_ray_execution
"""


def account(watch: Watch, load: Load, faults: list[Fault]) -> bool:
    """Print the account; return whether all is well."""
    _print_faults(watch, faults)
    rows = watch.ask(_ROWS)[0]
    print(
        f"{rows.tasks} tasks, {rows.successful} SUCCESSFUL, {rows.attempts} attempts (at most {rows.most} of one), "
        f"{rows.losses} losses and {rows.failures} failures charged"
    )
    findings = audit(load, read_history(watch), watch.ledger())
    for reason, times in findings.reasons.most_common():
        print(f"started again: {times} times {reason}")
    wrong = [*findings.lost, *findings.twice, *findings.unasked, *_judge(rows), *_judge_supervisor(watch)]
    for sentence in wrong[:MOST]:
        print(f"WRONG  {sentence}")
    print("nodes test: FAILED" if wrong else "nodes test: passed", flush=True)
    return not wrong


def _print_faults(watch: Watch, faults: list[Fault]) -> None:
    """Print a line for each: the seconds from it and from its end to a start, and what there was until the next."""
    line = "{:26}{:>9}{:>12}{:>12}{:>9}{:>11}{:>11}{:>9}".format
    print()
    print(line("", "lasted", "next start", "back after", "tasks", "attempts", "released", "lost"))
    ends = [*(fault.struck.began for fault in faults[1:]), watch.now()]
    for fault, end in zip(faults, ends, strict=True):
        there = watch.ask(_CHANGES, fault.struck.began, end)[0]
        lasted = _seconds(fault.struck.done, fault.undone.began)
        first, back = _seconds(fault.struck.done, fault.first_start), _seconds(fault.undone.done, fault.start_after)
        print(line(fault.name, lasted, first, back, there.tasks, there.attempts, there.released, there.lost))


def _seconds(since: datetime, until: datetime | None) -> str:
    return "-" if until is None else f"{(until - since).total_seconds():.1f} s"


def _judge(rows: Any) -> list[str]:
    """Return what is wrong with what was charged: that a host went away is the fault of no task."""
    return [] if rows.losses == rows.failures == 0 else ["a task was charged for a host that went away"]


def _judge_supervisor(watch: Watch) -> list[str]:
    """Return what is wrong with the supervisors' rows: one process, from the beginning to its goodbye."""
    workers = watch.ask("SELECT id, hostname, pid, lost_at, stopped_at FROM django_ray_worker ORDER BY id")
    print(f"{len(workers)} life of the supervisor" if len(workers) == 1 else f"{len(workers)} lives of the supervisor")
    if len(workers) == 1 and workers[0].lost_at is None and workers[0].stopped_at is not None:
        return []
    return [f"the supervisor did not live through it: {workers}"]
