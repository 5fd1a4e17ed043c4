"""The Ray that a supervisor is a driver of: one started here, or one that exists. Knows no claims.

Whatever may wait for a head has a thread of its own and a deadline: see questions.py. A thread that never comes back
keeps Ray's locks; only another process can be a driver then, so this one says that it is stuck.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from anyio import CancelScope, create_task_group, current_time, move_on_after

from django_ray_worker.core.exceptions import Misconfigured, Stuck
from django_ray_worker.running.onray.folder import Folder
from django_ray_worker.running.onray.questions import Answering, ask
from django_ray_worker.running.onray.sockets import Address, host_and_port, until_gone

if TYPE_CHECKING:
    from collections.abc import Generator

    from django_ray_worker.core.config import Config

__all__ = ["Cluster"]

log = logging.getLogger("django_ray.executor")

PREFLIGHT_SECONDS = 5.0
START_SECONDS = 120.0  # For all of it; Ray itself gives a node 30 s.
LOOK_SECONDS = 0.5  # Between two looks whether the head of a Ray that starts here still lives.
RESOURCES_SECONDS = 10.0  # That the head gets to say what there is.
HEAD = "gcs_server"
HEADLESS_SECONDS = 2.0  # That it may be away: a process has another name until it is the program that it starts.
CLOSE_SECONDS = 6.0  # That Ray gets to end, and once more when its processes are gone.


class Cluster:
    """Of one driver."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder: Folder | None = None
        self._starting: Answering[None] | None = None
        self._is_over = threading.Event()
        self._looking: Answering[dict[str, float]] | None = None
        self._looks_until = 0.0  # How long that is waited for.
        self._is_gone = False
        self.is_stuck = False  # A thread hangs inside Ray for good.
        self.address = ""
        self.resources: dict[str, float] = {}  # In all, by Ray's names, when they were asked for last.

    @property
    def is_local(self) -> bool:
        """Tell whether it is started here."""
        return self._config.cluster is None

    async def start(self) -> None:
        """Start it or join it. OSError when that may work later, Misconfigured when not, Stuck when it hangs.

        On the main thread ray.init takes the signal handlers and stalls the loop for seconds. What is started here
        lives as long as the thread that starts it.
        """
        self._is_over, self._is_gone = threading.Event(), False
        self._folder = Folder.make() if self.is_local else None
        self._starting = Answering(self._start, stay=self._is_over.wait)
        await self._until_started(self._starting)
        self.resources = await ask(_resources)

    async def _until_started(self, starting: Answering[None]) -> None:
        deadline, last_head = current_time() + START_SECONDS, float("inf")  # The head is the first that starts.
        while current_time() < deadline:
            with move_on_after(LOOK_SECONDS):
                await starting.reply
                return
            programs = set() if self._folder is None else self._folder.programs()
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
            if self._folder is not None:
                await ask(self._folder.kill)
                await ask(self._folder.remove)
                self._folder = None
            self._is_over.set()

    async def _leave(self, starting: Answering[None]) -> None:
        if not starting.is_answered:
            self.is_stuck = True  # It starts, and nobody wants it any more.
            return
        if self._folder is not None:
            await ask(self._folder.kill if self._is_gone else self._folder.let_leave)
            _have_it_ended_by(self._folder)
        leaving = Answering(ray.shutdown)
        with move_on_after(CLOSE_SECONDS):
            await leaving.reply
            return
        log.warning("The head of the Ray cluster does not answer: leaving it all the same.")
        if self._folder is not None:
            await ask(self._folder.kill)
            with move_on_after(CLOSE_SECONDS):
                await leaving.reply
                return
        self.is_stuck = True

    async def look(self) -> None:
        """Ask what resources it has now. Several who ask at a time wait for one reply, and nobody for a silent head."""
        if self._looking is None or self._looking.is_answered:
            self._looking, self._looks_until = Answering(_resources), current_time() + RESOURCES_SECONDS
        with CancelScope(deadline=self._looks_until, shield=True):
            self.resources = await self._looking.reply
            return
        log.warning("The head of the Ray cluster does not answer: its resources are those of before.")

    def tidy(self) -> None:
        """Remove, by and by, what processes that have ended left behind."""
        if self._folder is not None:
            Answering(self._folder.tidy)

    async def until_gone(self) -> str:
        """Return when the raylet of this driver or the head of the cluster is gone; says which."""
        gone: list[str] = []
        async with create_task_group() as watches:

            async def watch(what: str, address: Address) -> None:
                await until_gone(address)
                gone.append(what)
                watches.cancel_scope.cancel()

            watches.start_soon(watch, "The head of the Ray cluster is gone.", self.address)
            if (raylet := _raylet_socket()) is not None:
                watches.start_soon(watch, "The raylet of this host is gone.", raylet)
        self._is_gone = True
        return gone[0]

    def _start(self) -> None:
        # Ray tells everybody that it left the signals to us, which is what we want.
        logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.getMessage())
        try:
            if self._folder is not None:
                self._start_local(self._folder.path)
            elif self._config.cluster is not None:
                self._join(self._config.cluster)
        except Exception as error:
            # What Ray raises when its processes were not there in time.
            if type(error) is Exception or (isinstance(error, RuntimeError) and "Timed out" in str(error)):
                raise OSError(f"Ray did not start: {error}") from error
            # ValueError: what this host has does not do for a Ray, of memory for instance.
            if not isinstance(error, OSError | RuntimeError | ValueError):
                raise
            if self._config.cluster is None:
                raise Misconfigured(f"Ray cannot be started on this host: {error}") from error
            if isinstance(error, OSError):
                raise OSError(f"Ray cannot be reached at {self._config.cluster}: {error}.") from error
            raise Misconfigured(
                f"Ray cannot be joined at {self._config.cluster}: {error}. If the cluster asks for a token, set "
                "RAY_AUTH_TOKEN."
            ) from error
        self.address = ray.get_runtime_context().gcs_address

    def _start_local(self, folder: Path) -> None:
        # Inherited by every process of this cluster; a runtime_env would cost each first task a second.
        os.environ["DJANGO_SETTINGS_MODULE"] = self._config.settings_module
        os.environ["PYTHONPATH"] = self._python_path()
        # Inherited as well. A service manager may signal every process of its unit: that is for us, who end this Ray
        # when the bodies have had their grace. Ray workers see to it that what bodies start is not concerned.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
        with _only_what_runs_tasks():
            ray.init(
                # Without an address Ray would attach to whatever runs on this host.
                address="local",
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=True,
                num_cpus=self._config.concurrency or _cpus(),
                _temp_dir=str(folder),
            )

    def _join(self, address: str) -> None:
        self._refuse_other_doors(address)
        self._preflight(address)
        runtime_env: dict[str, Any] = dict(self._config.options.ray_runtime_env)
        variables = {"DJANGO_SETTINGS_MODULE": self._config.settings_module}
        if not runtime_env.keys() & {"working_dir", "py_modules"}:
            variables["PYTHONPATH"] = self._python_path()  # the code is in the image, at the same place
        runtime_env["env_vars"] = {**variables, **runtime_env.get("env_vars", {})}
        ray.init(address=address, configure_logging=False, log_to_driver=True, runtime_env=runtime_env)

    def _python_path(self) -> str:
        parts = [str(self._config.project), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return os.pathsep.join(dict.fromkeys(part for part in parts if part))

    @staticmethod
    def _refuse_other_doors(address: str) -> None:
        if "://" not in address:
            return
        kind = "a Ray Client" if address.startswith("ray://") else "no Ray head's"
        raise Misconfigured(
            f"{address!r} is {kind} address. The supervisor is a driver on a Ray node: give it host:port of the head's "
            "GCS (6379 by default; http:// is the dashboard), with `ray start --address=... --num-cpus=0` on its own "
            "host."
        )

    @staticmethod
    def _preflight(address: str) -> None:
        """Knock first: ray.init blocks for minutes at a dead address."""
        if address == "auto":
            return
        try:
            with socket.create_connection(host_and_port(address), timeout=PREFLIGHT_SECONDS):
                return
        except ValueError:
            raise Misconfigured(f"The Ray address {address!r} is not host:port.") from None


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


def _resources() -> dict[str, float]:
    resources: Any = ray.cluster_resources
    return dict(resources())


def _have_it_ended_by(folder: Folder) -> None:
    """Have Ray end its processes at once, when it has left: each of its polite requests would wait for a second."""
    if sys.platform == "linux" and (node := _node()) is not None:

        def kill(**_: object) -> None:
            folder.kill()

        node.kill_all_processes = kill


def _raylet_socket() -> str | None:
    """Return the path of our raylet's socket; without, its head alone is watched."""
    return getattr(_node(), "raylet_socket_name", None)


def _node() -> Any:
    """Return what Ray knows of the processes that it has started, or None. There is no public name for it."""
    return getattr(getattr(ray, "_private").worker.global_worker, "node", None)  # noqa: B009 - for the type checkers
