"""Flows of the soak: small random graphs, as values, and how one is enqueued.

Each member has a key, and returns it. Whoever gets it as a result knows which keys have to come.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from django_ray import Flow
from tests.chaos import tasks

__all__ = ["Member", "ancestors", "enqueue", "graph"]

type Fate = Literal["succeeds", "fails", "fails once", "dies once"]

MOST_WIDE = 20  # Upstreams of one.
MOST_LONG = 5  # A chain.
BAD_SHARE = 0.12  # Of members that fail or end their process.
MOST_SECONDS = 0.3  # That a body takes.


@dataclass(frozen=True)
class Member:
    """One execution of a flow, and what is to become of it."""

    key: str
    upstreams: tuple[str, ...] = ()
    needs: Literal["success", "end"] = "success"
    fate: Fate = "succeeds"
    seconds: float = 0.0


def graph(prefix: str, chance: random.Random) -> list[Member]:
    """Return a chain, a fan-in, or a diamond, and what comes after it; those upstream come first."""
    links: list[tuple[list[int], bool]] = []  # The places of the upstreams, and whether only their end matters.
    match chance.choice(["chain", "fan-in", "diamond"]):
        case "chain":
            links += (([number - 1] if number else [], False) for number in range(chance.randint(2, MOST_LONG)))
        case "fan-in":
            wide = chance.randint(2, MOST_WIDE)
            links += [*(([], False) for _ in range(wide)), (list(range(wide)), False)]
        case _:
            wide = chance.randint(2, 4)
            links += [([], False), *(([0], False) for _ in range(wide)), (list(range(1, wide + 1)), False)]
    if chance.random() < 0.7:
        # A callback: of what came last, or of several; sometimes with something behind it.
        number = len(links)
        links.append((chance.choice([[number - 1], chance.sample(range(number), min(number, 3))]), True))
        if chance.random() < 0.3:
            links.append(([number], False))
    keys = [f"{prefix}.{number}" for number in range(len(links))]
    return [
        Member(
            keys[number],
            tuple(keys[one] for one in upstreams),
            "end" if is_callback else "success",
            "succeeds" if is_callback else _fate(chance),
            chance.uniform(0, MOST_SECONDS),
        )
        for number, (upstreams, is_callback) in enumerate(links)
    ]


def _fate(chance: random.Random) -> Fate:
    return chance.choice(["fails", "fails once", "dies once"]) if chance.random() < BAD_SHARE else "succeeds"


def enqueue(members: Iterable[Member]) -> tuple[Flow, dict[str, Any]]:
    """Enqueue them as one flow, a transaction; return it and the results, by key."""
    results: dict[str, Any] = {}
    with Flow(next(iter(members)).key) as flow:
        for member in members:
            values = [results[key] for key in member.upstreams]
            task = tasks.callback if member.needs == "end" else tasks.member
            results[member.key] = task.enqueue(
                member.key, values, list(member.upstreams), fate=member.fate, seconds=member.seconds
            )
    return flow, results


def ancestors(key: str, upstreams: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return a key, and all that it depends on."""
    found, to_come = {key}, [key]
    while to_come:
        fresh = set(upstreams.get(to_come.pop(), ())) - found
        found |= fresh
        to_come += fresh
    return found
