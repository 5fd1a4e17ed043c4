"""(B) Draining a backlog of no-op tasks, from the first body to the last; and the statements that it takes.

The tasks are enqueued before the workers start, so that no system gets a head start. What takes too long is cut off,
and the rate is that of the tasks done by then.
"""

import statistics
import time

LONGEST = 60.0
SETTLE = 0.5  # For the last outcomes to be written.


def measure(system, size):
    rounds = [_round(system, size.drain) for _ in range(size.rounds)]
    return {
        name: statistics.median(figures[name] for figures in rounds if figures[name] is not None)
        for name in rounds[0]
        if rounds[0][name] is not None
    }


def _round(system, count):
    system.reset()
    with system.progress.step(f"B  {system.name}: enqueueing {count:,}"):
        numbers, _ = system.enqueue("bulk", count)
    with system.working() as workers:
        with system.progress.step(f"B  {system.name}: starting"):
            system.wait_for_first(numbers, workers)
        with system.progress.step(f"B  {system.name}: draining {count:,}", count) as advance:
            cpu, own, server = workers.cpu(), workers.own_cpu(), system.server_cpu()
            times = system.wait(numbers, LONGEST, advance)
            time.sleep(SETTLE)
        done = len(times)
        quarter, middle = done // 4, done // 2
        seconds = times[quarter + middle - 1] - times[quarter]
        figures = {
            "tasks/s, first to last body": (done - 1) / (times[-1] - times[0]),
            "tasks/s, the middle half": (middle - 1) / seconds if seconds else None,
            "worker CPU, ms per task": (workers.cpu() - cpu) / done * 1000,
            "of it the started process, ms per task": (workers.own_cpu() - own) / done * 1000,
            "server CPU, ms per task": None if server is None else (system.server_cpu() - server) / done * 1000,
        }
        if done < count:
            system.progress.say(f"   cut off after {done:,}")
    return figures


def statements_per_task(system, counter, count):
    """Drain once more, counting what the workers send; they are running."""
    # The client's session was there before the counting: what it sends is not in the count.
    counter.restart()
    with system.progress.step(f"D  {system.name}: draining {count:,}, counting {counter.unit}", count) as advance:
        numbers, _ = system.enqueue("bulk", count)
        done = len(system.wait(numbers, LONGEST, advance))
        time.sleep(SETTLE)
    return counter.count() / done
