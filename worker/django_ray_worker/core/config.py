"""What a supervisor was asked to do: command line over OPTIONS over defaults, in one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from django_ray.options import Options

__all__ = ["Config"]

MOST_BELLS = 64  # Each is a lock of the server while we sleep, and the server has room for some thousands.


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Parsed and checked; nothing reads settings or arguments after this."""

    backend: str  # The alias in TASKS.
    queues: tuple[str, ...] | None  # None is any queue of the backend.
    concurrency: int | None  # None is the CPUs that Ray reports, as the cluster grows and shrinks.
    cluster: str | None  # The address of a Ray cluster; None starts Ray on this host.
    sync: bool  # No Ray: run in this process, one at a time.
    burst: bool  # Drain and exit.
    grace: float  # Seconds for running attempts when stopping.
    pulse: float  # Seconds between two signs of life; 0 is none.
    settings_module: str
    project: Path  # The folder that the project's modules are imported from.
    options: Options
    quotas: Mapping[str, int] = MappingProxyType({})  # How many calls of a queue at once, where that was said.
    declared: tuple[str, str] = ("[]", "[]")  # What the code says of schedules: JSON for declare.sql.

    @property
    def bells(self) -> tuple[str, ...]:
        """The bells to sleep on, as the triggers name them: of these queues, or the one of any."""
        if self.queues is None or len(self.queues) > MOST_BELLS:
            return (f"queues:{self.backend}",)
        return tuple(f"queue:{self.backend}:{queue}" for queue in self.queues)

    @property
    def is_elastic(self) -> bool:
        """Tell whether slots follow a cluster that may grow and shrink.

        Who drains and exits waits for the first node, and has its slots.
        """
        return self.concurrency is None and self.cluster is not None and not self.sync and not self.burst

    @property
    def lane_bell(self) -> str:
        """The bell that rings when something has come in a lane."""
        return f"queue:{self.backend}:!lanes"

    @property
    def gate_bell(self) -> str:
        """The bell that rings when a place behind a gate is free."""
        return f"gates:{self.backend}"
