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
