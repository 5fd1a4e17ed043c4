"""What a Ray worker runs right now, where other processes of its host can read it: also when no code here can run.

A body in C that never returns to Python hears no interrupt, and Ray's own kill does not reach it either. Who has to
end it must know its process, and since when it runs. So each body is marked while it runs, in memory that has no name
in the file system and ends with the process. Linux alone has that: elsewhere nothing is marked and nothing found.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "DUMP", "PROCESSES", "WAKE", "Attempt", "Running", "alive", "files", "install", "interrupt", "kill",
    "marked", "marked_processes", "marks", "pid_of", "read", "running", "running_on", "was_asked",
]  # fmt: skip

type Attempt = tuple[str, int]  # task_id and attempt number.
# For how many seconds its body has been running, and how many have passed since it gave a sign of life.
type Running = tuple[float, float]

PROCESSES = Path("/proc")
# Wakes a process that runs bodies: nothing else uses it, and unlike SIGINT it is not blocked in a Ray worker.
WAKE = signal.SIGURG
# Has Python's faulthandler write the stack, where snapshot.py has asked for that; Python itself knows of no handler.
DUMP: int = getattr(signal, "SIGRTMIN", 0) + 9
_NAME = "django-ray-mark"
# The process, because a child that a body forks has the same memory; the attempt; when it began, by the host's clock;
# and its last sign of life, which is written alone, in one piece, where it stands.
_LAYOUT = struct.Struct("=I36sId4xd")
_ASKED_AT = _LAYOUT.size  # One byte more, which others write: whether the body is asked to end.
_SIGN = struct.Struct("@d")
_SIGN_AT = _LAYOUT.size - _SIGN.size


class _Mark(NamedTuple):
    attempt: Attempt
    began: float
    sign: float


_memory: mmap.mmap | None = None


@cache
def install(job: str = "", node: str = "") -> None:
    """Once per process that runs attempts, those of a job of Ray on a node of it."""
    global _memory  # noqa: PLW0603 - of this process
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(f"{_NAME}{job}-{node}")
        os.ftruncate(descriptor, _ASKED_AT + 1)
        _memory = mmap.mmap(descriptor, _ASKED_AT + 1)  # with a descriptor of its own
        os.close(descriptor)


class marked:  # noqa: N801 - a context manager, as others are
    """Bracket a body: whoever looks finds that this process runs it. Nothing happens where install() has not run."""

    __slots__ = ("_before", "_number", "_task_id")

    def __init__(self, task_id: str, number: int) -> None:
        self._task_id, self._number = task_id, number

    def __enter__(self) -> None:
        if _memory is not None:
            self._before = _memory[:]  # of a body that runs another one in place
            now = time.monotonic()
            _memory[_ASKED_AT] = 0
            _LAYOUT.pack_into(_memory, 0, os.getpid(), self._task_id.encode(), self._number, now, now)

    def __exit__(self, *exception: object) -> None:
        if _memory is not None:
            _memory[:] = self._before


def alive(now: float) -> None:
    """Note that the body which runs has given a sign of life."""
    if _memory is not None:
        _SIGN.pack_into(_memory, _SIGN_AT, now)


def running() -> list[tuple[Attempt, Running]]:
    """Return the attempts whose bodies run on this host, and since when."""
    return [(mark.attempt, ((now := time.monotonic()) - mark.began, now - mark.sign)) for _, mark in _marks()]


def marks() -> list[tuple[Path, Attempt]]:
    """Return the attempts whose bodies run on this host, and where their marks can be read."""
    return [(path, mark.attempt) for path, mark in _marks()]


def read(path: Path) -> Attempt | None:
    """Return the attempt whose body runs now where a mark can be read; None for none."""
    mark = _read(path)
    return None if mark is None else mark.attempt


def was_asked() -> bool:
    """Tell, once, whether somebody has asked the body that runs to end."""
    if _memory is None or not _memory[_ASKED_AT]:
        return False
    _memory[_ASKED_AT] = 0
    return True


def running_on(node: str) -> list[Attempt]:
    """Return the attempts whose bodies run on this host, in processes of a node of Ray: there may be several here."""
    found: list[Attempt] = []
    for path, mark in _marks():
        with suppress(OSError):  # it has ended
            if node in str(path.readlink()):
                found.append(mark.attempt)
    return found


def kill(attempts: Sequence[Attempt]) -> bool:
    """End the processes on this host that run one of these; tell whether there was any."""
    return _meet(attempts, lambda _, pid: os.kill(pid, signal.SIGKILL))


def interrupt(attempts: Sequence[Attempt]) -> bool:
    """Ask the bodies of these to end, whose processes go on; tell whether there was any. Ray has no way to an actor."""

    def ask(path: Path, pid: int) -> None:
        with path.open("r+b", buffering=0) as file:
            file.seek(_ASKED_AT)
            file.write(b"\1")
        os.kill(pid, WAKE)

    return _meet(attempts, ask)


def _meet(attempts: Sequence[Attempt], do: Callable[[Path, int], None]) -> bool:
    """Do it to the processes on this host that run one of these, while they stand still; tell whether there was any."""
    has_met = False
    for path, mark in _marks():
        if mark.attempt not in attempts:
            continue
        with suppress(OSError):  # it has ended, or is not ours
            pid = pid_of(path)
            # It may have come to another body by now: looked at again while it stands still.
            os.kill(pid, signal.SIGSTOP)
            again = _read(path)
            is_meant = again is not None and again.attempt in attempts
            try:
                if is_meant:
                    do(path, pid)
            finally:
                os.kill(pid, signal.SIGCONT)
            has_met |= is_meant
    return has_met


def marked_processes(job: str = "") -> set[int]:
    """Return the processes on this host that run attempts, of a job or any, now or at other times."""
    return {pid_of(path) for path in _files(job)}


def _marks() -> Iterator[tuple[Path, _Mark]]:
    for path in _files():
        if (mark := _read(path)) is not None:
            yield path, mark


def _files(job: str = "") -> Iterator[Path]:
    """Return where the marks of this host's processes can be read: of those that are ours to look into."""
    for process in _ours(PROCESSES):
        if process.name.isdigit():
            yield from files(f"{_NAME}{job}", process)


def files(name: str, process: Path) -> Iterator[Path]:
    """Return where the memory of a process whose name begins so can be read."""
    for path in _ours(process / "fd"):
        with suppress(OSError):  # it has ended
            if str(path.readlink()).startswith(f"/memfd:{name}"):
                yield path


def _ours(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # it has ended, or is not ours, or there is no such thing here
        return []


def _read(path: Path) -> _Mark | None:
    try:
        with path.open("rb") as file:
            pid, task_id, number, began, sign = _LAYOUT.unpack(file.read(_LAYOUT.size))
    except (OSError, struct.error):
        return None
    return _Mark((task_id.decode(errors="replace"), number), began, sign) if pid == pid_of(path) else None


def pid_of(path: Path) -> int:
    """Return the process whose file this is."""
    return int(path.parts[2])
