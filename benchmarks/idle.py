"""(D) What a system costs that has nothing to do: statements, CPU and memory; and the statements of a deep backlog."""

import time

from benchmarks import processes
from benchmarks.drain import statements_per_task

SETTLE = 10.0


def measure(system, size):
    system.reset()
    counter = system.server.count_statements(system.database)
    try:
        with system.warm() as workers:
            with system.progress.step(f"D  {system.name}: settling"):
                time.sleep(min(SETTLE, size.idle_seconds))
            asked = system.ask("statements")
            counter.restart()
            cpu, own, server, began = workers.cpu(), workers.own_cpu(), system.server_cpu(), time.monotonic()
            with system.progress.step(
                f"D  {system.name}: idle for {size.idle_seconds:.0f} s", size.idle_seconds
            ) as tell:
                while (passed := time.monotonic() - began) < size.idle_seconds:
                    tell(passed)
                    time.sleep(1)
            minutes = passed / 60
            cpu, own = workers.cpu() - cpu, workers.own_cpu() - own
            sent = counter.count() if asked is None else system.ask("statements") - asked
            unit = counter.unit if asked is None else "statements"
            figures = {
                f"{unit} per minute": sent / minutes,
                "CPU of the started process, s per minute": own / minutes,
                "CPU of its children (Ray), s per minute": (cpu - own) / minutes,
            }
            if server is not None:
                figures["CPU of the server, s per minute"] = (system.server_cpu() - server) / minutes
            figures |= {
                "memory (PSS) of the started process, MB": processes.pss(workers.roots),
                "memory (PSS) of its children (Ray), MB": processes.pss(workers.children),
                "processes": len(workers.roots) + len(workers.children),
            }
            if asked is None:
                figures[f"{unit} per task of a deep backlog"] = statements_per_task(system, counter, size.counted)
            return figures
    finally:
        counter.close()
