"""What can happen to the processes of one supervisor, and which they are.

A supervisor that started a Ray of its own is the parent of a raylet and a gcs_server; the raylet is the parent of the
Ray workers. Each function returns what it hit, so that a log can tell; None or an empty list is nobody there.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.supervisors import Listen

__all__ = [
    "end_leftovers",
    "folders",
    "freeze",
    "gcs_servers",
    "kill_ray_worker",
    "kill_ray_workers",
    "kill_raylet",
    "kill_supervisor",
    "named",
    "processes",
    "ray_workers",
    "raylets",
    "remove_folders",
    "runs",
    "thaw",
]

# That the processes of a dead supervisor's Ray get to notice it: meanwhile they may still work, as in real life.
ORPHAN_SECONDS = 5
_TEMP_DIR = ("--temp_dir=", "--temp-dir=")


def processes(listen: Listen) -> list[psutil.Process]:
    """Return every process that descends from the supervisor, without itself."""
    try:
        return psutil.Process(listen.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def ray_workers(listen: Listen) -> list[psutil.Process]:
    """Return its Ray workers, those first that run a task; Ray's agents are none."""
    workers = _named(listen, lambda title: title.startswith("ray::") and not title.endswith("Agent"))
    return sorted(workers, key=lambda worker: _title(worker) == "ray::IDLE")


def named(listen: Listen, name: str) -> list[psutil.Process]:
    """Return its processes of that program."""
    return _named(listen, lambda title: title.endswith(f"/{name}"))


def raylets(listen: Listen) -> list[psutil.Process]:
    return named(listen, "raylet")


def gcs_servers(listen: Listen) -> list[psutil.Process]:
    return named(listen, "gcs_server")


def kill_ray_worker(listen: Listen, choose: random.Random | None = None) -> psutil.Process | None:
    """SIGKILL one of its Ray workers, one that runs a task if there is any."""
    workers = ray_workers(listen)
    busy = [worker for worker in workers if _title(worker) not in {"ray::IDLE", ""}]
    return _kill_one(busy or workers, choose)


def kill_ray_workers(listen: Listen) -> list[psutil.Process]:
    """SIGKILL all its Ray workers, so that those that come have to set themselves up."""
    workers = ray_workers(listen)
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    return workers


def kill_raylet(listen: Listen, choose: random.Random | None = None) -> psutil.Process | None:
    """SIGKILL its raylet: the supervisor lives on without its Ray."""
    return _kill_one(raylets(listen), choose)


def freeze(listen: Listen) -> None:
    """Stop the supervisor where it stands; its Ray goes on, and its connections stay open."""
    listen.signal(signal.SIGSTOP)


def thaw(listen: Listen) -> None:
    """Let a frozen supervisor go on."""
    listen.signal(signal.SIGCONT)


def kill_supervisor(listen: Listen) -> list[psutil.Process]:
    """SIGKILL the supervisor, and see its Ray out; return what had to be killed because it would not end by itself."""
    children = processes(listen)
    folders = _folders(children)
    listen.process.kill()
    listen.process.wait()
    left = end_leftovers(children, ORPHAN_SECONDS)
    remove_folders(folders)
    return left


def end_leftovers(children: Iterable[psutil.Process], patience: float = 0) -> list[psutil.Process]:
    """Wait so many seconds for the processes to end, then SIGKILL those that are left, and return them."""
    left = _wait(list(children), patience)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(left, ORPHAN_SECONDS)
    return left


def remove_folders(folders: Iterable[Path]) -> None:
    """Delete what a Ray leaves behind that could not end properly."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _kill_one(found: list[psutil.Process], choose: random.Random | None) -> psutil.Process | None:
    if not found:
        return None
    process = (choose or random).choice(found)
    with suppress(psutil.NoSuchProcess):
        process.kill()
    return process


def _named(listen: Listen, fits: Callable[[str], bool]) -> list[psutil.Process]:
    return [process for process in processes(listen) if fits(_title(process))]


def _wait(children: list[psutil.Process], patience: float) -> list[psutil.Process]:
    """Return those that still run after so many seconds; who has ended may wait long for its parent to take note."""
    deadline = time.monotonic() + patience
    while (left := [process for process in children if runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def runs(process: psutil.Process) -> bool:
    """Tell whether the process still does something; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _title(process: psutil.Process) -> str:
    """Return what the process calls itself; empty when it is gone, or only waits to be forgotten."""
    words = _words(process)
    return words[0] if words else ""


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def folders(listen: Listen) -> set[Path]:
    """Return the temporary folder of its Ray, as long as that lives."""
    return _folders(processes(listen))


def _folders(children: Iterable[psutil.Process]) -> set[Path]:
    """Return the temporary folders of the Rays among the processes."""
    return {
        Path(word.partition("=")[2])
        for process in children
        if _title(process).endswith("/raylet")
        for word in _words(process)
        if word.startswith(_TEMP_DIR)
    }
