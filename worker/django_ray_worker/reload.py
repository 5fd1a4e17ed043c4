"""--reload: the supervisor in a process of its own, ended and started again when the project's code changes.

For development. It ends as by SIGTERM: what runs has the grace to finish, and what is queued waits for the new code.
What an edit has broken waits for the next edit; one that fails before any ends like every supervisor.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from anyio import TASK_STATUS_IGNORED, Event, create_task_group, open_process, open_signal_receiver
from watchfiles import PythonFilter, awatch

from django_ray_worker.core.signals import ending

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import Process, TaskStatus

__all__ = ["IS_CHILD", "reloading"]

IS_CHILD = "DJANGO_RAY_IS_RELOADED"  # In the environment of the supervisor that is watched over.

log = logging.getLogger("django_ray.reload")


async def reloading(project: Path) -> int:
    """Run this command again and again, until a signal or until it ends by itself; return its exit code."""
    return await _Reloading(project).run()


class _Reloading:
    def __init__(self, project: Path) -> None:
        self._project = project
        self._changed = Event()
        self._supervisor: Process
        self._is_told = False  # To stop for good.

    async def run(self) -> int:
        await self._start()
        async with create_task_group() as tasks:
            await tasks.start(self._heed_signals)
            tasks.start_soon(self._watch)
            await self._again_and_again()
            tasks.cancel_scope.cancel()
        return self._supervisor.returncode or 0

    async def _again_and_again(self) -> None:
        is_edited = False
        while True:
            await self._until_ended()
            code = self._supervisor.returncode
            if code and is_edited and not (self._changed.is_set() or self._is_told):
                log.warning("The supervisor ended with exit code %d; it starts again when code changes.", code)
                await self._changed.wait()
            if self._is_told or not self._changed.is_set():
                return
            self._changed, is_edited = Event(), True
            await self._start()

    async def _start(self) -> None:
        # Its standard streams are ours: breakpoints work.
        self._supervisor = await open_process(
            [sys.executable, *sys.orig_argv[1:]],
            stdin=None,
            stdout=None,
            stderr=None,
            env={**os.environ, IS_CHILD: "1"},
        )

    async def _until_ended(self) -> None:
        """Wait for the end of the supervisor, which is told to end when its code changes."""
        async with create_task_group() as tasks:

            async def end_on_change() -> None:
                await self._changed.wait()
                if self._supervisor.returncode is None:
                    self._supervisor.terminate()

            tasks.start_soon(end_on_change)
            await self._supervisor.wait()
            tasks.cancel_scope.cancel()

    async def _watch(self) -> None:
        async for changes in awatch(self._project, watch_filter=PythonFilter()):
            log.info("%s changed: draining, and starting again.", ", ".join(sorted(path for _, path in changes)))
            self._changed.set()

    async def _heed_signals(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        with open_signal_receiver(*ending()) as signals:
            task_status.started()
            async for number in signals:
                self._is_told = True
                if self._supervisor.returncode is not None:
                    self._changed.set()
                elif number == signal.SIGTERM:  # a terminal sends the others to both of us
                    self._supervisor.terminate()
