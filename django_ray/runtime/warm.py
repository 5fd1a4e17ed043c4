"""A Ray worker process that stays, with the instance of a class in it: one replica of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from django_ray.batching import built
from django_ray.runtime.batch import invoke_batch
from django_ray.runtime.call import Report
from django_ray.runtime.foreign import contained, ignored
from django_ray.runtime.preparation import settle_in

__all__ = ["Replica"]


class Replica:
    """What Ray makes an actor of. It runs one call at a time, on the main thread, where bodies can be interrupted."""

    def prepare(self, path: str) -> None:
        """Have the instance ready. Where that fails the first call says so."""
        contained(partial(_build, path), ignored(f"The worker {path}"))

    def run(self, rows: Sequence[str]) -> Report:
        """Run attempts of one task together, each the JSON of its row."""
        return invoke_batch(rows)


def _build(path: str) -> None:
    settle_in()
    built(path)
