"""What a supervisor tells Prometheus: each execution as it comes and goes, and its own figures when they are scraped.

The registry is its own, so that a project that uses prometheus_client as well, with --sync, meets no name of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import override

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from django_ray_worker.showing.monitor import Figures

__all__ = ["Exposition"]

BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600,
)  # fmt: skip
OUTCOMES = ("succeeded", "failed", "retried", "cancelled", "postponed")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Exposition:
    """The tally.Observer that counts for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._attempts = Counter(
            "django_ray_attempts", "Attempts that have ended.", ("queue", "outcome"), registry=self.registry
        )
        self._waits = self._histogram("django_ray_wait_seconds", "From claimable to the first claim.")
        self._runs = self._histogram("django_ray_run_seconds", "How long bodies took.")
        self._batches = self._histogram("django_ray_batch_size", "Executions that shared a call in a lane.", SIZES)
        self._queues = set[str]()  # That the outcomes are shown of.

    def _histogram(self, name: str, what: str, buckets: Sequence[float] = BUCKETS) -> Histogram:
        return Histogram(name, what, ("queue",), buckets=buckets, registry=self.registry)

    def show(self, figures: Callable[[], Figures], obstacle: Callable[[], str]) -> None:
        """Ask these at every scrape; what cannot be told now raises TimeoutError, and is left out."""
        self.registry.register(_Supervisor(figures, obstacle))

    def waited(self, queue: str, seconds: float) -> None:
        """Take note of a first claim."""
        self._waits.labels(queue).observe(seconds)
        self._introduce(queue)

    def ran(self, queue: str, seconds: float) -> None:
        """Take note of a body."""
        self._runs.labels(queue).observe(seconds)

    def batched(self, queue: str, size: int) -> None:
        """Take note of a call in a lane."""
        self._batches.labels(queue).observe(size)

    def ended(self, queue: str, verdict: str) -> None:
        """Take note of a verdict."""
        self._introduce(queue)
        self._attempts.labels(queue, verdict).inc()

    def _introduce(self, queue: str) -> None:
        """Show all outcomes of a queue: of a counter that begins with 1, Prometheus sees no increase."""
        if queue not in self._queues:
            self._queues.add(queue)
            for outcome in OUTCOMES:
                self._attempts.labels(queue, outcome)


class _Supervisor(Collector):
    def __init__(self, figures: Callable[[], Figures], obstacle: Callable[[], str]) -> None:
        self._figures = figures
        self._obstacle = obstacle

    @override
    def collect(self) -> Iterator[Metric]:
        try:
            figures, obstacle = self._figures(), self._obstacle()
        except TimeoutError:
            return
        yield _gauge("ready", "1 when the supervisor claims, as /readyz says.", not obstacle)
        yield _gauge("slots", "Calls that may run at a time.", figures.slots)
        yield _gauge("slots_in_use", "Calls that run.", figures.busy)
        yield _gauge("held", "Executions that are here, running or waiting.", figures.held)
        own = figures.metrics
        yield _gauge("slots_wanted", "Slots that the cluster was asked for, and has not given yet.", figures.wanted)
        yield _gauge("lane_calls", "Calls that run in lanes.", figures.lane_calls)
        yield _gauge("lane_waiting", "Executions that wait there for a place, or for others.", figures.lane_waiting)
        replicas = GaugeMetricFamily("django_ray_replicas", "Replicas of a worker.", labels=("worker",))
        for worker, number in figures.replicas.items():
            replicas.add_metric((worker,), number)
        yield replicas
        yield _gauge("oldest_seconds", "The longest wait of what was claimable at the last pulse.", own.oldest)
        yield _counter("reconnects", "Listening sessions after the first.", own.reconnects)
        yield _counter("pulses_missed", "Pulses that did not come back.", own.pulses_missed)
        yield _counter("rescued", "Executions taken back from dead supervisors.", own.rescued)
        yield _counter("refused", "Outcomes that the fence refused.", own.refused)
        yield _counter("clusters_lost", "Times that Ray was gone.", own.clusters_lost)
        yield _counter("turned_away", "Executions that were cancelled at a full gate.", own.turned_away)
        yield _counter("expired", "Executions that had not begun by their time.", own.expired)
        yield _counter("ticks", "Ticks of schedules that were enqueued here.", own.ticks)
        yield _counter("ticks_skipped", "Ticks while the run before was unfinished.", own.ticks_skipped)
        yield _counter("ticks_lost", "Ticks that were missed, and not made up for.", own.ticks_lost)
        yield _gauge("tick_lag_seconds", "From the last tick that was enqueued here to its enqueue.", own.tick_lag)
        yield _gauge("schedule_problems", "Schedules with a problem, at the last pulse.", own.schedule_problems)
        if figures.prune_idle is not None:
            yield _gauge("prune_idle_seconds", "Since PRUNE_AFTER was heeded without an error.", figures.prune_idle)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"django_ray_{name}", what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"django_ray_{name}", what, value=value)
