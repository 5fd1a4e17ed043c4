"""The next supervisor, before its turn: it imports what no edit changes, and joins the Ray that is kept.

Nothing of the project is imported before it is told to go.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module

from django_ray.runtime.libraries import load
from django_ray_worker.core.signals import ending
from django_ray_worker.reload.command import Command
from django_ray_worker.watcher import watcher

__all__ = ["main"]

LIBRARIES = (
    "django_ray_worker.main",
    "django_ray_worker.preflight",
    "django_ray_worker.supervisor",
    "django_ray_worker.showing.endpoint",
    "watchfiles",
)


def main() -> None:
    """Wait until it is this process's turn, and be the supervisor."""
    _heed_signals()
    command, sync, cluster, kept = json.loads(sys.argv[1])
    load()
    for name in LIBRARIES:
        with suppress(ImportError):  # who needs it says so
            import_module(name)
    watching = watcher()
    assert watching is not None  # noqa: S101
    if not sync:
        watching.has_prepared(cluster)
        _prepare_ray(cluster, kept)
    watching.until_told_to_go()
    Command(*command).run()


def _prepare_ray(cluster: str | None, kept: str | None) -> None:
    from django_ray_worker.running.onray.environment import prepare_environment

    prepare_environment(cluster=cluster)
    with suppress(ImportError):
        import_module("django_ray_worker.running.onray.executor")
        if kept is not None:
            from django_ray_worker.running.onray.kept import join_in_advance

            join_in_advance(kept)
            _heed_signals()  # Ray has put handlers of its own in front


def _heed_signals() -> None:
    for number in ending():
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending())


def _end(*_: object) -> None:
    os._exit(0)
