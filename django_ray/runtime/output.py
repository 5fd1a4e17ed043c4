"""What task bodies write to standard output and standard error: each line with the task's name, the last ones kept.

print(), warnings and the handlers of Django's LOGGING all end in these two streams. A process that a task starts writes
past them, into the files that Ray reads: there, a line of its own tells Ray the name to show from now on.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ClassVar, Self

from django_ray.runtime.foreign import contained
from django_ray.serialization import clean_text

__all__ = ["Output", "label_output", "label_subprocesses", "put_above"]

MOST_LINES = 100  # That are kept of one attempt.
MOST_CHARACTERS = 1000  # Of each of them.
NAMED = ":task_name:"  # With this begins a line that is for Ray, which shows the rest of it before the lines to come.


class Output:
    """What one attempt writes while it is entered, on whichever thread: bodies start threads, which write, too."""

    __slots__ = ("_is_fresh", "_is_named", "_label", "_lines", "begun", "label")

    # The last one writes. There are several when a task runs another one in place, and when with --sync a cancelled
    # body runs on beside the next one.
    entered: ClassVar[list[Output]] = []

    def __init__(self, label: str) -> None:
        self.label = label
        self._label = f"[{label}] "
        self._lines: deque[tuple[int, str]] = deque(maxlen=MOST_LINES)  # Each with its number.
        self.begun = 0  # Lines.
        self._is_fresh = True  # The next character is the first of its line.
        self._is_named = False  # Ray labels the lines, in this process and in those that it starts.

    def __enter__(self) -> Self:
        Output.entered.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._is_fresh:
            contained(lambda: sys.stdout.write("\n"), lambda _: None)  # whatever has become of the stream
        if self._is_named:
            self._tell_ray("")
        Output.entered.remove(self)

    @property
    def text(self) -> str:
        """The last lines."""
        return "\n".join(self.lines(0))

    @property
    def ended(self) -> int:
        """How many lines have ended."""
        begun = self.begun  # Read first: a line that begins now would be taken for one that has ended.
        return begun if self._is_fresh else max(0, begun - 1)

    def lines(self, first: int, end: int | None = None) -> list[str]:
        """Return those that are kept of the lines from first until before end, as they can be stored."""
        return [
            clean_text(line.rstrip("\r"), 6 * MOST_CHARACTERS)  # one may become six
            for number, line in self._lines.copy()  # other threads may write
            if first <= number and (end is None or number < end)
        ]

    def name(self) -> None:
        """Have Ray label what is written from now on."""
        if not self._is_named:
            self._tell_ray(" ".join(self._label.split()))  # in one line: the next one might say something else to Ray
            self._is_named = True

    def _tell_ray(self, name: str) -> None:
        begin = "" if self._is_fresh else "\n"
        self._is_fresh = True
        for stream, descriptor in (("stdout", 1), ("stderr", 2)):
            contained(partial(_flush, stream), lambda _: None)  # whatever has become of it
            with suppress(OSError):
                os.write(descriptor, f"{begin}{NAMED}{name}\n".encode())

    def add(self, text: str) -> str:
        """Keep text, which need not end with its line; return it with the label before each line."""
        labelled: list[str] = []
        for piece in _pieces(text):
            if self._is_fresh:
                labelled.append("" if self._is_named else self._label)
                self._lines.append((self.begun, ""))
                self._is_fresh = False
                self.begun += 1
            labelled.append(piece)
            number, line = self._lines[-1]
            self._lines[-1] = number, _overwritten(line + piece.removesuffix("\n"))
            self._is_fresh = piece.endswith("\n")
        return "".join(labelled)


def _flush(name: str) -> None:
    getattr(sys, name).flush()


def _pieces(text: str) -> Iterator[str]:
    """Split after each newline, and at nothing else that str.splitlines() takes for one."""
    *ended, rest = text.split("\n")
    for line in ended:
        yield f"{line}\n"
    if rest:
        yield rest


def _overwritten(line: str) -> str:
    """Return what a terminal shows of a line in which carriage returns start anew, as progress bars have them."""
    shown = line.rstrip("\r").rpartition("\r")[2][:MOST_CHARACTERS]
    return f"{shown}\r" if line.endswith("\r") else shown


class _Labelled:
    """A stream above another one, that labels what an attempt writes."""

    __slots__ = ("_below",)

    def __init__(self, below: Any) -> None:
        self._below = below

    def write(self, text: str) -> int:
        output = next(reversed(Output.entered), None)
        if output is None or not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            return self._below.write(text)  # type: ignore[no-any-return]
        self._below.write(output.add(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Stay open: also for the next body, whatever `with sys.stdout` of this one says."""
        self._below.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


def label_output() -> None:
    """Have what is written in this process from now on pass by: also from log handlers that have a stream already."""
    for name in ("stdout", "stderr"):
        below = getattr(sys, name)
        if below is None or isinstance(below, _Labelled):
            continue
        if isinstance(below, io.TextIOWrapper):
            below.reconfigure(line_buffering=True)  # a log is read while it is written
        put_above(name, _Labelled(below))


def label_subprocesses() -> None:
    """In a Ray worker, have what a body starts with the module subprocess, asyncio's included, labelled as well."""
    start: Any = subprocess.Popen.__init__

    @wraps(start)
    def labelled(self: Any, *arguments: Any, **options: Any) -> None:
        if Output.entered:
            Output.entered[-1].name()
        start(self, *arguments, **options)

    subprocess.Popen.__init__ = labelled  # type: ignore[method-assign]


def put_above(name: str, stream: Any) -> None:
    """Put a stream in the place of sys.stdout or sys.stderr, which it writes to; handlers go on with it, too."""
    below = getattr(sys, name)
    setattr(sys, name, stream)
    for handler in _stream_handlers():
        if handler.stream is below:
            handler.setStream(stream)


def _stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    """Return those of the user's LOGGING; the supervisor's own is of another class."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:
                    yield handler
