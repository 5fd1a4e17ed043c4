"""What processes cost, from /proc: CPU seconds and memory of a tree, and of the PostgreSQL server if it runs here."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class Process(NamedTuple):
    pid: int
    parent: int
    own: float  # Seconds of CPU.
    reaped: float  # Of its children that have ended: what a tree has used never shrinks.


def tree(*roots):
    """Return the processes of these trees."""
    everybody = {process.pid: process for process in map(_read, _pids()) if process}
    children = {}
    for process in everybody.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, waiting = [], [pid for pid in roots if pid in everybody]
    while waiting:
        pid = waiting.pop()
        found.append(everybody[pid])
        waiting += children.get(pid, [])
    return found


def cpu(*roots):
    """Return the CPU seconds of these trees, ended processes included."""
    return sum(process.own + process.reaped for process in tree(*roots))


def own_cpu(*pids):
    """Return the CPU seconds of these processes without their children."""
    return sum(process.own for process in map(_read, pids) if process)


def pss(pids):
    """Return the proportional share of memory of these processes, in MB."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1000


def command(pid):
    """Return the command line, empty for a process that has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def parent(pid):
    """Return the parent, None when there is no such process here."""
    process = _read(pid)
    return process and process.parent


def _pids():
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]  # noqa: PTH208 - names are enough


def _read(pid):
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    user, system, reaped_user, reaped_system = (int(field) / TICKS for field in fields[11:15])
    return Process(pid, int(fields[1]), user + system, reaped_user + reaped_system)
