"""(F) Does it matter what else lies in the table? Claims and a drain, on an empty table and beside a long history."""

import statistics
import time

import psycopg
from psycopg import Rollback

from benchmarks.drain import LONGEST

FINISHED = """
INSERT INTO django_ray_execution
    (callable_path, args, state, attempt_number, worker_ids, result,
     enqueued_at, started_at, last_attempted_at, finished_at)
SELECT 'benchmarks.tasks.mark', '[1]', 'SUCCESSFUL', 1, '["1"]', '1', moment, moment, moment, moment
FROM generate_series(1, %s) AS number, LATERAL (SELECT now() - number * interval '1 s') AS past(moment)
"""
SCHEDULED = """
INSERT INTO django_ray_execution (callable_path, args, run_after, due_at)
SELECT 'benchmarks.tasks.mark', '[1]', moment, moment
FROM generate_series(1, %s) AS number,
    LATERAL (SELECT now() + interval '7 days' + number * interval '1 s') AS future(moment)
"""
LIMITS = (2, 250)
TRIES = 100


def measure(system, size):
    system.reset()
    with psycopg.connect(system.url, autocommit=True) as session:
        empty = _measure(system, session, size, "the empty table")
        for what, statement in (("finished", FINISHED), ("scheduled", SCHEDULED)):
            with system.progress.step(f"F  making {size.history:,} {what} rows"):
                for _ in range(10):
                    session.execute(statement, [size.history // 10])
        with system.progress.step("F  VACUUM ANALYZE"):
            session.execute("VACUUM ANALYZE django_ray_execution")
            session.execute("CHECKPOINT")
        full = _measure(system, session, size, f"2 x {size.history:,} rows beside the queue")
    figures = {}
    for name, figure in empty.items():
        figures[f"{name}, empty"], figures[f"{name}, full"] = figure, full[name]
        figures[f"{name}, full / empty"] = full[name] / figure
    return figures


def _measure(system, session, size, where):
    with system.progress.step(f"F  enqueueing {size.drain:,} beside {where}"):
        numbers, _ = system.enqueue("bulk", size.drain)
    figures = {}
    for limit in LIMITS:
        with system.progress.step(f"F  {TRIES} claims of {limit}, {where}"):
            figures[f"claim of {limit}: ms"] = _claim(session, limit) * 1000
    with system.working() as workers:
        system.wait_for_first(numbers, workers)
        with system.progress.step(f"F  draining {size.drain:,}, {where}", size.drain) as advance:
            times = system.wait(numbers, LONGEST, advance)
            time.sleep(1)
    figures["drain: tasks/s"] = (len(times) - 1) / (times[-1] - times[0])
    return figures


def _claim(session, limit):
    """Return the median seconds of the supervisor's own claim, each rolled back."""
    from django_ray_worker.database.statements import SQL, claim_parameters

    parameters = {"backend": "default", "queues": ["default"], **claim_parameters(1, limit)}
    session.execute(SQL["session_settings"])
    seconds = []
    for _ in range(TRIES):
        with session.transaction():
            began = time.perf_counter()
            claimed = session.execute(SQL["claim"], parameters).fetchall()
            seconds.append(time.perf_counter() - began)
            assert len(claimed) == limit
            raise Rollback
    return statistics.median(seconds)
