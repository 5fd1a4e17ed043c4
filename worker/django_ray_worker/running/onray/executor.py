"""Calls on Ray: claims go in, their outcomes come out. Knows nothing of the database.

One Ray task per call, which carries one claim or several short ones, and is never retried by Ray: the database counts.
What Ray's exceptions mean stands in one function at the end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from anyio import CancelScope, create_task_group, get_cancelled_exc_class, move_on_after
from ray import exceptions

from django_ray.runtime.call import invoke_on_ray
from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.core.outcome import Interrupted, Lost, Outcome, Refused
from django_ray_worker.running.answer import Answer, NoAnswer, answer_of, refused
from django_ray_worker.running.onray.cluster import Cluster, ask_head

if TYPE_CHECKING:
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.core.config import Config

__all__ = ["RayExecutor"]

log = logging.getLogger("django_ray.executor")

COOPERATE_SECONDS = 2.0  # That a cancelled body gets before its process is killed.
MOST_PER_CALL = 250  # Claims; more gain nothing.


class RayExecutor:
    """A driver on a Ray cluster: one started here, or one that exists."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._cluster = Cluster(config)
        self._remotes: dict[str, Any] = {}
        self._awaiting: set[CancelScope] = set()
        self.is_usable = False
        self.most_per_call = MOST_PER_CALL
        self.cpus = 1

    @property
    def address(self) -> str:
        """Where the head of the cluster is; empty before it is there."""
        return self._cluster.address

    async def start(self) -> None:
        """Connect, and have Ray workers ready. OSError when that may work later, Misconfigured when not."""
        try:
            await self._cluster.start()
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
        cpus = int(self._cluster.resources.get("CPU", 0))
        # The first call exports the function.
        refs = await ask_head(partial(self._submit_nothing, max(1, min(cpus, 16))))
        if not cpus:
            log.info("The Ray cluster has no CPU yet: waiting for a node.")
        for ref in refs:
            await ref
        await ask_head(self._cluster.look)
        self.cpus = max(1, int(self._cluster.resources.get("CPU", 1)))

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
        reason = await self._cluster.until_gone()
        self.is_usable = False
        return reason

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
        await self._cluster.close()
        self._remotes.clear()

    def lacks(self, claim: Claim) -> dict[str, float]:
        """Return what the claim asks for and the cluster does not have in all; it may come with a new node."""
        wanted = _wanted(claim.options.ray)
        if any(self._cluster.resources.get(name, 0) < number for name, number in wanted.items()):
            self._cluster.look()
        return {name: number for name, number in wanted.items() if self._cluster.resources.get(name, 0) < number}

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


def _wanted(options: Mapping[str, Any]) -> dict[str, float]:
    """Return what options ask of the cluster, by Ray's names."""
    plain = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0), "memory": options.get("memory", 0)}
    return {**plain, **options.get("resources", {})}


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
