"""`make bench`: every part in one run, on the embedded PostgreSQL or that of DATABASE_URL; one table, and JSON.

With --peers, parts A to D also for other task queues, each in turn with ours, and the ratios.
Machines are noisy: compare the figures of one run with each other, not those of two runs.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import (
    chains,
    doorbell,
    drain,
    enqueue,
    environments,
    footprint,
    history,
    idle,
    latency,
    longrun,
    marks,
    mixed,
    pages,
    start,
    table,
    ticks,
    warm,
    wayback,
)
from benchmarks.peers import PEERS
from benchmarks.progress import Progress
from benchmarks.server import Server
from benchmarks.system import System

COMPARED = {"A": enqueue.measure, "B": drain.measure, "C": latency.idle, "D": idle.measure}
PARTS = COMPARED | {
    "E": doorbell.measure,
    "F": history.measure,
    "G": latency.loaded,
    "H": mixed.even,
    "K": footprint.measure,
    "L": longrun.measure,
    "M": mixed.mixed,
    "N": chains.measure,
    "P": pages.measure,
    "R": wayback.measure,
    "S": start.measure,
    "T": ticks.measure,
    "W": warm.measure,
}
LONG = "L"  # Only when asked for.


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    single: int = 3_000
    bulk: int = 20_000
    drain: int = 20_000
    rounds: int = 3
    samples: int = 200
    ticks: int = 60
    idle_seconds: float = 60.0
    counted: int = 20_000
    turns: int = 3
    turn_seconds: int = 3
    history: int = 1_000_000
    load_seconds: float = 10.0
    even_seconds: float = 40.0
    short: int = 5_000
    fan_in: int = 10_000
    batched: int = 20_000
    modelled: int = 2_000
    footprint: int = 5_000
    edits: int = 5
    minutes: int = 15
    minute_seconds: float = 60.0


QUICK = Size(
    single=100, bulk=500, drain=500, rounds=1, samples=10, idle_seconds=5.0, counted=500, turns=1, turn_seconds=1,
    ticks=3, history=10_000, load_seconds=2.0, even_seconds=1.0, footprint=500, short=500, fan_in=200, edits=1,
    batched=500, modelled=100, minutes=3, minute_seconds=2.0,
)  # fmt: skip


ENDING = (signal.SIGINT, signal.SIGTERM)


def main():
    for number in ENDING:
        signal.signal(number, _interrupt)
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--parts", default="".join(PARTS).replace(LONG, ""), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help=f"compare with {', '.join(PEERS)} (default: all)")
    parser.add_argument("--minutes", type=int, help=f"of part L (default: {Size.minutes})")
    parser.add_argument("--quick", action="store_true", help="a short form of each, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(prefix="django-ray-marks-") as file:
        marks.create(file.name)
        size = QUICK if options.quick else Size()
        size = replace(size, minutes=options.minutes or size.minutes)
        if options.peers is not None:
            # Ours is measured again beside each peer.
            size = replace(size, rounds=1, samples=min(size.samples, 100))
        bench = Bench(Server(), size)
        title = f"PostgreSQL {bench.server.version}, {table.machine()}, load {table.load()}"
        bench.progress.say(title)
        try:
            if options.peers is None:
                bench.run("ours", options.parts)
            else:
                bench.compare(options.peers or PEERS, "".join(part for part in options.parts if part in COMPARED))
        except KeyboardInterrupt:
            bench.progress.say("\nInterrupted: everything that was started has ended.")
            return 130
        finally:
            bench.server.close()
    table.show(f"{title} to {table.load()}", *bench.columns(), bench.failures)
    if options.json:
        told = {"title": title, "figures": bench.figures, "ratios": bench.ratios, "failures": bench.failures}
        options.json.write_text(json.dumps(told, indent=2))
    return 1 if bench.failures else 0


def _interrupt(*_):
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # once: what was started is being ended
    raise KeyboardInterrupt


class Bench:
    """One run of it; what fails is told and does not end the others."""

    def __init__(self, server, size):
        self.server = server
        self.size = size
        self.progress = Progress()
        self.figures = {}  # By system, part and name.
        self.ratios = {}  # Ours / the peer's, in its turn: by peer, part and name.
        self.failures = []

    def run(self, name, parts, python=sys.executable):
        """Measure one system; return its figures, which are kept as well."""
        figures = {}
        system = System(name, self.server, self.progress, python)
        for part in parts:
            try:
                figures[part] = PARTS[part](system, self.size)
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                self.failures.append(f"{part} of {name}: {type(error).__name__}: {error}")
            finally:
                system.close()
        self.figures.setdefault(name, []).append(figures)
        return figures

    def compare(self, names, parts):
        """For each peer and part, measure ours and then the peer. Who cannot run here is told of first."""
        lacking = {name: sentence for name in names if (sentence := environments.lacking(name))}
        for sentence in lacking.values():
            self.progress.say(sentence)
        for name in names:
            if name in lacking:
                continue
            try:
                with self.progress.step(f"Installing {name}"):
                    python = environments.python_of(name)
            except subprocess.CalledProcessError as error:
                self.failures.append(f"{name} cannot be installed: {error.stderr.strip()}")
                continue
            self.ratios[name] = {}
            for part in parts:
                ours, theirs = self.run("ours", part).get(part, {}), self.run(name, part, python).get(part, {})
                self.ratios[name][part] = {
                    what: figure / theirs[what] for what, figure in ours.items() if theirs.get(what)
                }

    def columns(self):
        """Return the figures by system, part and name, the median where there are several; and the ratios."""
        columns = {}
        for system, runs in self.figures.items():
            found = {}
            for figures in runs:
                for part, of in figures.items():
                    for name, figure in of.items():
                        found.setdefault(part, {}).setdefault(name, []).append(figure)
            columns[system] = {
                part: {name: statistics.median(all_of) for name, all_of in of.items()} for part, of in found.items()
            }
        return columns, self.ratios


if __name__ == "__main__":
    sys.exit(main())
