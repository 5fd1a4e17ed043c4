"""What a body does now, for whoever asks from another process of its host: its stack, and its last lines.

A thread of the process is asked through a pipe, and answers into memory that both can read: the body notices nothing.
The thread needs Python's lock for that, and a body in C may keep the lock for ever (a regular expression, for
instance). Then a signal has Python's own faulthandler write the stack: it runs in the signal itself and needs no lock,
but knows neither lines of code nor coroutines. Linux alone has such memory: elsewhere nobody is found.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict
from weakref import ReferenceType, ref

from django_ray.runtime import mark
from django_ray.runtime.foreign import is_below_a_body
from django_ray.runtime.output import Output
from django_ray.serialization import clean_text

__all__ = ["ASKED", "Snapshot", "awaiting", "install", "snapshot", "tell", "told_here"]

_NAME = "django-ray-snapshot"
ASKED = 255  # The byte that asks. What else is written into the pipe are numbers of signals.
_END = b"\0"
ANSWER_SECONDS = 1.0  # For the thread; a body that keeps Python's lock answers no sooner than it gives it back.
DUMP_SECONDS = 0.5  # For faulthandler.
LOOK_SECONDS = 0.01
# Of the JSON text, since it travels in a notification of PostgreSQL, which holds 8,000.
MOST_STACK, MOST_OUTPUT = 5000, 2000
MOST_FRAMES = 40  # Of one thread or coroutine: the innermost.


class Snapshot(TypedDict):
    """Of one body."""

    host: str
    process: int
    stack: list[str]  # Lines, the innermost last.
    output: list[str]  # The last lines that it has written.
    is_locked: bool  # It keeps Python's lock: the stack is faulthandler's, and nothing is known of the lines.


_answers: int | None = None  # The memory, as a descriptor.
_task: ReferenceType[asyncio.Task[Any]] | None = None  # In which the last coroutine function ran.


def install(pipe: int) -> None:
    """Once per process that runs attempts: who reads what is written into the pipe calls tell() for ASKED."""
    global _answers  # noqa: PLW0603 - of this process
    if hasattr(os, "memfd_create"):
        _answers = os.memfd_create(f"{_NAME}{pipe}")
        # Whoever asks empties it first: what is written goes to its end.
        fcntl.fcntl(_answers, fcntl.F_SETFL, os.O_APPEND)
        faulthandler.register(mark.DUMP, file=_answers, all_threads=False, chain=False)


def awaiting(task: asyncio.Task[Any]) -> None:
    """Note that a body is a coroutine, awaited in this task."""
    global _task  # noqa: PLW0603
    _task = ref(task)


def tell() -> None:
    """Answer whoever asks, in the process that runs the body."""
    if _answers is not None:
        os.write(_answers, json.dumps(told_here()).encode() + _END)


def told_here() -> Snapshot:
    """Return what the body that runs in this process does."""
    output = next(reversed(Output.entered), None)
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "stack": _fitting(list(_stack()), MOST_STACK),
        "output": _fitting([] if output is None else output.lines(0), MOST_OUTPUT),
        "is_locked": False,
    }


def snapshot(attempts: Sequence[mark.Attempt]) -> Snapshot | None:
    """Return what one of these does whose body runs on this host; None when none is found, or it has just ended."""
    for path, attempt in mark.marks():
        if attempt in attempts:
            with suppress(OSError):  # it has ended, or is not ours
                return _ask(path, attempt)
    return None


def _ask(path: Path, attempt: mark.Attempt) -> Snapshot | None:
    pid = mark.pid_of(path)
    answers = next(mark.files(_NAME, mark.PROCESSES / str(pid)), None)
    if answers is None:  # its code is of before
        return None
    os.truncate(answers, 0)
    pipe = answers.with_name(answers.readlink().name.split()[0].removeprefix(f"memfd:{_NAME}"))
    with pipe.open("wb", buffering=0) as asking:
        asking.write(bytes([ASKED]))
    said = _answered(answers, ANSWER_SECONDS)
    if said:
        with suppress(ValueError):
            found: Snapshot = json.loads(said)
            return found if mark.read(path) == attempt else None
    os.truncate(answers, 0)
    os.kill(pid, mark.DUMP)  # only where our memory was found: it means the end to others
    lines = _answered(answers, DUMP_SECONDS).decode(errors="replace").splitlines()
    if mark.read(path) != attempt:
        return None
    return {
        "host": socket.gethostname(),
        "process": pid,
        "stack": _fitting([clean_text(line, 1000) for line in _innermost_last(lines)], MOST_STACK),
        "output": [],
        "is_locked": True,
    }


def _answered(answers: Path, seconds: float) -> bytes:
    """Return what is written there within so many seconds, up to its end; all of it, if nothing says where it ends."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        text, is_ended, _ = answers.read_bytes().partition(_END)
        if is_ended:
            return text
        time.sleep(LOOK_SECONDS)
    return answers.read_bytes()


def _innermost_last(lines: Sequence[str]) -> list[str]:
    """Return what faulthandler writes in the order of a traceback."""
    return [line.strip() for line in reversed(lines) if line.startswith("  File")]


def _stack() -> Iterator[str]:
    """Yield the lines of a traceback: of the body's thread, of those that it started, and of what coroutines await."""
    others: list[list[FrameType]] = []
    for frame in list(getattr(sys, "_current_frames")().values()):  # noqa: B009 - documented, and private for the type checkers
        frames = [one for one, _ in traceback.walk_stack(frame)][::-1]
        ours = [index for index, one in enumerate(frames) if _module(one) == "django_ray.runtime.entrypoint"]
        if ours:
            yield from _written(_without_ours(frames[ours[-1] + 1 :]))
        elif not any(_module(one).startswith(("django_ray", "ray.")) for one in frames):
            others.append(frames)
    task = None if _task is None else _task()
    if task is not None and not task.done():
        for one in asyncio.all_tasks(task.get_loop()):
            yield f"Coroutine {one.get_name()}"
            yield from _written(_without_ours(list(_awaited(one.get_coro()))))
    for frames in others:
        yield "Another thread"
        yield from _written(frames)


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of what it awaits, from the outside in."""
    while coroutine is not None:
        for kind in ("cr", "gi", "ag"):
            if (frame := getattr(coroutine, f"{kind}_frame", None)) is not None:
                yield frame
            inner = getattr(coroutine, f"{kind}_await", None) or getattr(coroutine, f"{kind}_yieldfrom", None)
            if inner is not None:
                break
        coroutine = inner


def _without_ours(frames: Sequence[FrameType]) -> list[FrameType]:
    """Return those from the body on."""
    first = next((index for index, one in enumerate(frames) if not is_below_a_body(_module(one))), len(frames))
    return list(frames[first:])


def _written(frames: Iterable[FrameType]) -> Iterator[str]:
    summary = traceback.StackSummary.extract((one, one.f_lineno) for one in [*frames][-MOST_FRAMES:])
    for entry in summary.format():
        yield from entry.rstrip("\n").split("\n")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _fitting(lines: list[str], most: int) -> list[str]:
    """Return the last lines, as many as fit in so many characters of JSON."""
    left, kept = most, 0
    for line in reversed(lines):
        left -= len(json.dumps(line)) + 2
        if left < 0:
            break
        kept += 1
    return lines[len(lines) - kept :] or [line[: most // 6] for line in lines[-1:]]  # one character may become six
