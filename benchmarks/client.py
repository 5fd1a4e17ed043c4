"""The enqueuing side of a system, in a process of its own: commands come as lines of JSON, answers go out as lines.

Every system is measured through this, ours included. Only the standard library: the peers' environments import it.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from functools import partial

from benchmarks.marks import opened

PATIENCE = 60.0


def serve(system):
    """Answer until the other end closes; system is a module of peers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        _answer_all(system)
    finally:
        if hasattr(system, "close"):
            system.close()


def _answer_all(system):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed must not come between
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        match name:
            case "prepare":
                answer = system.prepare() or {}
            case "one_by_one":
                answer = _timed(system.one_by_one, *arguments)
            case "bulk":
                answer = _timed(system.bulk, *arguments)
            case "samples":
                answer = _samples(system.one_by_one, *arguments)
            case "samples_of_kind":
                kind, *rest = arguments
                answer = _samples(partial(system.of_kind, kind), *rest)
            case "of_kind":
                answer = _timed(system.of_kind, *arguments)
            case "chain" | "fan_in" | "way_back" | "waiters" | "worker" | "schedule" | "ticks" | "pages" | "bare_actor":
                answer = getattr(system, name)(*arguments)
            case "statements":
                answer = system.statements() if hasattr(system, "statements") else None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _timed(enqueue, *arguments):
    *kind, start, stop = arguments
    wall, cpu = time.perf_counter(), time.process_time()
    enqueue(*kind, range(start, stop))
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _samples(enqueue, start, stop, shortest, longest):
    """Enqueue one at a time, at random moments, each when the one before has begun; return the latencies."""
    marks, latencies = opened(), []
    for number in range(start, stop):
        time.sleep(random.uniform(shortest, longest))
        began = time.time()
        enqueue(range(number, number + 1))
        while not marks.at(number):
            if time.time() - began > PATIENCE:
                raise TimeoutError(f"task {number} did not begin within {PATIENCE} s")
            time.sleep(0.002)
        latencies.append(marks.at(number) - began)
    return latencies


if __name__ == "__main__":
    serve(importlib.import_module(f"benchmarks.peers.{sys.argv[1]}"))
