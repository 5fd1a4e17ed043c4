"""A Ray cluster that exists: joined, and left as it is."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import ray

from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.running.onray.environment import python_path
from django_ray_worker.running.onray.folder import Folder
from django_ray_worker.running.onray.node import did_not_start
from django_ray_worker.running.onray.sockets import host_and_port

if TYPE_CHECKING:
    from django_ray_worker.core.config import Config

__all__ = ["ExistingRay"]

PREFLIGHT_SECONDS = 5.0


class ExistingRay:
    """Of a driver that joins it. Its processes are for others to end."""

    is_here = False
    folder: Folder | None = None

    def __init__(self, address: str, config: Config) -> None:
        self._address = address
        self._config = config

    async def find(self, gone: str) -> None:
        """Do nothing: it is where it is, or comes back there."""

    def start(self) -> None:
        """Join it. OSError when that may work later, Misconfigured when not."""
        try:
            self._join()
        except Exception as error:
            if did_not_start(error):
                raise OSError(f"Ray did not start: {error}") from error
            if isinstance(error, OSError):
                raise OSError(f"Ray cannot be reached at {self._address}: {error}.") from error
            if not isinstance(error, RuntimeError | ValueError):
                raise
            raise Misconfigured(
                f"Ray cannot be joined at {self._address}: {error}. If the cluster asks for a token, set "
                "RAY_AUTH_TOKEN."
            ) from error

    def let_leave(self) -> None:
        """Leave its processes alone."""

    def prepare_end(self) -> None:
        """Leave its processes alone."""

    def kill(self) -> None:
        """Leave its processes alone."""

    def clear(self) -> None:
        """Do nothing."""

    def _join(self) -> None:
        self._refuse_other_doors(self._address)
        self._preflight(self._address)
        runtime_env: dict[str, Any] = dict(self._config.options.ray_runtime_env)
        variables = {"DJANGO_SETTINGS_MODULE": self._config.settings_module}
        if not runtime_env.keys() & {"working_dir", "py_modules"}:
            variables["PYTHONPATH"] = python_path(self._config.project)  # the code is in the image, at the same place
        runtime_env["env_vars"] = {**variables, **runtime_env.get("env_vars", {})}
        ray.init(address=self._address, configure_logging=False, log_to_driver=True, runtime_env=runtime_env)

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
