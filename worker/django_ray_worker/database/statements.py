"""The statements in sql/, and how claims come out of their rows and verdicts go into their parameters.

Knows no connection: the supervisor sends them through store.py, django_ray.testing inside a test's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, assert_never

from django_ray.options import Options
from django_ray.runtime.entrypoint import MAX_MESSAGE, MAX_TRACEBACK
from django_ray.serialization import clean_text
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import CANCELLED, Cancel, Fail, Postpone, Release, Retry, Succeed, Verdict

__all__ = ["SQL", "Record", "claim_of", "record_parameters"]


class Record(NamedTuple):
    """What to write of one attempt."""

    claim: Claim
    verdict: Verdict
    output: str = ""  # The last lines that its body wrote.


def _load(name: str) -> bytes:
    return files(__package__ or __name__).joinpath("sql", f"{name}.sql").read_bytes()


SQL: Mapping[str, bytes] = {
    name: _load(name)
    for name in (
        "announce", "await_in_flight", "channels", "claim", "count", "dead_workers", "hang_up", "identify", "leave",
        "mark_lost", "neighbour", "notify", "promote", "prune", "pulse", "record", "register", "revive", "running",
        "session_settings", "sign_off", "unsettled", "watch",
    )
}  # fmt: skip


def claim_of(row: Mapping[str, Any], backend: Options) -> Claim:
    """Return the claim that a row of claim.sql or running.sql is."""
    unfit = ""
    try:
        options = backend.of(row["queue_name"], row["options"])
    except (TypeError, ValueError) as error:
        options, unfit = backend.of(row["queue_name"], None), str(error)
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
        waited=row["waited"],
        payload=row["payload"],
    )


def record_parameters(records: Iterable[Record]) -> dict[str, Any]:
    """Return the parameters of record.sql. One JSON text costs half of what a list for each column does."""
    # Sorted by id: two writers that meet on the same rows take them in the same order.
    ordered = sorted(records, key=lambda record: record.claim.task_id)
    return {"verdicts": json.dumps([*map(_row, ordered)]), "cancelled": _error(CANCELLED)}


def _row(record: Record) -> dict[str, Any]:
    claim, verdict, output = record
    fence = {"task_id": str(claim.task_id), "attempt": claim.attempt, "worker": claim.worker}
    return {**fence, **_columns(verdict), **({"output": output} if output else {})}


def _columns(verdict: Verdict) -> dict[str, Any]:
    """Return what of the row changes; the rest is NULL or 0. A result is a text: JSON's null is one."""
    match verdict:
        case Succeed(result=result):
            return {"state": "SUCCESSFUL", "result": result}
        case Retry(error=error, after=after, failures=failures, losses=losses):
            added = {"failures": failures, "losses": losses}
            return {"state": "READY", "error": _error(error), "after": after or None, **added}
        case Fail(error=error, failures=failures, losses=losses):
            return {"state": "FAILED", "error": _error(error), "failures": failures, "losses": losses}
        case Cancel(error=error):
            return {"state": "CANCELLED", "error": _error(error)}
        case Release(after=after, has_begun=has_begun):
            return {"state": "READY", "after": after or None, "unbegun": not has_begun}
        case Postpone(after=after):
            return {"state": "READY", "after": after, "unbegun": True, "missing": True}
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
