"""(N) Flows: from the end of a step of a chain to the first line of the next, idle; and a fan-in."""

from benchmarks.latency import percentiles


def measure(system, size):
    system.reset()
    with system.warm():
        numbers = system.numbers(size.samples)
        with system.progress.step(f"N  a chain of {size.samples} steps"):
            steps = system.ask("chain", numbers.start, numbers.stop, 0.05, 0.25)
        figures = {f"a step of a chain: {name}": figure for name, figure in percentiles(steps).items()}
        with system.progress.step(f"N  {size.samples} samples of latency"):
            numbers = system.numbers(size.samples)
            found = system.ask("samples", numbers.start, numbers.stop, 0.05, 0.25)
        figures["an enqueue, for comparison: p50, ms"] = percentiles(found)["p50, ms"]
        with system.progress.step(f"N  a fan-in of {size.fan_in:,}"):
            numbers = system.numbers(size.fan_in + 1)
            fan = system.ask("fan_in", numbers.start, numbers.stop)
    figures["enqueueing it: tasks/s"] = size.fan_in / fan["enqueued"]
    figures["from its enqueue to the body that has all results: tasks/s"] = size.fan_in / fan["ended"]
    return figures
