"""The enqueuing side of a system, in a process of its own: commands come as lines of JSON, answers go out as lines.

Every system is measured through this, ours included. Only the standard library: the environments of the peers import it.
"""

import json
import os
import random
import sys
import time

from benchmarks.marks import opened

PATIENCE = 60.0


def serve(*, prepare, one_by_one, bulk, worker, statements=None):
    """Answer until the other end closes.

    prepare() makes the tables and may return {"server": pid} of a server that is not PostgreSQL; one_by_one(numbers) and
    bulk(numbers) enqueue a task for each number; worker() returns the commands of the worker processes and what
    to add to their environment; statements() counts what a server other than PostgreSQL has been sent.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed must not come between
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        match name:
            case "prepare":
                answer = prepare() or {}
            case "one_by_one":
                answer = _timed(one_by_one, *arguments)
            case "bulk":
                answer = _timed(bulk, *arguments)
            case "samples":
                answer = _samples(one_by_one, *arguments)
            case "worker":
                answer = worker()
            case "statements":
                answer = statements() if statements else None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _timed(enqueue, start, stop):
    wall, cpu = time.perf_counter(), time.process_time()
    enqueue(range(start, stop))
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
