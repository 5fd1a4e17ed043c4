"""How the supervisor logs: lines for people, or one JSON object per line for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO, override

__all__ = ["configure"]


# What a record about an execution carries: see Claim.log_fields.
FIELDS = ("task_id", "attempt", "queue", "task")


class _Json(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Own(logging.StreamHandler[TextIO]):
    """The supervisor's. A class of its own, because what it writes is no output of a task that runs here."""


def configure(level: str, form: str) -> None:
    """Log django_ray's loggers to standard error, besides whatever Django's LOGGING says of others."""
    output = _Own(sys.stderr)
    output.setFormatter(_Json() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    # What psycopg warns of during an outage, we say ourselves, once.
    for name, least in (("django_ray", level), ("django.tasks", level), ("psycopg", "error")):
        logger = logging.getLogger(name)
        logger.addHandler(output)
        logger.setLevel(least.upper())
        logger.propagate = False
