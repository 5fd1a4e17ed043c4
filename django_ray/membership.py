"""Which flow is enqueued into here, and how that travels in the carrier of a row. Pure."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self, cast
from uuid import UUID

__all__ = ["FLOW", "Membership", "membership"]

FLOW = "flow"  # The key of the carrier.


@dataclass(frozen=True, slots=True)
class Membership:
    """A flow, and the execution of it whose body enqueues."""

    flow: str
    parent: str | None = None
    database: str | None = None  # Where it lives; None is anywhere, as with doubles.
    is_block: bool = False  # Somebody has said it here: `with Flow(...)`. Else it is the flow of a body.

    @classmethod
    def of_row(cls, task_id: str, carrier: Any, database: str | None = None) -> Self | None:
        """Return what a body enqueues into, None for nothing. Whoever writes SQL may have put anything there."""
        said: Any = cast("dict[str, Any]", carrier).get(FLOW) if isinstance(carrier, dict) else None
        flow: Any = cast("dict[str, Any]", said).get("id") if isinstance(said, dict) else None
        try:
            return cls(str(UUID(flow)), task_id, database)
        except (AttributeError, TypeError, ValueError):
            return None

    @property
    def carried(self) -> dict[str, Any]:
        """What the carrier holds."""
        return {"id": self.flow} if self.parent is None else {"id": self.flow, "parent": self.parent}


# Where enqueue() looks. None is no flow.
membership: ContextVar[Membership | None] = ContextVar("django_ray.membership", default=None)
