"""A Ray on this host that outlives its drivers: with --reload another process keeps it, and each supervisor joins it.

When a driver leaves, Ray ends the processes that have worked for it: no old code is left.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from django_ray_worker.core.exceptions import Stuck
from django_ray_worker.running.onray import functions
from django_ray_worker.running.onray.environment import python_path
from django_ray_worker.running.onray.folder import Folder
from django_ray_worker.running.onray.questions import Answering

if TYPE_CHECKING:
    from django_ray_worker.core.config import Config
    from django_ray_worker.watcher import Kept, Watcher

__all__ = ["KeptRay", "join_in_advance"]


class KeptRay:
    """Of a driver that joins it."""

    is_here = True
    folder: Folder | None = None

    def __init__(self, config: Config, watcher: Watcher) -> None:
        self._config = config
        self._watcher = watcher
        self._kept: Kept | None = None
        self._job = ""

    async def find(self, gone: str) -> None:
        """Ask for it; it is started if need be, which whoever is told to end does not wait for."""
        self._kept = await Answering(
            partial(
                self._watcher.ray,
                cpus=self._config.concurrency,
                settings=self._config.settings_module,
                path=python_path(self._config.project),
                gone=gone,
            )
        ).reply
        self.folder = Folder(Path(self._kept.folder))

    def start(self) -> None:
        """Join it, unless that was done in advance."""
        assert self._kept is not None  # noqa: S101
        try:
            if not ray.is_initialized():
                _join(self._kept.address)
        except Exception as error:
            raise OSError(f"The Ray at {self._kept.address} cannot be joined: {error}") from error
        context: Any = ray.get_runtime_context()
        if context.gcs_address != self._kept.address:
            raise Stuck("This process has joined a Ray that is no more.")
        self._job = context.get_job_id()

    def let_leave(self) -> None:
        """Have those of its processes that have worked for us do what is to be done at their end."""
        if self.folder is not None:
            self.folder.let_leave(self._job)

    def prepare_end(self) -> None:
        """Do nothing: it goes on."""

    def kill(self) -> None:
        """Do nothing: it goes on."""

    def clear(self) -> None:
        """Have ended what has worked for us, and what bodies have left running."""
        if self.folder is not None and self._kept is not None:
            self.folder.end_orphans(self._job, self._kept.keeper)
        self.folder = None


def join_in_advance(address: str) -> None:
    """Become a driver that does not know its project yet, with a process at hand for its first call.

    Who joins need not do so when it counts.
    """
    has_joined = threading.Event()

    def stay() -> None:
        with suppress(Exception):  # it is tried again when it counts
            _join(address)
            ray.get(functions.spare())
        has_joined.set()
        threading.Event().wait()

    threading.Thread(target=stay, name="django-ray-joined", daemon=True).start()
    has_joined.wait()


def _join(address: str) -> None:
    logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.getMessage())
    ray.init(address=address, configure_logging=False, log_to_driver=True)
