"""Whether the members of flows have begun after what they wait for, and have ended as it says.

Two witnesses: the ledger, which the bodies write into files, and the changes of the rows in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.chaos.graphs import Member

__all__ = ["ENDED", "UPSTREAM_FAILED", "judge"]

ENDED = frozenset({"SUCCESSFUL", "FAILED", "CANCELLED"})
UPSTREAM_FAILED = "django_ray.exceptions.UpstreamFailed"

type Moments = Mapping[tuple[str, int, str], float]  # When (key, attempt, event) was noted, the first time.
type Rows = Mapping[str, Mapping[str, Any]]
type Changes = Mapping[str, list[Mapping[str, Any]]]  # By key, in their order.


def judge(
    members: Mapping[str, Member], rows: Rows, changes: Changes, moments: Moments, back: Iterable[str]
) -> Iterator[str]:
    """Yield what is not as it has to be. Those that may have come back after their end are in back."""
    come_back = frozenset(back)
    for key, member in members.items():
        if key not in rows or any(upstream not in rows for upstream in member.upstreams):
            continue  # which is lost, and told as such
        for upstream in member.upstreams:
            yield from _too_early_by_the_ledger(member, upstream, rows, moments, come_back)
            yield from _too_early_by_the_rows(member, upstream, members, changes)
        yield from _wrong_in_the_end(member, members, rows, changes)


def _too_early_by_the_ledger(
    member: Member, upstream: str, rows: Rows, moments: Moments, back: frozenset[str]
) -> Iterator[str]:
    """For whoever has ended once: each body of the member began after its last body."""
    row = rows[upstream]
    last = len(row["worker_ids"])
    ended = moments.get((upstream, last, "ended"), moments.get((upstream, last, "failed")))
    begun = [at for (key, _, event), at in moments.items() if key == member.key and event == "started"]
    if upstream in back:
        # It may have ended twice. Before any of its ends nobody may begin who needs it to have succeeded.
        ends = [at for (key, _, event), at in moments.items() if key == upstream and event == "ended"]
        ended = min(ends, default=None)
        begun = begun if member.needs == "success" else []
    if ended is None and member.needs == "end":
        return  # it was cancelled, or failed because of others: no body tells
    yield from (
        f"{member.key}: its body began {'without' if ended is None else f'{ended - at:.3f} s before'} the end of "
        f"{upstream}, by the ledger"
        for at in begun
        if ended is None or at < ended
    )


def _too_early_by_the_rows(
    member: Member, upstream: str, members: Mapping[str, Member], changes: Changes
) -> Iterator[str]:
    """A callback that has run may run once more, and what it was waited for has begun by then."""
    wanted = ENDED if member.needs == "end" else {"SUCCESSFUL"}
    has_once = member.needs == "end" or members[upstream].needs == "end"
    for claim in _claims(changes[member.key]):
        states = [change["new_state"] for change in changes[upstream] if change["id"] < claim["id"]]
        if not wanted.intersection(states if has_once else states[-1:]):
            state = states[-1] if states else "not begun"
            yield f"{member.key}: was claimed at {claim['at']:%H:%M:%S.%f} while {upstream} was {state}"


def _wrong_in_the_end(member: Member, members: Mapping[str, Member], rows: Rows, changes: Changes) -> Iterator[str]:
    row = rows[member.key]
    has_failed = row["state"] == "FAILED" and row["exception_type"] == UPSTREAM_FAILED
    bad = {upstream for upstream in member.upstreams if rows[upstream]["state"] in {"FAILED", "CANCELLED"}}
    if member.needs == "end":
        if has_failed:
            yield f"{member.key}: FAILED because of others, though it needs only their end"
        last = max((claim["id"] for claim in _claims(changes[member.key])), default=0)
        for upstream in member.upstreams if row["state"] == "SUCCESSFUL" else ():
            if last < max((change["id"] for change in _ends(changes[upstream])), default=0):
                yield f"{member.key}: did not run again after the last end of {upstream}"
    elif has_failed and not bad:
        yield f"{member.key}: FAILED because of others, of which none has failed"
    elif row["state"] in {"SUCCESSFUL", "FAILED"} and not has_failed:
        for upstream in sorted(bad):
            if members[upstream].needs != "end":  # such a one may run once more, after it has succeeded
                yield f"{member.key}: {row['state']}, though {upstream} is {rows[upstream]['state']}"


def _claims(changes: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (change for change in changes if change["old_state"] != "RUNNING" == change["new_state"])


def _ends(changes: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (change for change in changes if change["old_state"] not in ENDED and change["new_state"] in ENDED)
