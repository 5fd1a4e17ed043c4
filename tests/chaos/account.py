"""The account of a soak: what was enqueued, what became of it, and how long work stood still."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tests.chaos import audit, stalls
from tests.chaos.chaos import Chaos
from tests.chaos.crew import Crew
from tests.chaos.customer import Customer
from tests.chaos.postgres import Postgres

__all__ = ["account"]

MOST_SENTENCES = 40


def account(postgres: Postgres, chaos: Chaos, crew: Crew, customer: Customer, folder: Path) -> bool:
    """Print what became of everything; True when all is well."""
    history = audit.read_history(postgres)
    findings = audit.audit(customer, history, audit.read_ledger(folder), audit.read_moments(folder))
    longest = stalls.find(history, crew.lives, postgres.outages, time.time())[:3]
    answers = Counter(customer.cancels.values())
    lines = {
        "enqueued": f"{len(customer.orders)} ({_counted(customer.counts)})",
        "recorded": _counted(findings.states),
        "cancels": f"{len(customer.cancel_asked)} asked for; {answers[True]} were answered with True, "
        f"{answers[False]} with False",
        "lost": len(findings.lost),
        "recorded twice": len(findings.twice),
        "effects of atomic tasks": f"{history.effects.total()}, {len(findings.effects)} of them too many or too few",
        "gates": f"full {findings.gates_full} times, crowded {len(findings.gates_crowded)} times",
        "flows": f"{customer.counts['flows']}; {len(findings.out_of_order)} members out of order; "
        f"{findings.ran_once_more} callbacks ran once more",
        "ticks of the schedule": f"{findings.ticks}, {len(findings.ticks_wrong)} of them wrong",
        "not asked for": len(findings.unasked),
        f"claimed, not begun, over {audit.MOST_UNBEGUN} times": len(findings.went_round),
        "started more than once": findings.started_again,
        "claimed again because": _counted(findings.reasons),
        "started twice in one attempt": len(findings.started_twice),
        "supervisors": f"{len(crew.lives)}; {_ended(crew, by='killed')} killed, {_ended(crew, by='itself')} ended by "
        f"themselves, exit codes of those stopped {[life.code for life in crew.lives if life.ended_by == 'stopped']}",
        "faults": f"{sum(chaos.done.values())} ({_counted(chaos.done)})",
        "longest stall": f"\n{'':<38}".join(_told(stall, chaos) for stall in longest) or "none",
    }
    print()  # the account stands apart from the log
    for name, value in lines.items():
        print(f"{name + ':':<38}{value}")
    wrong = [
        *findings.lost,
        *findings.twice,
        *findings.effects,
        *findings.unasked,
        *findings.went_round,
        *findings.started_twice,
        *findings.gates_crowded,
        *findings.out_of_order,
        *findings.ticks_wrong,
    ]
    for sentence in wrong[:MOST_SENTENCES]:
        print(f"  {sentence}")
    print(f"\n{'All is well.' if findings.is_clean else f'Not well. Ledger and logs: {folder}'}", flush=True)
    return findings.is_clean


def _ended(crew: Crew, by: str) -> int:
    return sum(life.ended_by == by for life in crew.lives)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def _told(stall: stalls.Stall, chaos: Chaos) -> str:
    begin = chaos.clock.since(stall.begin)
    near = [f"{kind} at {chaos.clock.since(at):.0f} s" for at, kind in chaos.log if stall.begin - 10 <= at <= stall.end]
    return f"{stall.seconds:.1f} s from {begin:.0f} s ({', '.join(near) or 'no fault near'})"
