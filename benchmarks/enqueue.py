"""(A) Enqueueing: one by one, each in a transaction of its own, and in bulk. Nobody works meanwhile."""


def measure(system, size):
    system.reset()
    figures = {}
    system.enqueue("one_by_one", 10)
    for how, label, count in (("one_by_one", "one by one", size.single), ("bulk", f"{size.bulk:,} in bulk", size.bulk)):
        with system.progress.step(f"A  {system.name}: enqueueing {count:,}, {how.replace('_', ' ')}"):
            _, cost = system.enqueue(how, count)
        figures[f"{label}: tasks/s"] = count / cost["wall"]
        figures[f"{label}: client CPU, ms per task"] = cost["cpu"] / count * 1000
    return figures
