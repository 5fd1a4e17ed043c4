"""The folder of a Ray that was started here: made, kept small, removed, also after a supervisor that was killed.

Ray has its sockets and logs there. Each process of that Ray, and each that a body starts, has the folder in its
environment: so all of them are found, wherever they hang in the tree of processes. As long as the supervisor lives it
holds a lock on the folder; systemd-tmpfiles heeds that, too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from django_ray.runtime.interrupt import LOCAL
from django_ray.runtime.mark import PROCESSES, marked_processes
from django_ray_worker.core.exceptions import Misconfigured

__all__ = ["Folder"]

PREFIX = "django-ray."  # Those of version 0.1.0 begin otherwise, and have no lock while they are in use.
# Of what Ray puts below it: session_<date>_<time>_<pid>/sockets/plasma_store, in the 107 bytes of a socket's path.
LONGEST_ROOT = 107 - len(f"/{PREFIX}12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
KILL_SECONDS = 5.0  # That killed processes get to be gone.
LEAVE_SECONDS = 3.0  # That Ray workers get for what is to be done at their end.
OLD_SECONDS = 60.0  # After which the log of an ended process has been read.


class Folder:
    """Of one Ray."""

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        self._lock = lock  # None where it is another process that holds it.

    @classmethod
    def make(cls) -> Self:
        """Make one that is ours; first remove those whose supervisors are dead."""
        root = Path(os.environ.get("RAY_TMPDIR") or "/tmp")  # noqa: S108 - not TMPDIR, which may be long
        if len(os.fsencode(root)) > LONGEST_ROOT:
            raise Misconfigured(
                f"RAY_TMPDIR is {str(root)!r}, which is too long for the paths of Ray's sockets: name a folder of at "
                f"most {LONGEST_ROOT} bytes."
            )
        try:
            for path in root.glob(f"{PREFIX}*"):
                _remove_left(path)
            path, lock = _make(root)
        except OSError as error:
            raise Misconfigured(
                f"No folder can be made for Ray in {str(root)!r} ({error}): name another one with RAY_TMPDIR."
            ) from error
        os.environ[LOCAL] = str(path)
        return cls(path, lock)

    def let_leave(self, job: str = "") -> None:
        """Have the Ray workers, of a job or all, do what is to be done at their end: send what they have buffered."""
        leaving = _processes(self.path) & marked_processes(job)
        for pid in leaving:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._wait_for(leaving)

    def end_orphans(self, job: str, keeper: int) -> None:
        """When the driver of a job has left: end what its bodies have left running, and Ray has lost sight of.

        It descends no more from the process that has started this Ray.
        """
        self._wait_for(_processes(self.path) & marked_processes(job))
        for pid in _processes(self.path):
            if not _descends(pid, keeper):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """End every process of this Ray, and what its bodies have left running."""
        _kill(self.path)

    def programs(self) -> set[str]:
        """Return the names of what runs."""
        return {_name(pid) for pid in _processes(self.path)}

    def tidy(self) -> None:
        """Remove the logs of processes that have ended: a fresh process for each task leaves some each time."""
        old = time.time() - OLD_SECONDS
        for log in self.path.glob("session_2*/logs/*worker-*"):
            pid = log.name.split(".", 1)[0].replace("_", "-").rpartition("-")[2]
            with suppress(OSError):
                if pid.isdigit() and log.stat().st_mtime < old and not (PROCESSES / pid).exists():
                    log.unlink()

    def remove(self) -> None:
        """Remove it, when its processes have ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def _wait_for(self, leaving: set[int]) -> None:
        deadline = time.monotonic() + LEAVE_SECONDS
        while any(_has(pid, self.path) for pid in leaving) and time.monotonic() < deadline:
            time.sleep(0.02)


def _make(root: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)  # somebody took it for left before the lock was on it


def _remove_left(path: Path) -> None:
    """Remove the folder of a supervisor that is dead, and end what is left of its Ray."""
    with suppress(OSError):  # somebody holds it, or it is not ours
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _kill(path)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _kill(path: Path) -> None:
    deadline = time.monotonic() + KILL_SECONDS
    while (left := _processes(path)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(path: Path) -> set[int]:
    """Return the processes that have the folder in their environment, without this one, which may have from before."""
    if not PROCESSES.exists():
        return set()
    found = {int(process.name) for process in PROCESSES.iterdir() if process.name.isdigit()}
    return {pid for pid in found - {os.getpid()} if _has(pid, path)}


def _has(pid: int, path: Path) -> bool:
    """Tell whether a process has the folder in its environment; one that has ended, or is not ours, has not."""
    with suppress(OSError):
        environment = (PROCESSES / str(pid) / "environ").read_bytes()
        return os.fsencode(f"{LOCAL}={path}") in environment.split(b"\0")
    return False


def _descends(pid: int, ancestor: int) -> bool:
    """Tell whether it does; also when it has ended meanwhile."""
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            # Its name may hold anything: state and parent stand behind its last bracket.
            pid = int((PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return True
    return False


def _name(pid: int) -> str:
    with suppress(OSError):
        return (PROCESSES / str(pid) / "comm").read_text().strip()
    return ""
