"""(R) The way back: from enqueue() to the value of `await result.await_result()`, and many waiters at once."""

from benchmarks.latency import percentiles

WAITERS = 500
THREADS = 50


def measure(system, size):
    system.reset()
    with system.warm():
        with system.progress.step(f"R  {size.samples} samples of the way there and back"):
            numbers = system.numbers(size.samples)
            there, back = system.ask("way_back", numbers.start, numbers.stop, 0.05, 0.25)
        figures = percentiles(back)
        figures["p50 of enqueue() to the first line of the body, ms"] = percentiles(there)["p50, ms"]
        for how, count in (("one event loop", WAITERS), ("threads", THREADS)):
            with system.progress.step(f"R  {count} waiters in {how}"):
                numbers = system.numbers(count)
                waited = system.ask("waiters", how, numbers.start, numbers.stop)
            label = f"{count} waiters in {how}"
            figures[f"{label}: all have it after the last outcome, ms"] = waited["seconds"] * 1000
            figures[f"{label}: connections"] = waited["connections"]
    return figures
