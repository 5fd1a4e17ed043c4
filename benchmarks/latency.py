"""From the enqueue call to the first line of the body: (C) on an idle system, (G) under half the load it can bear."""

import time

from benchmarks import drain

TICK = 0.02  # Seconds between two batches under load.


def idle(system, size):
    system.reset()
    with system.warm(), system.progress.step(f"C  {system.name}: {size.samples} samples of latency"):
        numbers = system.numbers(size.samples)
        latencies = system.ask("samples", numbers.start, numbers.stop, 0.05, 0.25)
    return percentiles(latencies)


def loaded(system, size):
    """Enqueue in small batches, at half the rate of a drain just before."""
    rate = drain.measure(system, size)["tasks/s, first to last body"] / 2
    system.reset()
    batch = max(1, round(rate * TICK))
    with system.warm():
        text = f"G  {system.name}: {size.load_seconds:.0f} s at {rate:,.0f} tasks/s"
        batches = []
        with system.progress.step(text):
            start = time.monotonic()
            for tick in range(int(size.load_seconds / TICK)):
                time.sleep(max(0, start + tick * TICK - time.monotonic()))
                began = time.time()
                numbers, _ = system.enqueue("bulk", batch)
                batches.append((began, numbers))
            seconds = time.monotonic() - start
            every = range(batches[0][1].start, batches[-1][1].stop)
            done = system.wait(every, 60)
        latencies = [
            moment - began for began, numbers in batches for number in numbers if (moment := system.marks.at(number))
        ]
    return {"tasks/s, enqueued": len(every) / seconds, "not begun after 60 s": len(every) - len(done)} | percentiles(
        latencies
    )


def percentiles(latencies):
    """Return p50, p95 and p99 of seconds, in ms."""
    ordered = sorted(latencies)
    return {
        f"p{share}, ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1000 for share in (50, 95, 99)
    }
