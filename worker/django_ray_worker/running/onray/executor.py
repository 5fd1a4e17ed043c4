"""The only door to Ray: claims go in, their outcomes come out. Knows nothing of the database.

One Ray task per call, which carries one claim or several short ones, and is never retried by Ray: the database counts.
What Ray's exceptions mean stands in one function at the end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from anyio import CancelScope, create_task_group, fail_after, get_cancelled_exc_class, move_on_after, to_thread
from ray import exceptions

from django_ray.runtime.call import invoke_on_ray
from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.core.outcome import Interrupted, Lost, Outcome, Refused
from django_ray_worker.running.answer import Answer, NoAnswer, answer_of, refused
from django_ray_worker.running.onray.sockets import Address, until_gone

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.core.config import Config

__all__ = ["RayExecutor"]

log = logging.getLogger("django_ray.executor")

COOPERATE_SECONDS = 2.0  # That a cancelled body gets before its process is killed.
PREFLIGHT_SECONDS = 5.0
HEAD_SECONDS = 30.0  # That the head gets for a reply.
MOST_PER_CALL = 250  # Claims; more gain nothing.


class RayExecutor:
    """A driver on a Ray cluster: one started here, or one that exists."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._remotes: dict[str, Any] = {}
        self._folder: str | None = None
        self._awaiting: set[CancelScope] = set()
        self._resources: dict[str, float] = {}
        self.address = ""
        self.is_usable = False
        self.most_per_call = MOST_PER_CALL
        self.cpus = 1

    async def start(self) -> None:
        """Connect, and have Ray workers ready. OSError when that may work later, Misconfigured when not."""
        # In a thread: on the main thread ray.init takes the signal handlers and stalls the loop for seconds. Not to be
        # abandoned: a stop waits until Ray is there to be shut down.
        try:
            await to_thread.run_sync(self._start)
            await self._prepare()
        except Exception:
            await self.close()
            raise
        self.is_usable = True

    async def _prepare(self) -> None:
        """Export the function, start the processes and set Django up before the first claim needs them.

        Where no node is yet, the first one is waited for, as long as there is a cluster.
        """
        failure: Exception | None = None
        async with create_task_group() as race:

            async def watch() -> None:
                nonlocal failure
                failure = OSError(await self.until_gone())
                race.cancel_scope.cancel()

            race.start_soon(watch)
            try:
                await self._start_workers()
            except TimeoutError:
                failure = failure or OSError("The head of the Ray cluster does not answer.")
            except exceptions.RayError as error:
                failure = failure or self._unprepared(error)
            race.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _start_workers(self) -> None:
        cpus = int(self._resources.get("CPU", 0))
        # The first call exports the function.
        refs = await _ask_head(partial(self._submit_nothing, max(1, min(cpus, 16))))
        if not cpus:
            log.info("The Ray cluster has no CPU yet: waiting for a node.")
        for ref in refs:
            await ref
        self._resources = await _ask_head(_cluster_resources)
        self.cpus = max(1, int(self._resources.get("CPU", 1)))

    def _submit_nothing(self, times: int) -> list[Any]:
        """Submit calls without claims, which set Django up."""
        remote = self._remote({})
        return [remote.remote([]) for _ in range(times)]

    def _unprepared(self, error: exceptions.RayError) -> Exception:
        """Return OSError when it was a node that went away."""
        if self._config.cluster is not None and not isinstance(_meaning(error), Refused):
            return OSError(f"A Ray worker of {self._config.cluster} is gone: {' '.join(str(error).split())}")
        return Misconfigured(
            f"A Ray worker could not set Django up (settings {self._config.settings_module!r}, project folder "
            f"{self._config.project}): {error}"
        )

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
        self.is_usable = False
        return gone[0]

    async def abandon(self) -> None:
        """Give up what runs on a cluster that is gone: every attempt was interrupted."""
        self.is_usable = False
        # What is awaited would never come after the shutdown.
        for scope in self._awaiting:
            scope.cancel()
        await self.close()

    async def close(self) -> None:
        """Leave the cluster; one started here ends."""
        self.is_usable = False
        with CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def lacks(self, claim: Claim) -> dict[str, float]:
        """Return what the claim asks for and the cluster does not have in all; it may come with a new node."""
        wanted = _wanted(claim.options.ray)
        if any(self._resources.get(name, 0) < number for name, number in wanted.items()):
            self._resources = _cluster_resources()
        return {name: number for name, number in wanted.items() if self._resources.get(name, 0) < number}

    async def run(self, claims: Sequence[Claim]) -> Answer | NoAnswer:
        """Run the claims in one call. Cancelled: stop what runs, and still return what the others became."""
        with CancelScope() as awaiting:
            self._awaiting.add(awaiting)
            try:
                return await self._run(claims)
            finally:
                self._awaiting.discard(awaiting)
        return NoAnswer(Interrupted())  # the cluster is gone

    async def _run(self, claims: Sequence[Claim]) -> Answer | NoAnswer:
        options = claims[0].options.ray
        try:
            ref = self._remote(options).remote([claim.payload for claim in claims])
        except (TypeError, ValueError) as error:
            return NoAnswer(refused(f"Ray refuses the options {dict(options)}: {error}"))
        try:
            return answer_of(await ref)
        except exceptions.RayError as error:
            return NoAnswer(_meaning(error))
        except get_cancelled_exc_class():
            return await self._stop(ref)

    async def _stop(self, ref: Any) -> Answer | NoAnswer:
        """End what runs, gently and then not."""
        for force in (False, True):
            if not self.is_usable:
                break
            ray.cancel(ref, force=force)
            with move_on_after(COOPERATE_SECONDS, shield=True):
                try:
                    return answer_of(await ref).without_stopped()
                except exceptions.RayError:
                    break
        return NoAnswer(Interrupted())

    def _remote(self, options: Mapping[str, Any]) -> Any:
        """Return the remote function for one shape of options; Ray wants few of them, and so do we."""
        key = json.dumps(options, sort_keys=True)
        if (remote := self._remotes.get(key)) is None:
            chosen: Any = {"num_cpus": 1, **options, "max_retries": 0}
            remote = ray.remote(**chosen)(invoke_on_ray)
            self._remotes[key] = remote
        return remote

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
        self._resources = _cluster_resources()

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
        self._remotes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


