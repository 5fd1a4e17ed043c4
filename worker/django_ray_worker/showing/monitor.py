"""What of a supervisor is shown to whoever asks: whether it is ready, and its figures. Knows no HTTP and no Prometheus.

Read in the event loop alone, where nothing changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import current_time

from django_ray_worker.core.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray_worker.recording.tally import Observer
    from django_ray_worker.running.dispatcher import Dispatcher
    from django_ray_worker.running.executor import Executor
    from django_ray_worker.stop import Stop
    from django_ray_worker.waking.listener import Session

__all__ = ["Figures", "Monitor"]


AILING_SECONDS = 600.0  # Without a session.


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one moment."""

    metrics: Metrics
    slots: int = 0
    busy: int = 0  # Slots that are taken.
    held: int = 0  # Executions that are here: running, waiting for a slot or for a node.
    lane_calls: int = 0  # Calls that run in lanes.
    lane_waiting: int = 0  # Executions that wait there for a place, or for others.
    wanted: int = 0  # Slots that the cluster was asked for, and has not given yet.
    replicas: Mapping[str, int] = field(default_factory=dict[str, int])  # Of each worker.
    prune_idle: float | None = None  # Seconds since pruning got on; None without PRUNE_AFTER.


class Monitor:
    """Of one supervisor, from before it has an identity."""

    def __init__(
        self,
        stop: Stop,
        executor: Executor,
        observer: Observer | None = None,
        on_ready: Callable[[], object] = bool,
    ) -> None:
        self.observer = observer  # Is told of each execution.
        self.tell_ready = on_ready  # To be called when the supervisor begins to claim.
        self._stop = stop
        self._executor = executor
        self._watched: tuple[Session, Dispatcher, Metrics] | None = None

    def watch(self, session: Session, dispatcher: Dispatcher, metrics: Metrics) -> None:
        """Show these from now on: the supervisor is registered."""
        self._watched = session, dispatcher, metrics

    def obstacle(self) -> str:
        """Return why the supervisor claims nothing, empty when it does."""
        if self._stop.intake.cancel_called:
            return "It is stopping."
        if not self._executor.is_usable:
            return "Ray is not there, or not yet."
        if self._watched is None:
            return "It is starting: the database has not answered yet."
        session, _, _ = self._watched
        return "" if session.is_open else "The database is away: the listening session is not open."

    def ailment(self) -> str:
        """Return why a process that begins anew may do better, empty when this one is well enough.

        An outage is not one: restarting does not end it, and what runs goes on. But what a process has read at its
        start, a password for instance, may be right no more.
        """
        if self._watched is None or self._stop.intake.cancel_called:
            return ""
        closed_at = self._watched[0].closed_at
        if closed_at is None or (gone := current_time() - closed_at) < AILING_SECONDS:
            return ""
        return f"The database has been away for {gone / 60:.0f} minutes."

    def figures(self) -> Figures:
        """Return what can be counted now."""
        if self._watched is None:
            return Figures(metrics=Metrics())
        _, dispatcher, metrics = self._watched
        return Figures(
            metrics=metrics,
            slots=dispatcher.slots,
            busy=dispatcher.busy,
            held=len(dispatcher.held),
            lane_calls=dispatcher.lanes.calls,
            lane_waiting=len(dispatcher.lanes.claims),
            wanted=self._executor.wanted,
            replicas=self._executor.replicas,
            prune_idle=None if metrics.pruned_at is None else current_time() - metrics.pruned_at,
        )
