"""What the soak says of flows: the judge finds what is out of order, and a short soak finds nothing."""

import random
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from tests.chaos import graphs
from tests.chaos.order_of_flows import UPSTREAM_FAILED, judge
from tests.supervisors import ROOT

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MEMBERS = {
    "up": graphs.Member("up"),
    "down": graphs.Member("down", ("up",)),
    "call": graphs.Member("call", ("up",), needs="end"),
}
UP, DOWN, CALL = (
    ("up RUNNING", "up SUCCESSFUL"),
    ("down RUNNING", "down SUCCESSFUL"),
    ("call RUNNING", "call SUCCESSFUL"),
)
BAD = ("up RUNNING", "up FAILED", "down FAILED")
LEDGER = "up 1 started,up 1 ended,down 1 started,down 1 ended,call 1 started,call 1 ended"
BLAMED = {"up": "tests.chaos.tasks.Meant", "down": UPSTREAM_FAILED}


def judged(steps, ledger="", back=(), types=None):
    """What is wrong when the rows have changed so, one after another, and the bodies have noted that."""
    state, changes = dict.fromkeys(MEMBERS, "WAITING"), {key: [] for key in MEMBERS}
    for number, step in enumerate(steps):
        key, new = step.split()
        changes[key].append({"id": number, "at": EPOCH, "old_state": state[key], "new_state": new})
        state[key] = new
    rows = {
        key: {
            "state": state[key],
            "exception_type": (types or {}).get(key) if state[key] == "FAILED" else None,
            "worker_ids": ["1"] * sum(change["new_state"] == "RUNNING" for change in changes[key]),
        }
        for key in MEMBERS
    }
    moments = {}
    for at, line in enumerate(filter(None, ledger.split(","))):
        key, attempt, event = line.split()
        moments[key, int(attempt), event] = float(at)
    return list(judge(MEMBERS, rows, changes, moments, back))


def test_a_flow_in_its_order_is_clean():
    assert judged([*UP, *DOWN, *CALL], LEDGER) == []


def test_who_fails_with_what_it_waits_for_and_comes_back_with_it_is_clean():
    back = ["up", "down", "call"]
    failed = [*BAD, *CALL]
    assert judged(failed, "up 1 started,up 1 failed,call 1 started,call 1 ended", types=BLAMED) == []
    again = [*failed, "up READY", "down WAITING", "up RUNNING", "up SUCCESSFUL", "call READY", *DOWN, *CALL]
    assert judged(again, f"up 1 failed,{LEDGER.replace('up 1', 'up 2')},call 2 ended", back) == []


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (
            ["up RUNNING", "down RUNNING", "up SUCCESSFUL", "down SUCCESSFUL"],
            "down: was claimed .* while up was RUNNING",
        ),
        (
            ["up RUNNING", "call RUNNING", "up SUCCESSFUL", "call SUCCESSFUL"],
            "call: was claimed .* while up was RUNNING",
        ),
        ([*DOWN, *UP], "down: was claimed .* while up was not begun"),
        (["up RUNNING", "up FAILED", *DOWN], "down: was claimed .* while up was FAILED"),
        ([*UP, "down FAILED"], "down: FAILED because of others, of which none has failed"),
        ([*UP, "call FAILED"], "call: FAILED because of others, though it needs only their end"),
        ([*BAD, *CALL, "up READY", *UP], "call: did not run again after the last end of up"),
    ],
)
def test_what_the_rows_say_is_found(steps, told):
    found = judged(steps, types={**BLAMED, "call": UPSTREAM_FAILED}, back=["up", "down", "call"])
    assert any(re.match(told, sentence) for sentence in found), found


@pytest.mark.parametrize("who", ["down", "call"])
def test_what_the_ledger_says_is_found(who):
    early = f"up 1 started,{who} 1 started,up 1 ended"
    assert judged([*UP, *DOWN, *CALL], early) == [f"{who}: its body began 1.000 s before the end of up, by the ledger"]


def test_a_body_without_the_end_of_another_is_found():
    assert judged([*UP, *DOWN, *CALL], "down 1 started") == [
        "down: its body began without the end of up, by the ledger"
    ]


def test_the_graphs_are_of_all_shapes_and_the_same_for_the_same_seed():
    def some(seed):
        chance = random.Random(seed)
        return [graphs.graph(f"flow-{number}", chance) for number in range(300)]

    flows = some(1)
    assert flows == some(1) != some(2)
    members = [member for flow in flows for member in flow]
    assert {member.fate for member in members} == {"succeeds", "fails", "fails once", "dies once"}
    assert {member.needs for member in members} == {"success", "end"}
    assert max(len(member.upstreams) for member in members) == graphs.MOST_WIDE
    for flow in flows:
        assert all(set(member.upstreams) <= {one.key for one in flow[:place]} for place, member in enumerate(flow))


@pytest.mark.slow
def test_flows_are_kept_in_order_while_everything_fails():
    """S14: half a minute of `make soak`, with the faults that matter most to flows."""
    faults = "terminate,kill-ray-worker,kill-supervisor,lock-row,drop-commit"
    soak = subprocess.run(
        [
            sys.executable, "-m", "tests.chaos.soak", "--minutes", "0.5", "--per-second", "0.7", "--tasks", "flows",
            "--faults", faults,
        ],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    print(soak.stdout)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert " 0 members out of order" in soak.stdout
