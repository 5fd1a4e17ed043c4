"""The calls of one driver that have been submitted and are awaited, and what makes them be given up."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, current_time

if TYPE_CHECKING:
    from django_ray.runtime.mark import Attempt
    from django_ray_worker.core.claim import Claim

__all__ = ["Awaited", "Calls", "attempts_of"]


@dataclass(slots=True, eq=False)
class Awaited:
    """One of them."""

    claims: Sequence[Claim]
    avoided: tuple[str, ...]  # The nodes that were silent when it was submitted: it may run on any other.
    scope: CancelScope
    since: float = field(default_factory=current_time)
    node: str = ""  # Where it runs, once it was looked for.
    replica: object = None  # That it was sent to; what waits there runs where the others of it do.
    reason: str = ""  # Why it was given up.

    @property
    def attempts(self) -> list[Attempt]:
        """By the names that they have where they run."""
        return attempts_of(self.claims)

    def give_up(self, reason: str) -> None:
        """Stop awaiting it."""
        self.reason = reason
        self.scope.cancel()


class Calls:
    """All of them."""

    def __init__(self) -> None:
        self._all: set[Awaited] = set()
        self._any = Event()  # There is one.

    @contextmanager
    def awaiting(self, claims: Sequence[Claim], avoided: tuple[str, ...]) -> Generator[Awaited]:
        """Bracket one, from before its submission until its answer."""
        with CancelScope() as scope:
            call = Awaited(claims, avoided, scope)
            self._all.add(call)
            self._any.set()
            try:
                yield call
            finally:
                self._all.discard(call)

    async def until_any(self) -> None:
        """Return when there is one."""
        while not self._all:
            self._any = Event()
            await self._any.wait()

    def node_of(self, replica: object) -> str:
        """Return where a replica was found; empty where it was not."""
        return next((call.node for call in self._all if call.replica is replica and call.node), "")

    def has_run_for(self, seconds: float) -> bool:
        """Tell whether one has been awaited for so long."""
        return any(current_time() - call.since >= seconds for call in self._all)

    def of_other(self, silent: tuple[str, ...]) -> list[Awaited]:
        """Return those that may run on a silent node, or wait and avoid one that answers again."""
        return [
            call
            for call in self._all
            if not call.reason and (call.node in silent if call.node else call.avoided != silent)
        ]

    def abandon(self) -> None:
        """Stop awaiting any."""
        for call in self._all:
            call.scope.cancel()


def attempts_of(claims: Sequence[Claim]) -> list[Attempt]:
    """Return the names that they have where they run."""
    return [(str(claim.task_id), claim.attempt) for claim in claims]
