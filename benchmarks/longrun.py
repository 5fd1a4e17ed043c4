"""(L) A long run at half the rate that it can bear, with PRUNE_AFTER: whether the last minute is like the second.

By minute: how late the bodies began, what table and indexes measure, the rows that are dead, memory, connections.
"""

import os
import statistics
import time
from itertools import pairwise

import psycopg

from benchmarks import drain, processes
from benchmarks.latency import TICK, percentiles

PRUNE_AFTER = "BENCH_PRUNE_AFTER"  # Seconds, for benchmarks.settings; without this variable, everything is kept.
TABLE = "django_ray_execution"
LOOK = f"""
SELECT pg_table_size('{TABLE}') / 1e6 AS table, pg_indexes_size('{TABLE}') / 1e6 AS indexes,
    (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = '{TABLE}') / 1e3 AS dead,
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections
"""
NAMES = {
    "table": "the table, MB",
    "indexes": "its indexes, MB",
    "dead": "dead rows, thousands",
    "connections": "connections",
    "supervisor": "memory (PSS) of the supervisor, MB",
    "children": "memory (PSS) of its Ray, MB",
}


def measure(system, size):
    rate = drain.measure(system, size)["tasks/s, first to last body"] / 2
    os.environ[PRUNE_AFTER] = str(size.minute_seconds)
    try:
        return _run(system, size, rate)
    finally:
        del os.environ[PRUNE_AFTER]


def _run(system, size, rate):
    system.reset()
    total = size.minutes * size.minute_seconds
    with system.warm() as workers, psycopg.connect(system.url, autocommit=True) as session:
        batches, looks = [], [_look(session, workers)]
        with system.progress.step(f"L  {size.minutes} minutes at {rate:,.0f} tasks/s", total) as tell:
            start = time.monotonic()
            for tick in range(int(total / TICK)):
                time.sleep(max(0, start + tick * TICK - time.monotonic()))
                began = time.time()
                batches.append((began, system.enqueue("bulk", max(1, round(rate * TICK)))[0]))
                tell(time.monotonic() - start)
                if time.monotonic() - start >= len(looks) * size.minute_seconds:
                    looks.append(_look(session, workers))
            seconds = time.monotonic() - start
            looks += [_look(session, workers)] * (len(looks) == size.minutes)
            every = range(batches[0][1].start, batches[-1][1].stop)
            done = system.wait(every, 60)
        return {
            "tasks/s, enqueued": len(every) / seconds,
            "not begun after 60 s": len(every) - len(done),
            **_lateness(system, batches, size.minute_seconds),
            **_course(looks),
        }


def _look(session, workers):
    with session.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        row = {name: float(figure) for name, figure in cursor.execute(LOOK).fetchone().items()}
    return row | {"supervisor": processes.pss(workers.roots), "children": processes.pss(workers.children)}


def _lateness(system, batches, minute):
    """Return p99 of the second and of the last minute, and of the worst one."""
    of = {}
    for began, numbers in batches:
        late = [moment - began for number in numbers if (moment := system.marks.at(number))]
        of.setdefault(int((began - batches[0][0]) / minute), []).extend(late)
    worst = [percentiles(late)["p99, ms"] for late in of.values() if len(late) >= 100]
    second, last = worst[min(1, len(worst) - 1)], worst[-1]
    return {
        "p99 of the second minute, ms": second,
        "p99 of the last minute, ms": last,
        "p99, last / second minute": last / second,
        "p99 of the worst minute, ms": max(worst),
    }


def _course(looks):
    """Return each figure of the second minute, the highest and the last, and its growth in the second half."""
    figures = {}
    for key, name in NAMES.items():
        course = [look[key] for look in looks[1:]]
        half = course[len(course) // 2 :]
        figures |= {
            f"{name}: after two minutes": course[min(1, len(course) - 1)],
            f"{name}: most": max(course),
            f"{name}: last": course[-1],
            f"{name}: growth by minute, second half": statistics.median(b - a for a, b in pairwise(half))
            if half[1:]
            else 0,
        }
    return figures