async def _ask_head[Reply](question: Callable[[], Reply]) -> Reply:
    """Return what the head has to reply: asked in a thread, because Ray waits for a dead one; TimeoutError if it is.

    Not to be cut short: a thread that is inside Ray and Ray's shutdown had better not meet.
    """
    with fail_after(HEAD_SECONDS, shield=True):
        return await to_thread.run_sync(question, abandon_on_cancel=True)


def _cluster_resources() -> dict[str, float]:
    resources: Any = ray.cluster_resources
    return dict(resources())


def _wanted(options: Mapping[str, Any]) -> dict[str, float]:
    """Return what options ask of the cluster, by Ray's names."""
    plain = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0), "memory": options.get("memory", 0)}
    return {**plain, **options.get("resources", {})}


def _raylet_socket() -> str | None:
    """Return the path of our raylet's socket. Ray has no public name for it; without, its head alone is watched."""
    worker: Any = getattr(ray, "_private").worker.global_worker  # noqa: B009 - for the type checkers
    return getattr(worker.node, "raylet_socket_name", None)


def _meaning(error: exceptions.RayError) -> Outcome:
    """Return what an exception of Ray's own says of the attempt. The body's exceptions never come this way."""
    match error:
        case exceptions.TaskCancelledError():
            return Interrupted()
        case exceptions.NodeDiedError() | exceptions.LocalRayletDiedError() | exceptions.ActorUnavailableError():
            return Interrupted()
        case exceptions.RuntimeEnvSetupError() | exceptions.TaskUnschedulableError():
            return refused(f"Ray cannot run this task: {error}")
        case exceptions.RayTaskError():
            return refused(f"The task could not be started in its Ray worker:\n{error}")
        case _:
            return Lost(f"{type(error).__name__}: {' '.join(str(error).split())}")
