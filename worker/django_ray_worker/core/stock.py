"""What a supervisor has to run things on, as its row tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Stock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """At one moment."""

    slots: int
    resources: Mapping[str, float] | None = None  # Of its cluster in all, by Ray's names; None is not known.
    replicas: Mapping[str, int] = field(default_factory=dict[str, int])  # Of each worker, by its path.
    wanted: int = 0  # Slots that its cluster was asked for, and has not given yet.
