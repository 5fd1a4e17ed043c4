"""(H) Tasks of 5, 50 and 500 ms, and (M) short ones with a long one now and then: how near to the ideal of two CPUs.

Bodies sleep, so that a busy machine does not lengthen them. Times are from the first body to the last outcome.
"""

import statistics
import time

import psycopg

from benchmarks.system import START_SECONDS

CPUS = 2
LENGTHS = (0.005, 0.05, 0.5)  # Seconds.
LONG = 2.0
INSERT = """
INSERT INTO django_ray_execution (callable_path, args)
SELECT path, jsonb_build_array(%s::int + place - 1, seconds)
FROM unnest(%s::text[], %s::float8[]) WITH ORDINALITY AS task(path, seconds, place)
"""
OUTCOMES = """
SELECT (args->>0)::int, extract(epoch FROM last_attempted_at)::float8, extract(epoch FROM finished_at)::float8
FROM django_ray_execution WHERE state = 'SUCCESSFUL' AND (args->>0)::int >= %s
"""
SLEEP, SLEEP_TOO = "benchmarks.tasks.mark_and_sleep", "benchmarks.tasks.mark_and_sleep_too"


def even(system, size):
    figures = {}
    for length in LENGTHS:
        count = round(size.even_seconds * CPUS / length)
        ideal, label = count * length / CPUS, f"{length * 1000:g} ms"
        text = f"H  {count:,} tasks of {label}, ideally {ideal:.0f} s"
        _, seconds = _run(system, [(SLEEP, length)] * count, text, ideal)
        figures |= {f"{label}: s": seconds, f"{label}: efficiency, ideal / s": ideal / seconds}
    return figures


def mixed(system, size):
    """Short and long tasks that are two functions, as they mostly are; then one, so that nothing tells them apart."""
    figures = {}
    for label, long in (("two functions", SLEEP_TOO), ("one function", SLEEP)):
        places = range(size.short + size.short // 100)
        tasks = [(long, LONG) if place % 101 == 50 else (SLEEP, 0.0) for place in places]
        longs = size.short // 100
        ideal = longs * LONG / CPUS
        text = f"M  {size.short:,} short tasks and {longs} of {LONG:.0f} s, {label}, ideally {ideal:.0f} s"
        outcomes, seconds = _run(system, tasks, text, ideal)
        figures |= {f"{label}: s": seconds, f"{label}: s / ideal": seconds / ideal}
        short = [outcome for outcome, (_, length) in zip(outcomes, tasks, strict=True) if not length]
        for start, waits in (
            ("body", [finished - begun for begun, _, finished in short]),
            ("claim", [finished - claimed for _, claimed, finished in short]),
        ):
            figures[f"{label}: short tasks, {start} to outcome, p95 ms"] = statistics.quantiles(waits, n=20)[-1] * 1000
            figures[f"{label}: short tasks, {start} to outcome, max ms"] = max(waits) * 1000
    return figures


def _run(system, tasks, text, ideal):
    """Return begin, claim and outcome of each task, and the seconds from the first begin to the last outcome."""
    system.reset()
    numbers = system.numbers(len(tasks))
    with psycopg.connect(system.url, autocommit=True) as session:
        session.execute(INSERT, [numbers.start, [path for path, _ in tasks], [length for _, length in tasks]])
        with system.working() as workers:
            system.wait_for_first(numbers, workers)
            with system.progress.step(text, len(numbers)) as advance:
                system.wait(numbers, START_SECONDS + 5 * ideal, advance)
                deadline = time.monotonic() + START_SECONDS
                while len(found := session.execute(OUTCOMES, [numbers.start]).fetchall()) < len(numbers):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{len(numbers) - len(found)} tasks have not ended")
                    time.sleep(0.5)
    outcomes = [(system.marks.at(number), claimed, finished) for number, claimed, finished in sorted(found)]
    return outcomes, max(finished for *_, finished in outcomes) - min(begun for begun, *_ in outcomes)
