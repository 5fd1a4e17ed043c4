"""How the supervisor logs: lines for people, or one JSON object per line for machines.

What the project's LOGGING says of a logger stands. Where it says nothing, a handler is added only if nothing would show
the lines. With JSON, all that this process writes is objects: also what Ray, tasks, print() and other handlers write.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO, override

from django.conf import settings
from django.utils.log import AdminEmailHandler

from django_ray.runtime.output import put_above

__all__ = ["configure", "write_objects"]


# What a record about an execution carries: see Claim.log_fields, and judge.py.
FIELDS = ("task_id", "attempt", "queue", "task", "outcome")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Ray says which process has written a line, and on which other host; the label of a task follows.
# or stands in the place of the process's name, for what a process wrote that a task had started.
ORIGIN = re.compile(
    r"\((?:(?:(?P<label>\[.*?\] )|\S+ )?pid=)?(?P<process>(?<=pid=)\w+|raylet|autoscaler)(?:, ip=(?P<node>[^)]+))?\) "
)
LABEL = re.compile(r"\[(?P<task>\S+) (?P<task_id>[0-9a-f-]{36}) #(?P<attempt>\d+) (?P<queue>.*?)\] ")


class _Json(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = _entry(record.created, record.levelname, record.name, record.getMessage())
        entry |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _without_traceback(record: logging.LogRecord) -> logging.LogRecord:
    return logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})


class _Own(logging.StreamHandler[TextIO]):
    """The supervisor's. A class of its own, because what it writes is no output of a task that runs here."""


class _Objects(io.TextIOBase):
    """A stream above another one, that writes each line as an object, but those that are one already."""

    def __init__(self, below: TextIO, name: str) -> None:
        self.below = below
        self._name = name
        self._begun = threading.local()  # What each thread has written of its line.

    @override
    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        self.below.write("".join(f"{self._object(line)}\n" for line in lines if line.strip()))
        return len(text)

    @override
    def flush(self) -> None:
        if getattr(self._begun, "text", ""):
            self.write("\n")
        self.below.flush()

    @override
    def fileno(self) -> int:
        return self.below.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        return self.below.encoding

    @override
    def writable(self) -> bool:
        return True

    def _object(self, line: str) -> str:
        line = ESCAPES.sub("", line).rstrip("\r")
        if _is_object(line):
            return line
        entry = _entry(datetime.now(UTC).timestamp(), "INFO", self._name, line)
        if (origin := ORIGIN.match(line)) is not None:
            entry["message"] = line = (origin["label"] or "") + line[origin.end() :]
            entry["process"] = origin["process"]
            if origin["node"]:
                entry["node"] = origin["node"]
        if (label := LABEL.match(line)) is not None:
            entry["message"] = line[label.end() :]
            entry |= {**label.groupdict(), "attempt": int(label["attempt"])}
        return json.dumps(entry)


def configure(level: str, form: str) -> None:
    """Have the lines of our loggers shown on standard error, if the project does not show them already."""
    named = _named_by_the_project()
    for name in ("django_ray", "django.tasks"):
        logger = logging.getLogger(name)
        output = _Own(getattr(sys.stderr, "below", sys.stderr))
        output.setFormatter(_Json() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        if name == "django.tasks":
            output.addFilter(_without_traceback)  # which django_ray logs as well
        if name in named:
            continue
        if logger.level == logging.NOTSET:
            logger.setLevel(level.upper())
        if form == "json" or not _is_shown(logger):
            logger.addHandler(output)
            logger.propagate = False
    # What psycopg warns of during an outage, we say ourselves, once.
    if "psycopg" not in named:
        logging.getLogger("psycopg").setLevel(logging.ERROR)


def write_objects() -> None:
    """Write nothing but objects from now on, to standard output and standard error."""
    for name in ("stdout", "stderr"):
        if not isinstance(below := getattr(sys, name), _Objects):
            put_above(name, _Objects(below, name))


def _named_by_the_project() -> frozenset[str]:
    """Return the loggers that LOGGING names; the root one is ''."""
    configuration: dict[str, Any] = settings.LOGGING if settings.configured else {}
    return frozenset(configuration.get("loggers", ())) | ({""} if "root" in configuration else set())


def _is_shown(logger: logging.Logger) -> bool:
    """Tell whether the project has a handler for what this logger says; mail to admins shows nobody a log."""
    record = logger.makeRecord(logger.name, logging.WARNING, __file__, 0, "", (), None)
    return any(
        handler.level <= logging.WARNING and not isinstance(handler, AdminEmailHandler) and handler.filter(record)
        for handler in _handlers(logger)
    )


def _handlers(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """Return those of a logger and of the ones above it, as far as it propagates."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def _entry(created: float, level: str, logger: str, message: str) -> dict[str, Any]:
    time = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return {"time": time, "level": level, "logger": logger, "message": message}


def _is_object(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
