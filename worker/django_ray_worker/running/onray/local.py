"""A Ray that is started on this host, in a folder that is made for it. It ends with everything that it has started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.running.onray.folder import Folder
from django_ray_worker.running.onray.node import did_not_start, node

__all__ = ["LocalRay"]


class LocalRay:
    """Of a driver that has started it."""

    is_here = True
    folder: Folder | None = None

    def __init__(self, cpus: int | None, variables: Mapping[str, str], *, log_to_driver: bool = True) -> None:
        self._cpus = cpus
        self._log_to_driver = log_to_driver
        self._variables = variables

    async def find(self, gone: str) -> None:  # noqa: ARG002 - it is always another one
        """Make the folder."""
        self.folder = Folder.make()

    def start(self) -> None:
        """Start it. OSError when that may work later, Misconfigured when not."""
        assert self.folder is not None  # noqa: S101
        # Inherited by every process of this cluster; a runtime_env would cost each first task a second.
        os.environ.update(self._variables)
        # Inherited as well. A service manager may signal every process of its unit: that is for us, who end this Ray
        # when the bodies have had their grace. Ray workers see to it that what bodies start is not concerned.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
        try:
            with _only_what_runs_tasks():
                ray.init(
                    # Without an address Ray would attach to whatever runs on this host.
                    address="local",
                    include_dashboard=False,
                    configure_logging=False,
                    log_to_driver=self._log_to_driver,
                    num_cpus=self._cpus or _cpus(),
                    _temp_dir=str(self.folder.path),
                )
        except Exception as error:
            if did_not_start(error):
                raise OSError(f"Ray did not start: {error}") from error
            # ValueError: what this host has does not do for a Ray, of memory for instance.
            if not isinstance(error, OSError | RuntimeError | ValueError):
                raise
            raise Misconfigured(f"Ray cannot be started on this host: {error}") from error

    def let_leave(self) -> None:
        """Have its Ray workers do what is to be done at their end."""
        if self.folder is not None:
            self.folder.let_leave()

    def prepare_end(self) -> None:
        """Have Ray end its processes at once, when it is left: each of its polite requests would wait for a second."""
        if (folder := self.folder) is not None and sys.platform == "linux" and (found := node()) is not None:

            def kill(**_: object) -> None:
                folder.kill()

            found.kill_all_processes = kill

    def kill(self) -> None:
        """End all of its processes, and what bodies have left running."""
        if self.folder is not None:
            self.folder.kill()

    def clear(self) -> None:
        """Leave nothing behind."""
        if self.folder is not None:
            self.folder.kill()
            self.folder.remove()
            self.folder = None


def _cpus() -> int | None:
    """Return 1 where a container has a part of a CPU, which Ray would count as none; None lets Ray count."""
    count: Any = getattr(getattr(ray, "_private").utils, "get_num_cpus", None)  # noqa: B009 - for the type checkers
    return 1 if count is not None and count(override_docker_cpu_warning=True) < 1 else None


@contextmanager
def _only_what_runs_tasks() -> Generator[None]:
    """Leave out the autoscaler, and the server of a dashboard that is left out: 4 s of CPU before the first task.

    Ray has no public way to say so. Where its names are others, they start.
    """
    node: Any = getattr(getattr(getattr(ray, "_private"), "node", None), "Node", None)  # noqa: B009 - for the checkers
    starts = {name: vars(node)[name] for name in ("start_monitor", "start_api_server") if hasattr(node, name)}

    def start_nothing(*_: object, **__: object) -> None:
        pass

    for name in starts:
        setattr(node, name, start_nothing)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(node, name, start)
