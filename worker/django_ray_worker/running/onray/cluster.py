"""The Ray that a process is a driver of: started here, joined here, or elsewhere. How long it lives. Knows no claims.

Whatever may wait for a head has a thread of its own and a deadline: see questions.py. A thread that never comes back
keeps Ray's locks; only another process can be a driver then, so this one says that it is stuck.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import ray
from anyio import CancelScope, create_task_group, current_time, move_on_after
from ray.exceptions import RayError

from django_ray_worker.core.exceptions import Stuck
from django_ray_worker.running.onray.node import raylet_socket
from django_ray_worker.running.onray.nodes import Listed, Nodes, listed
from django_ray_worker.running.onray.questions import Answering, ask
from django_ray_worker.running.onray.sockets import Address, until_gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_ray_worker.running.onray.folder import Folder

__all__ = ["Cluster", "Ray"]

log = logging.getLogger("django_ray.executor")

START_SECONDS = 120.0  # For all of it; Ray itself gives a node 30 s.
LOOK_SECONDS = 0.5  # Between two looks whether the head of a Ray that starts here still lives.
RESOURCES_SECONDS = 10.0  # That the head gets to say what there is.
HEAD = "gcs_server"
HEADLESS_SECONDS = 2.0  # That it may be away: a process has another name until it is the program that it starts.
CLOSE_SECONDS = 6.0  # That Ray gets to end, and once more when its processes are gone.


class Ray(Protocol):
    """One of the Rays that there are. Its methods may wait, but not for a head, except those that call Ray."""

    @property
    def is_here(self) -> bool:
        """Tell whether all of it is on this host."""
        ...

    @property
    def folder(self) -> Folder | None:
        """Where it has its files, if it is here."""
        ...

    async def find(self, gone: str) -> None:
        """See to it that it can be started or joined. What was at the address gone is no more."""
        ...

    def start(self) -> None:
        """Become its driver. OSError when that may work later, Misconfigured when not."""
        ...

    def let_leave(self) -> None:
        """Have those of its processes that work for us do what is to be done at their end."""
        ...

    def prepare_end(self) -> None:
        """See to it that leaving it is quick."""
        ...

    def kill(self) -> None:
        """End its processes, if they are ours to end."""
        ...

    def clear(self) -> None:
        """Leave nothing behind that is ours."""
        ...


class Cluster:
    """Of one driver."""

    def __init__(self, found: Ray, *, on_change: Callable[[], None] = lambda: None) -> None:
        self._ray = found
        self._on_change = on_change  # It has more, or less.
        self._starting: Answering[None] | None = None
        self._is_over = threading.Event()
        self._looking: Answering[list[Listed]] | None = None
        self._looks_until = 0.0  # How long that is waited for.
        self._is_gone = False
        self.is_stuck = False  # A thread hangs inside Ray for good.
        self._is_deaf = False  # The head has let that time pass.
        self.address = ""
        self.nodes = Nodes(on_change)  # As they were when the head was asked last.

    @property
    def is_here(self) -> bool:
        """Tell whether all of it is on this host."""
        return self._ray.is_here

    @property
    def folder(self) -> Folder | None:
        """Where it has its files, if it is here."""
        return self._ray.folder

    @property
    def resources(self) -> dict[str, float]:
        """What there was in all when the head was asked last, by Ray's names; without what silent nodes have."""
        return self.nodes.resources

    async def start(self) -> None:
        """Start it or join it. OSError when that may work later, Misconfigured when not, Stuck when it hangs.

        On the main thread ray.init takes the signal handlers and stalls the loop for seconds. What is started here
        lives as long as the thread that starts it.
        """
        gone = self.address if self._is_gone else ""
        self._is_over, self._is_gone = threading.Event(), False
        self._looking = None  # what the Ray before was asked may never be answered
        await self._ray.find(gone)
        self._starting = Answering(self._start, stay=self._is_over.wait)
        await self._until_started(self._starting)
        self.nodes = Nodes(self._on_change)
        self.nodes.take(await ask(listed))

    async def _until_started(self, starting: Answering[None]) -> None:
        deadline, last_head = current_time() + START_SECONDS, float("inf")  # The head is the first that starts.
        while current_time() < deadline:
            with move_on_after(LOOK_SECONDS):
                await starting.reply
                return
            programs = set() if self.folder is None else self.folder.programs()
            if HEAD in programs or (programs and last_head == float("inf")):
                last_head = current_time()
            elif current_time() - last_head > HEADLESS_SECONDS:
                raise Stuck("The head of the Ray that starts here has died, and Ray waits for it.")
        raise Stuck(f"Ray has not started within {START_SECONDS:g} s, and does not give up.")

    async def close(self) -> None:
        """Leave it; one started here ends, with everything that it has started."""
        with CancelScope(shield=True):
            if self._starting is not None:
                await self._leave(self._starting)
                self._starting = None
            await ask(self._ray.clear)
            self._is_over.set()

    async def _leave(self, starting: Answering[None]) -> None:
        if not starting.is_answered:
            self.is_stuck = True  # It starts, and nobody wants it any more.
            return
        await ask(self._ray.kill if self._is_gone else self._ray.let_leave)
        self._ray.prepare_end()
        leaving = Answering(ray.shutdown)
        with move_on_after(CLOSE_SECONDS):
            await leaving.reply
            return
        log.warning("The head of the Ray cluster does not answer: leaving it all the same.")
        if self._ray.is_here:
            await ask(self._ray.kill)
            with move_on_after(CLOSE_SECONDS):
                await leaving.reply
                return
        self.is_stuck = True

    async def look(self) -> None:
        """Ask which nodes it has now. Several who ask at a time wait for one reply, and nobody for a silent head."""
        if self._looking is None or self._looking.is_answered:
            self._looking, self._looks_until = Answering(listed), current_time() + RESOURCES_SECONDS
            self._is_deaf = False
        with CancelScope(deadline=self._looks_until, shield=True):
            with suppress(RayError):  # it is being left, or is gone, which others notice
                self.nodes.take(await self._looking.reply)
            return
        if not self._is_deaf:
            log.warning("The head of the Ray cluster does not answer: its resources are those of before.")
        self._is_deaf = True

    def tidy(self) -> None:
        """Remove, by and by, what processes that have ended left behind."""
        if self.folder is not None:
            Answering(self.folder.tidy)

    async def until_gone(self) -> str:
        """Return when the raylet of this driver or the head of the cluster is gone; says which."""
        gone: list[str] = []
        async with create_task_group() as watches:

            async def watch(what: str, address: Address) -> None:
                await until_gone(address)
                gone.append(what)
                watches.cancel_scope.cancel()

            watches.start_soon(watch, "The head of the Ray cluster is gone.", self.address)
            if (raylet := raylet_socket()) is not None:
                watches.start_soon(watch, "The raylet of this host is gone.", raylet)
        self._is_gone = True
        return gone[0]

    def _start(self) -> None:
        # Ray tells everybody that it left the signals to us, which is what we want.
        logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.getMessage())
        self._ray.start()
        self.address = ray.get_runtime_context().gcs_address
