"""The statements in sql/, and how claims come out of their rows and verdicts go into their parameters.

Knows no connection: the supervisor sends them through store.py, django_ray.testing inside a test's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, assert_never

from django_ray.bounds import LONGEST
from django_ray.options import Options
from django_ray.requirements import MOST_OPTIONS
from django_ray.serialization import MAX_MESSAGE, MAX_TRACEBACK, clean_text
from django_ray_worker.core.claim import Claim, Turns
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import CANCELLED, Cancel, Fail, Postpone, Release, Retry, Succeed, Verdict

__all__ = [
    "SQL", "Record", "claim_of", "claim_parameters", "lane_parameters", "lock_parameters", "record_parameters",
    "turn_parameters",
]  # fmt: skip


MOST_LANES = 200  # That a claim from lanes looks into.
MOST_QUEUES = 1000  # That a claim from any queue looks into: their first rows take 5 ms.


_PART = b"-- part: "  # The rest of the line is the name of a file that stands there.


class Record(NamedTuple):
    """What to write of one attempt."""

    claim: Claim
    verdict: Verdict
    output: str = ""  # The last lines that its body wrote.


def _load(name: str, **others: str) -> bytes:
    """Return a statement with its parts; others are files that stand in the place of a part."""
    text = files(__package__ or __name__).joinpath("sql", f"{name}.sql").read_bytes()
    head, *tails = text.split(_PART)
    for tail in tails:
        part, _, rest = tail.decode().partition("\n")
        head += _load(others.get(part, part)) + rest.encode()
    return head


SQL: Mapping[str, bytes] = {
    name: _load(name)
    for name in (
        "announce", "await_in_flight", "channels", "claim", "claim_lanes", "count", "dead_workers", "declare", "due",
        "expire", "fire", "hang_up", "identify", "is_registered", "leave", "lock", "make_way", "mark_lost", "neighbour",
        "notify", "promote", "prune", "prune_flows", "prune_gates", "prune_workers", "pulse", "record",
        "register", "revive", "running", "session_settings", "settle_late", "sign_off", "stock", "unsettled", "waiting",
        "watch",
    )
} | {"claim_in_turn": _load("claim", heads="heads_in_turn", order="order_in_turn", names="names_in_turn")}  # fmt: skip


def claim_parameters(
    worker: int,
    limit: int,
    *,
    after: str | None = None,
    share: int | None = None,
    after_gate: tuple[str | None, str | None] = (None, None),
) -> dict[str, Any]:
    """Return the parameters of claim.sql, but for backend and queues.

    after is the queue, after_gate the queue and gate after which to go on. Of one priority, share comes from behind
    gates, if there are both; None is half of it.
    """
    return {
        "worker": worker,
        "limit": limit,
        "after": after,
        "most_queues": MOST_QUEUES,
        "share": (limit + 1) // 2 if share is None else share,
        "after_queue": after_gate[0],
        "after_gate": after_gate[1],
    }


def turn_parameters(turns: Turns) -> dict[str, Any]:
    """Return what is different in claim_in_turn."""
    return {"queues": turns.queues, "rooms": json.dumps(turns.rooms), "held": json.dumps(turns.held)}


def lane_parameters(
    worker: int, limit: int, rooms: str, *, after: tuple[str | None, str | None] = (None, None)
) -> dict[str, Any]:
    """Return the parameters of claim_lanes.sql, but for backend and queues.

    rooms is JSON: by the names of tasks' lanes, before a colon, for how many calls there is room, and how many
    executions share one; limit is how many executions in all; after is the queue and the lane after which to go on.
    """
    return {
        "worker": worker,
        "limit": limit,
        "rooms": rooms,
        "most_lanes": MOST_LANES,
        "after_queue": after[0],
        "after_gate": after[1],
    }


def claim_of(row: Mapping[str, Any], backend: Options) -> Claim:
    """Return the claim that a row of claim.sql or running.sql is, whatever somebody has written there."""
    unfit = ""
    try:
        options = backend.of(row["queue_name"], _options(row))
    except Exception as error:  # noqa: BLE001 - no row may stop a supervisor
        options, unfit = backend.of(row["queue_name"], None), str(error) or type(error).__name__
    return Claim(
        task_id=row["task_id"],
        attempt=row["attempt_number"],
        worker=row["claimed_by_id"],
        queue_name=row["queue_name"],
        callable_path=row["callable_path"],
        options=options,
        unfit=unfit,
        failures=row["failures"],
        losses=row["losses"],
        missing_for=row["missing_for"] or 0.0,
        waited=None if row["waited"] is None else min(max(0.0, row["waited"]), LONGEST),
        payload=_name(row) if row["payload"] is None else row["payload"],
        released=row["released"],
        lane=row.get("lane"),
    )


def _options(row: Mapping[str, Any]) -> Any:
    text = row["options"]
    if text is None:
        return None
    if not text:
        raise ValueError(f"The options cannot be read: they are larger than {MOST_OPTIONS:,} bytes.")
    return json.loads(text)


def _name(row: Mapping[str, Any]) -> str:
    """Return the payload of a claim whose row is read where it runs: no more than names the attempt."""
    return json.dumps(
        {
            "task_id": str(row["task_id"]),
            "backend": row["backend"],
            "attempt_number": row["attempt_number"],
            "worker_ids": [str(row["claimed_by_id"])],
        }
    )


def record_parameters(records: Iterable[Record], patience: float | None = None) -> dict[str, Any]:
    """Return the parameters of record.sql. One JSON text costs half of what a list for each column does.

    patience is seconds to wait for a row that somebody else has locked; None is as the session does.
    """
    # Sorted by id: two writers that meet on the same rows take them in the same order.
    # By its number, as the server orders them: that of UUIDs is in Python.
    ordered = sorted(records, key=lambda record: record.claim.task_id.int)
    return {
        "verdicts": json.dumps([*map(_row, ordered)]),
        "cancelled": _error(CANCELLED),
        "patience": None if patience is None else f"{patience * 1000:.0f}",
    }


def lock_parameters(claims: Iterable[Claim]) -> dict[str, Any]:
    """Return the parameters of lock.sql."""
    ordered = sorted(claims, key=lambda claim: claim.task_id.int)
    return {"claims": json.dumps([*map(_fence, ordered)])}


def _row(record: Record) -> dict[str, Any]:
    claim, verdict, output = record
    row = _columns(verdict) | _fence(claim)
    if output:
        row["output"] = output
    return row


def _fence(claim: Claim) -> dict[str, Any]:
    return {"task_id": str(claim.task_id), "attempt": claim.attempt, "worker": claim.worker}


def _columns(verdict: Verdict) -> dict[str, Any]:
    """Return what of the row changes; the rest is NULL or 0. A result is a text: JSON's null is one."""
    match verdict:
        case Succeed(result=result):
            return {"state": "SUCCESSFUL", "result": result}
        case Retry(error=error, after=after, failures=failures, losses=losses, released=released):
            counts = {"failures": failures, "losses": losses, "released": released}
            return {"state": "READY", "error": _error(error), "after": after or None, **counts}
        case Fail(error=error, failures=failures, losses=losses):
            return {"state": "FAILED", "error": _error(error), "failures": failures, "losses": losses}
        case Cancel(error=error):
            return {"state": "CANCELLED", "error": _error(error)}
        case Release(after=after, has_begun=has_begun, released=released):
            return {"state": "READY", "after": after or None, "unbegun": not has_begun, "released": released}
        case Postpone(after=after, released=released):
            return {"state": "READY", "after": after, "unbegun": True, "missing": True, "released": released}
        case _:
            assert_never(verdict)


def _error(error: Error) -> str:
    # Ray's own messages quote what they like; what cannot be stored ends here, at the door.
    return json.dumps(
        {
            "exception_class_path": clean_text(error.exception_class_path, 1000),
            "message": clean_text(error.message, MAX_MESSAGE),
            "traceback": clean_text(error.traceback, MAX_TRACEBACK),
        }
    )
