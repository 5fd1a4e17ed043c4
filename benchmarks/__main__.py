"""`make bench`: every part in one run, on the embedded PostgreSQL or that of DATABASE_URL; one table, and JSON.

Machines are noisy: compare the figures of one run with each other, not those of two runs.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import doorbell, drain, enqueue, history, idle, latency, marks, mixed, table
from benchmarks.progress import Progress
from benchmarks.server import Server
from benchmarks.system import System

PARTS = {
    "A": enqueue.measure,
    "B": drain.measure,
    "C": latency.idle,
    "D": idle.measure,
    "E": doorbell.measure,
    "F": history.measure,
    "G": latency.loaded,
    "H": mixed.even,
    "M": mixed.mixed,
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    single: int = 3_000
    bulk: int = 20_000
    drain: int = 20_000
    rounds: int = 3
    samples: int = 200
    idle_seconds: float = 60.0
    counted: int = 20_000
    turns: int = 3
    turn_seconds: int = 3
    history: int = 1_000_000
    load_seconds: float = 10.0
    even: int = 10_000
    short: int = 5_000


QUICK = Size(
    single=100, bulk=500, drain=500, rounds=1, samples=10, idle_seconds=5.0, counted=500, turns=1, turn_seconds=1,
    history=10_000, load_seconds=2.0, even=100, short=500,
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--parts", default="".join(PARTS), help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a short form of each, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    progress = Progress()
    with tempfile.NamedTemporaryFile(prefix="django-ray-marks-") as file:
        marks.create(file.name)
        server = Server()
        title = f"PostgreSQL {server.version}, {table.machine()}"
        progress.say(title)
        try:
            figures = _ours(server, progress, options.parts, QUICK if options.quick else Size())
        finally:
            server.close()
    table.show(title, {"django-ray": figures}, {})
    if options.json:
        options.json.write_text(json.dumps({"django-ray": figures}, indent=2))


def _ours(server, progress, parts, size):
    system = System("ours", server, progress)
    try:
        return {part: PARTS[part](system, size) for part in parts}
    finally:
        system.close()


if __name__ == "__main__":
    sys.exit(main())
