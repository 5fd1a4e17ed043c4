"""Tells who asks what a body of ours does now.

The question comes in a message to this supervisor, and the answer goes out in one: neither concerns a row, so one that
is lost is asked again by whoever still wants to know.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anyio import Event, move_on_after

from django_ray.snapshot import ANSWERS, QUESTION
from django_ray_worker.database.errors import DatabaseError, is_transient, one_line

if TYPE_CHECKING:
    from django_ray_worker.database.store import Store
    from django_ray_worker.running.dispatcher import Dispatcher
    from django_ray_worker.running.executor import Executor

__all__ = ["Teller"]

log = logging.getLogger("django_ray.supervisor")

MOST_ASKED = 20  # At a time: who asks more does without an answer.
LOOK_SECONDS = 12.0  # That a look may take: a node may have to start a process for it.


class Teller:
    """Of one supervisor."""

    def __init__(self, work: Store, dispatcher: Dispatcher, executor: Executor) -> None:
        self._store = work
        self._dispatcher = dispatcher
        self._executor = executor
        self._asked: dict[UUID, None] = {}
        self._is_asked = Event()

    def hear(self, message: str) -> bool:
        """Answer a message soon, if it is a question. Anybody may send one, and write into it what he likes."""
        question, _, name = message.partition(" ")
        if question != QUESTION:
            return False
        try:
            task_id = UUID(name)
        except ValueError:
            return True
        if len(self._asked) < MOST_ASKED:
            self._asked[task_id] = None
            self._is_asked.set()
        return True

    async def run(self) -> None:
        """Answer one after the other, for ever."""
        while True:
            await self._is_asked.wait()
            self._is_asked = Event()
            while self._asked:
                task_id = next(iter(self._asked))
                del self._asked[task_id]
                try:
                    await self._answer(task_id)
                except DatabaseError as error:
                    if not is_transient(error):
                        raise
                    log.warning("What %s does could not be told: %s", task_id, one_line(error))

    async def _answer(self, task_id: UUID) -> None:
        found: Any = None
        if claims := self._dispatcher.company(task_id):
            with move_on_after(LOOK_SECONDS):
                try:
                    found = await self._executor.snapshot(claims)
                except Exception:
                    # What somebody wants to see ends no supervisor: Ray may just be going away.
                    log.warning("What %s does could not be seen.", task_id, exc_info=True)
        await self._store.notify(ANSWERS, f"{task_id}{json.dumps(found)}")
