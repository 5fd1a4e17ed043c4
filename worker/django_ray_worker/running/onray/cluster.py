"""The Ray that a supervisor is a driver of: one started here, or one that exists. Knows no claims.

Whatever Ray is asked is asked in a thread: it waits for a dead head, and would stall the event loop meanwhile.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from anyio import CancelScope, create_task_group, fail_after, to_thread

from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.running.onray.sockets import Address, until_gone

if TYPE_CHECKING:
    from django_ray_worker.core.config import Config

__all__ = ["Cluster", "ask_head"]

PREFLIGHT_SECONDS = 5.0
HEAD_SECONDS = 30.0  # That the head gets for a reply.


class Cluster:
    """Of one driver."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder: str | None = None
        self.address = ""
        self.resources: dict[str, float] = {}  # In all, by Ray's names, when they were asked for last.

    async def start(self) -> None:
        """Start it or join it. OSError when that may work later, Misconfigured when not."""
        # On the main thread ray.init takes the signal handlers and stalls the loop for seconds. Not to be abandoned: a
        # stop waits until Ray is there to be shut down.
        await to_thread.run_sync(self._start)

    async def close(self) -> None:
        """Leave it; one started here ends."""
        with CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def look(self) -> None:
        """Ask what resources it has now."""
        resources: Any = ray.cluster_resources
        self.resources = dict(resources())

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
        return gone[0]

    def _start(self) -> None:
        # Ray tells everybody that it left the signals to us, which is what we want.
        logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.getMessage())
        try:
            if self._config.cluster is None:
                self._start_local()
            else:
                self._join(self._config.cluster)
        except Exception as error:
            if type(error) is Exception:  # what Ray raises when its processes were not there in time
                raise OSError(f"Ray did not start: {error}") from error
            if not isinstance(error, OSError | RuntimeError):
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
        self.look()

    def _start_local(self) -> None:
        # Inherited by every process of this cluster; a runtime_env would cost each first task a second.
        os.environ["DJANGO_SETTINGS_MODULE"] = self._config.settings_module
        os.environ["PYTHONPATH"] = self._python_path()
        # Short, because socket paths below it must fit 107 bytes.
        self._folder = tempfile.mkdtemp(prefix="django-ray-", dir="/tmp")
        ray.init(
            # Without an address Ray would attach to whatever runs on this host.
            address="local",
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=True,
            num_cpus=self._config.concurrency,
            _temp_dir=self._folder,
        )

    def _join(self, address: str) -> None:
        self._refuse_client(address)
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
    def _refuse_client(address: str) -> None:
        if address.startswith("ray://"):
            raise Misconfigured(
                f"{address!r} is a Ray Client address. The supervisor is a driver on a Ray node: give it host:port of "
                "the head's GCS (6379 by default), with `ray start --address=... --num-cpus=0` on its own host."
            )

    @staticmethod
    def _preflight(address: str) -> None:
        """Knock first: ray.init blocks for minutes at a dead address."""
        if address == "auto":
            return
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=PREFLIGHT_SECONDS):
                return
        except ValueError:
            raise Misconfigured(f"The Ray address {address!r} is not host:port.") from None

    def _close(self) -> None:
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


async def ask_head[Reply](question: Callable[[], Reply]) -> Reply:
    """Return what the head has to reply: asked in a thread, because Ray waits for a dead one; TimeoutError if it is.

    Not to be cut short: a thread that is inside Ray and Ray's shutdown had better not meet.
    """
    with fail_after(HEAD_SECONDS, shield=True):
        return await to_thread.run_sync(question, abandon_on_cancel=True)


def _raylet_socket() -> str | None:
    """Return the path of our raylet's socket. Ray has no public name for it; without, its head alone is watched."""
    worker: Any = getattr(ray, "_private").worker.global_worker  # noqa: B009 - for the type checkers
    return getattr(worker.node, "raylet_socket_name", None)
