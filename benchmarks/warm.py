"""(W) Workers that stay, and batches: beside a bare Ray actor, and with a small model on the CPU.

The actor takes the same calls from a process that does nothing else: no rows, no results, no retries. Rates are of what
begins after the first batch, until the last one begins; all of it is enqueued before.
"""

from benchmarks.latency import percentiles

BATCH = 64
BATCH_SECONDS = (0.005, 0.05)  # That a body takes for all of its batch.
LONGEST = 120.0
MODELS = {
    "built by each call, in two slots": "model, built",
    "one replica": "model, warm",
    f"one replica, batch={BATCH}": "model, batch",
}


def measure(system, size):
    system.reset()
    alone, batches = system.numbers(size.samples), system.numbers(size.batched)
    with system.progress.step("W  a bare actor"):
        bare = system.ask("bare_actor", alone.start, alone.stop, batches.start, batches.stop, BATCH)
    figures = {}
    with system.warm() as workers:
        _start(system, workers, "warm")
        with system.progress.step(f"W  {size.samples} samples of latency"):
            numbers = system.numbers(size.samples)
            latencies = system.ask("samples_of_kind", "warm", numbers.start, numbers.stop, 0.05, 0.25)
        for who, found in (("a lone call", latencies), ("a call of a bare actor", bare["latencies"])):
            figures |= {f"{who}: {name}": figure for name, figure in percentiles(found).items() if "p99" not in name}
        for seconds, direct in zip(BATCH_SECONDS, bare["rates"], strict=True):
            kind = f"batch of {seconds:g} s"
            _start(system, workers, kind)
            rate = _rate(system, kind, size.batched)
            figures[f"bodies of {1000 * seconds:g} ms for each batch of {BATCH}: calls/s"] = rate
            figures[f"the same by a bare actor, {1000 * seconds:g} ms: calls/s"] = direct
            figures[f"of its rate, {1000 * seconds:g} ms"] = rate / direct
        for name, kind in MODELS.items():
            _start(system, workers, kind)
            count = size.modelled // 10 if kind == "model, built" else size.modelled
            figures[f"a model, {name}: calls/s"] = _rate(system, kind, count)
    return figures


def _start(system, workers, kind):
    """Let one run before, so that what stays is there."""
    numbers = system.numbers(1)
    system.ask("of_kind", kind, numbers.start, numbers.stop)
    system.wait_for_first(numbers, workers)


def _rate(system, kind, count):
    numbers = system.numbers(count)
    with system.progress.step(f"W  {count:,} of {kind}", count) as advance:
        system.ask("of_kind", kind, numbers.start, numbers.stop)
        done = system.wait(numbers, LONGEST, advance)
    if len(done) < count:
        system.progress.say(f"   cut off after {len(done):,}")
    return rate_of(done, BATCH if "batch" in kind else 1)


def rate_of(times, first):
    """Return how many of these began in a second, after the first ones."""
    ordered = sorted(times)
    return (len(ordered) - first) / (ordered[-1] - ordered[first - 1])
