"""What a supervisor counts of itself."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Metrics"]


@dataclass(slots=True)
class Metrics:
    """Since its start."""

    reconnects: int = 0  # Sessions after the first.
    pulses_missed: int = 0  # Pulses that did not come back.
    rescued: int = 0  # Executions taken back from dead supervisors.
    oldest: float = 0  # Seconds that the oldest claimable row has been waiting, at the last pulse.
    refused: int = 0  # Outcomes that the fence refused.
    clusters_lost: int = 0  # Times that Ray was gone.
    ticks: int = 0  # Ticks of schedules that were enqueued here.
    ticks_skipped: int = 0  # Ticks while the run before was unfinished.
    ticks_lost: int = 0  # Ticks that nobody was there to see, and that were not made up for.
    tick_lag: float = 0  # Seconds from the last tick that was enqueued here to its enqueue.
    schedule_problems: int = 0  # Schedules with a problem, at the last pulse.
    turned_away: int = 0  # Executions that were cancelled here at a full gate.
    expired: int = 0  # Executions that had not begun by their time, and were ended here.
    pruned_at: float | None = None  # When pruning got on last, by the clock of the loop; None without PRUNE_AFTER.
