"""--reload: a supervisor in a process of its own, that ends when the project's code changes, and its successor.

For development. It ends as by SIGTERM: what runs has the grace to finish, what is queued waits for the new code. Its
successor has been waiting, with everything imported that no edit changes; Ray is kept (keeper.py). What an edit has
broken waits for the next edit; one that fails before any ends like every supervisor.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import TASK_STATUS_IGNORED, CancelScope, Event, Lock, create_task_group, open_signal_receiver, sleep
from watchfiles import PythonFilter, awatch

from django_ray_worker.core.signals import ending
from django_ray_worker.reload.command import Command
from django_ray_worker.reload.keeper import Keeper
from django_ray_worker.reload.process import Started

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup, TaskStatus

__all__ = ["reloading"]

PAUSE_SECONDS = 0.5  # What waits for the new code has the CPUs first.
SUCCESSOR = "from django_ray_worker.reload.successor import main; main()"

log = logging.getLogger("django_ray.reload")


async def reloading(project: Path, keeper: Keeper, *, is_side_by_side: bool) -> int:
    """Run this command again and again, until a signal or until it ends by itself; return its exit code.

    Side by side, a successor begins while the one before it still finishes what runs.
    """
    code = 1
    async with create_task_group() as tasks:
        turns = _Reloading(project, keeper, tasks, is_side_by_side=is_side_by_side)
        code = await turns.run()
        tasks.cancel_scope.cancel()
    return code


class _Reloading:
    def __init__(self, project: Path, keeper: Keeper, tasks: TaskGroup, *, is_side_by_side: bool) -> None:
        self._project = project
        self._keeper = keeper
        self._tasks = tasks
        self._is_side_by_side = is_side_by_side
        self._command = Command.ours()
        self._changed = Event()
        self._supervisors: list[Started] = []  # Those that run; the last one claims, the others finish.
        self._beginning_anew: set[Started] = set()  # They have asked for another process in their place.
        self._successor: Started | None = None
        self._preparing = Lock()
        self._works_on: dict[str, Any] = {"sync": True, "cluster": None}  # What the last one that was ready has said.
        self._is_told = False  # To stop for good.

    async def run(self) -> int:
        try:
            await self._tasks.start(self._heed_signals)
            self._tasks.start_soon(self._watch)
            return await self._again_and_again()
        finally:
            self._is_told = True
            with CancelScope(shield=True):
                await self._dismiss_successor()
                for supervisor in self._supervisors:
                    supervisor.terminate()
                for supervisor in [*self._supervisors]:
                    await supervisor.wait()
                await self._keeper.close()

    async def _again_and_again(self) -> int:
        is_edited = False
        supervisor = await self._start()
        while not self._is_told:
            await _first(supervisor.ended.wait, self._changed.wait)
            if supervisor in self._beginning_anew and not self._is_told:
                self._beginning_anew.remove(supervisor)
                supervisor = await self._start()
                continue
            if not (self._changed.is_set() or self._is_told):
                if not (supervisor.code and is_edited):
                    break
                log.warning(
                    "The supervisor ended with exit code %d; it starts again when code changes.", supervisor.code
                )
                await self._prepare_successor()
                await self._changed.wait()
            if self._is_told:
                break
            self._changed, is_edited = Event(), True
            supervisor.terminate()
            if not self._is_side_by_side:
                await supervisor.ended.wait()
            if not self._is_told:
                supervisor = await self._take_turns()
        for other in list(self._supervisors):
            await other.ended.wait()
        return supervisor.code

    async def _take_turns(self) -> Started:
        successor, self._successor = self._successor, None
        if successor is None or successor.has_ended:
            return await self._start()
        successor.tell({"go": True})
        self._supervisors.append(successor)
        return successor

    async def _start(self) -> Started:
        """Start a supervisor that nothing was prepared for."""
        supervisor = await Started.start([sys.executable, *sys.orig_argv[1:]], self._keeper.environment, unblocks=False)
        self._supervisors.append(supervisor)
        self._attend(supervisor)
        if self._is_told:
            supervisor.terminate()  # told while it was being started, and not yet among those that are
        return supervisor

    async def _prepare_soon(self) -> None:
        await sleep(PAUSE_SECONDS)
        await self._prepare_successor()

    async def _prepare_successor(self) -> None:
        async with self._preparing:
            if self._command is None or self._is_told or (self._successor and not self._successor.has_ended):
                return
            plan = [self._command.parts, self._works_on["sync"], self._works_on["cluster"], self._keeper.address]
            command = [sys.executable, *self._command.flags, "-c", SUCCESSOR, json.dumps(plan)]
            self._successor = await Started.start(command, self._keeper.environment, unblocks=True)
            self._attend(self._successor)

    async def _dismiss_successor(self) -> None:
        async with self._preparing:
            successor, self._successor = self._successor, None
        if successor is not None:
            successor.terminate()
            await successor.wait()

    def _attend(self, started: Started) -> None:
        self._tasks.start_soon(self._until_ended, started)

    async def _until_ended(self, started: Started) -> None:
        await started.attend(partial(self._heed, started))
        if started in self._supervisors:
            self._supervisors.remove(started)

    def _heed(self, started: Started, said: dict[str, Any]) -> None:
        match said:
            case {"ready": works_on}:
                self._works_on = works_on
                if started is self._supervisors[-1]:
                    self._tasks.start_soon(self._prepare_soon)
            case {"prepared": _}:
                log.debug("The next supervisor is prepared.")
            case {"anew": _}:
                self._beginning_anew.add(started)
            case {"ray": request}:
                self._tasks.start_soon(self._answer, started, request)
            case _:
                pass

    async def _answer(self, started: Started, request: dict[str, Any]) -> None:
        gone, before = request.pop("gone"), self._keeper.address
        started.tell(await self._keeper.ask(gone, request, until_alone=partial(self._until_alone, started)))
        if self._keeper.address != before and self._successor is not None:
            await self._dismiss_successor()  # it has joined the Ray before
            await self._prepare_successor()

    async def _until_alone(self, started: Started) -> None:
        for other in list(self._supervisors):
            if other is not started:
                await other.ended.wait()

    async def _watch(self) -> None:
        async for changes in awatch(self._project, watch_filter=PythonFilter()):
            log.info("%s changed: draining, and starting again.", ", ".join(sorted(path for _, path in changes)))
            self._changed.set()

    async def _heed_signals(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        with open_signal_receiver(*ending()) as signals:
            task_status.started()
            async for number in signals:
                self._is_told = True
                self._changed.set()
                if number == signal.SIGTERM:  # a terminal sends the others to all of us
                    for supervisor in self._supervisors:
                        supervisor.terminate()


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when one of these has returned."""
    async with create_task_group() as tasks:

        async def wait(one: Callable[[], Awaitable[object]]) -> None:
            await one()
            tasks.cancel_scope.cancel()

        for one in waits:
            tasks.start_soon(wait, one)
