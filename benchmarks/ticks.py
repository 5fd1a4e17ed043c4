"""(T) From the tick of a schedule to its enqueue and to the first line of its body; one a second, else idle."""

import time

from benchmarks.latency import percentiles


def measure(system, size):
    system.reset()
    with system.warm():
        numbers = system.numbers(size.ticks)
        system.ask("schedule", numbers.start, numbers.stop)
        with system.progress.step(f"T  {size.ticks} ticks of a second", size.ticks) as tell:
            system.wait(numbers, size.ticks + 30, tell)
            time.sleep(0.5)
            enqueued, begun = system.ask("ticks", numbers.start, numbers.stop)
    figures = {f"{name}, to the first line of the body": figure for name, figure in percentiles(begun).items()}
    return figures | {f"{name}, to the enqueue": figure for name, figure in percentiles(enqueued).items()}
