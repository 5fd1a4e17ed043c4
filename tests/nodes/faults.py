"""What happens to the hosts, each with the event that ends it: nothing here waits for a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from tests.containers import Compose
from tests.nodes.watch import Watch

__all__ = ["Fault", "Faults"]

NODES = ("node-a", "node-b")
PAUSE_SECONDS = 60  # At most, until what ran on a host that is paused runs elsewhere.


class Command(NamedTuple):
    """When a command was given, and when it was done."""

    began: datetime
    done: datetime


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, by the clock of the database."""

    name: str
    struck: Command
    first_start: datetime | None  # While the fault lasted; None when there was none.
    undone: Command
    start_after: datetime  # The first on what had been away.


class Faults:
    """Strikes, waits until it is overcome, and notes when that was."""

    def __init__(self, compose: Compose, watch: Watch, say: Callable[[str], None]) -> None:
        self._compose = compose
        self._watch = watch
        self._say = say
        self.seen: list[Fault] = []

    def begin(self) -> None:
        """Wait until both nodes work."""
        self._watch.until_started(NODES, self._watch.now())
        self._say("both nodes run tasks")

    def kill_node(self, node: str) -> None:
        """Kill a node, see the other one go on, start it again."""
        others = [other for other in NODES if other != node]
        struck = self._do("kill", node)
        first = self._watch.until_started(others, struck.done)
        self._watch.until_ended(5, struck.done)
        undone = self._do("start", node)
        self._note(f"{node} is killed", struck, first, undone, (node,))

    def pause_node(self, node: str) -> None:
        """Pause a node, see the other one go on, and what ran there run elsewhere; let it go on.

        Ray would notice after minutes.
        """
        others = [other for other in NODES if other != node]
        self._watch.until_started([node], self._watch.now())
        struck = self._do("pause", node)
        held = self._watch.running_on(node)
        self._watch.until_ended(5, struck.done)
        elsewhere = self._watch.until_started_again(held, others, struck.done, seconds=PAUSE_SECONDS)
        undone = self._do("unpause", node)
        self._note(f"{node} is paused", struck, elsewhere, undone, (node,))

    def kill_head(self) -> None:
        """Kill the head, see everything released, start it again; all that had joined it must join anew."""
        struck = self._do("kill", "head")
        self._watch.until_idle()
        undone = self._do("start", "head")
        self._note("the head is killed", struck, None, undone, NODES)

    def _do(self, verb: str, service: str) -> Command:
        self._say(f"{verb} {service}")
        began = self._watch.now()
        self._compose(verb, service)
        return Command(began, self._watch.now())

    def _note(self, name: str, struck: Command, first: datetime | None, undone: Command, back: Sequence[str]) -> None:
        after = self._watch.until_started(back, undone.done)
        self._say(f"{' and '.join(back)} {'runs' if len(back) == 1 else 'run'} tasks again")
        self.seen.append(Fault(name, struck, first, undone, after))
