"""Calls on Ray: claims go in, their outcomes come out. Knows nothing of the database.

One Ray task per call, which carries one claim or several short ones, and is never retried by Ray: the database counts.
What Ray's exceptions mean stands in one function at the end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import ray
from anyio import Event, create_task_group, current_time, get_cancelled_exc_class, move_on_after
from ray import exceptions

from django_ray_worker.core.exceptions import Misconfigured, Stuck
from django_ray_worker.core.limits import has_limits, left, overrun
from django_ray_worker.core.outcome import (
    Gone,
    Interrupted,
    Lost,
    Outcome,
    OutOfMemory,
    Refused,
    Unprepared,
    Unstarted,
)
from django_ray_worker.running.answer import Answer, NoAnswer, answer_of, refused, unprepared
from django_ray_worker.running.onray import functions
from django_ray_worker.running.onray.awaited import Awaited, Calls
from django_ray_worker.running.onray.cluster import Cluster, Ray
from django_ray_worker.running.onray.environment import python_path
from django_ray_worker.running.onray.existing import ExistingRay
from django_ray_worker.running.onray.hosts import Hosts
from django_ray_worker.running.onray.kept import KeptRay
from django_ray_worker.running.onray.local import LocalRay
from django_ray_worker.running.onray.probes import Probes
from django_ray_worker.running.onray.questions import HEAD_SECONDS, Answering, ask
from django_ray_worker.running.onray.replicas import Replica, Replicas
from django_ray_worker.running.onray.silence import Silence

if TYPE_CHECKING:
    from django_ray.runtime.snapshot import Snapshot
    from django_ray_worker.core.claim import Claim
    from django_ray_worker.core.config import Config
    from django_ray_worker.watcher import Watcher

__all__ = ["RayExecutor"]

log = logging.getLogger("django_ray.executor")

COOPERATE_SECONDS = 2.0  # That a body gets to end which is to be stopped, before its process is killed.
BEGIN_SECONDS = 600.0  # That a call with a timeout waits for a process or a CPU; Ray's own limit for an environment.
LOOK_AGAIN_SECONDS = 60.0  # At most, until it is looked again whether such a call has begun, or gone quiet.
MOST_LACKING = 8  # Calls that wait in Ray for what no node has yet, of each lane.
MOST_PER_CALL = 250  # Claims; more gain nothing.
INLINE_CHARACTERS = 50_000  # Larger payloads go by way of the raylet, which may stand still.
FIRST_DOUBT_SECONDS, LAST_DOUBT_SECONDS = 0.5, 16.0  # Between two looks at what the cluster has, after a call was lost.
ENDED_PROCESSES = 50  # After so many, what they have left is removed.

# Ways to end a call: ask its body to, have Ray end the process, end it ourselves where Ray's request is not heard.
type Way = Literal["cooperate", "force", "kill"]
COOPERATE: Way = "cooperate"
FORCE: Way = "force"
KILL: Way = "kill"


class RayExecutor:
    """A driver on a Ray cluster: one started here, or one that exists."""

    def __init__(self, config: Config, watcher: Watcher | None = None) -> None:
        self._config = config
        self._changed = Event()  # There are other resources or replicas, or other room was asked for.
        self._cluster = Cluster(_found(config, watcher), on_change=self._has_changed)
        self._is_alone = watcher is None
        self._hosts = Hosts(self._cluster)
        self._ended = 0  # Processes of calls, since they were tidied up after.
        self._calls = Calls()
        self._silence = Silence(self._cluster, self._hosts, self._calls, on_change=self.glance)
        self.is_usable = False
        self.most_per_call = MOST_PER_CALL
        self._is_elastic = config.is_elastic
        self._moved = Event()  # The cluster may have grown, or shrunk.
        # When to look again all the same: that a node is dead is known to a call before it is to the head.
        self._doubt_seconds = math.inf
        self._seen = 0  # How many CPUs it had when somebody was told of it last.
        self._probes = Probes(on_placed=self.glance, on_change=self._has_changed)
        self._replicas = Replicas(
            lambda: self._cluster.resources, lambda: self._cluster.nodes.silent, on_change=self._has_changed
        )

    @property
    def address(self) -> str:
        """Where the head of the cluster is; empty before it is there."""
        return self._cluster.address

    @property
    def cpus(self) -> int:
        """How many CPUs the cluster had when it was asked last; one that does not grow has one at least."""
        return max(0 if self._is_elastic else 1, int(self._cluster.resources.get("CPU", 0)))

    @property
    def resources(self) -> Mapping[str, float]:
        """What the cluster had in all when it was asked last; without what stands for single nodes."""
        return {
            name: number
            for name, number in self._cluster.resources.items()
            if not name.startswith(("node:", "object_store"))
        }

    @property
    def is_stuck(self) -> bool:
        """Tell whether this process can only end."""
        return self._cluster.is_stuck

    async def start(self) -> None:
        """Connect, and have Ray workers ready. OSError when that may work later, Misconfigured when not.

        Stuck when a thread hangs in Ray.
        """
        try:
            await self._cluster.start()
            await self._prepare()
        except Exception as error:
            await self.close()
            if self.is_stuck:
                raise Stuck(str(error)) from error
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
            except TimeoutError as error:
                failure = failure or error
            except exceptions.RayError as error:
                failure = failure or self._unprepared(error)
            race.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _start_workers(self) -> None:
        cpus = int(self._cluster.resources.get("CPU", 0))
        await ask(functions.export)
        self._seen = self.cpus
        if self._is_elastic and not cpus:
            log.info("The Ray cluster has no CPU yet: it is asked for some when something is enqueued.")
            return
        # A predecessor may still hold CPUs; and one process is at hand.
        refs = await ask(partial(functions.preparing, max(1, min(cpus, 16)) if self._is_alone else 1))
        if not cpus:
            log.info("The Ray cluster has no CPU yet: waiting for a node.")
        for ref in refs:
            await ref
        await self._cluster.look()
        self._seen = self.cpus

    def _unprepared(self, error: exceptions.RayError) -> Exception:
        """Return OSError when it was a node that went away."""
        if self._config.cluster is not None and not isinstance(_meaning(error), Refused | Unprepared):
            return OSError(f"A Ray worker of {self._config.cluster} is gone: {' '.join(str(error).split())}")
        return Misconfigured(
            f"A Ray worker could not set Django up (settings {self._config.settings_module!r}, project folder "
            f"{self._config.project}): {error}"
        )

    async def until_gone(self) -> str:
        """Return when the raylet of this driver or the head of the cluster is gone; says which."""
        async with create_task_group() as watches:
            if not self._cluster.is_here:
                watches.start_soon(self._silence.watch)
            reason = await self._cluster.until_gone()
            self.is_usable = False
            watches.cancel_scope.cancel()
            return reason
        raise AssertionError

    async def abandon(self) -> None:
        """Give up what runs on a cluster that is gone: every attempt was interrupted."""
        self.is_usable = False
        # What is awaited would never come after the shutdown.
        self._calls.abandon()
        await self.close()
        if self.is_stuck:
            raise Stuck("Ray cannot be left: its head does not answer.")

    async def close(self) -> None:
        """Leave the cluster; one started here ends."""
        self.is_usable = False
        self._probes.forget()
        self._replicas.forget()
        await self._cluster.close()
        functions.forget()

    @property
    def replicas(self) -> Mapping[str, int]:
        """How many replicas of each worker there are."""
        return self._replicas.figures

    def places(self, claim: Claim) -> int:
        """Return how many calls like that of this claim may run at a time, beside the slots.

        Of what the cluster lacks, a few wait in Ray: they are the demand that an autoscaler reads.
        """
        if claim.options.worker is not None:
            return self._replicas.places(claim.options)
        total, wanted = self._cluster.resources, _wanted(claim.options.ray)
        fits = min((int(total.get(name, 0) // number) for name, number in wanted.items() if number), default=self.cpus)
        return max(1, fits) if fits or not self._is_elastic else MOST_LACKING

    def grow(self, claim: Claim) -> None:
        """Have another replica of its worker, if there may be."""
        if claim.options.worker is not None and self.is_usable:
            self._replicas.grow(claim.options)

    def lacks(self, claim: Claim) -> dict[str, float]:
        """Return what the claim asks for and the cluster does not have in all; it may come with a new node."""
        wanted = _wanted(claim.options.ray)
        return {name: number for name, number in wanted.items() if self._cluster.resources.get(name, 0) < number}

    async def look(self) -> None:
        """Ask the cluster what it has now."""
        await self._cluster.look()

    def glance(self) -> None:
        """Look again soon."""
        self._moved.set()

    async def until_resized(self) -> None:
        """Return when the cluster has another number of CPUs."""
        while self.cpus == self._seen:
            with move_on_after(self._doubt_seconds):
                await self._moved.wait()
            self._moved = Event()
            self._doubt_seconds = 2 * self._doubt_seconds if self._doubt_seconds < LAST_DOUBT_SECONDS else math.inf
            if self.is_usable:
                await self._cluster.look()
        self._seen = self.cpus

    async def until_changed(self) -> None:
        """Return when the cluster has other resources or replicas, or is asked for other room."""
        await self._changed.wait()
        self._changed = Event()

    def _has_changed(self) -> None:
        self._changed.set()

    @property
    def wanted(self) -> int:
        """How many places it has not got yet."""
        return len(self._probes)

    def want(self, places: int) -> None:
        """Ask the cluster for so many places."""
        self._probes.want(places if self.is_usable else 0, self._cluster.nodes.silent)

    async def run(self, claims: Sequence[Claim]) -> Answer | NoAnswer:
        """Run the claims in one call. Cancelled: stop what runs, and still return what the others became."""
        if not self.is_usable:
            return NoAnswer(Unstarted())  # who waited for something else meanwhile has not been told that Ray is gone
        with self._calls.awaiting(claims, self._cluster.nodes.silent) as call:
            return await self._run(call)
        return NoAnswer(Gone("Ray is gone"))

    async def snapshot(self, claims: Sequence[Claim]) -> Snapshot | None:
        """Return what the body of one of these does now; None when none is found."""
        return await self._hosts.snapshot(claims) if self.is_usable else None

    async def _run(self, call: Awaited) -> Answer | NoAnswer:
        claims = call.claims
        options, replica = claims[0].options.ray, None
        try:
            if claims[0].options.worker is not None:
                ref, replica = self._replicas.submit(claims[0].options, [claim.payload for claim in claims])
                call.replica = replica
            else:
                ref = await self._submit(call)
        except (TypeError, ValueError) as error:
            return NoAnswer(refused(f"Ray refuses the options {dict(options)}: {error}"))
        except TimeoutError as error:
            log.warning("%s was not begun: %s", claims[0], error, extra=claims[0].log_fields)
            return NoAnswer(Unstarted())
        try:
            if has_limits(claims[0].options):
                return await self._within_limits(ref, claims, replica)
            return self._answer(await ref, replica)
        except exceptions.RayError as error:
            self._has_ended()
            if replica is not None:
                self._replicas.died(replica)
            self._doubt_seconds = FIRST_DOUBT_SECONDS  # It may have been its node that is gone.
            self.glance()
            has_begun = replica is None or replica.last_run is ref
            return NoAnswer(_meaning(error) if has_begun else Unstarted())
        except get_cancelled_exc_class():
            return await self._stop(call, ref, replica)
        finally:
            if replica is not None:
                self._replicas.ended(replica, ref)
            elif functions.ends_process(options):
                self._has_ended()

    async def _stop(self, call: Awaited, ref: Any, replica: Replica | None) -> Answer | NoAnswer:
        """End a call that nobody wants any more, or that was given up with its node; return what became of it."""
        if call.reason:
            gone = Gone(call.reason)
            answer = await self._end(ref, call.claims, replica, COOPERATE)
            if replica is not None:
                self._replicas.drop(replica)
            return answer.with_stopped_as(gone) if isinstance(answer, Answer) else answer or NoAnswer(gone)
        answer = await self._end(ref, call.claims, replica, COOPERATE, FORCE, KILL)
        if isinstance(answer, Answer):
            return answer.without_stopped()
        return NoAnswer(Interrupted()) if answer is None else answer

    async def _submit(self, call: Awaited) -> Any:
        payloads = [claim.payload for claim in call.claims]
        options = call.claims[0].options
        handle = functions.handle(options.ray, call.avoided, takes_batch=options.batch is not None)
        if sum(map(len, payloads)) <= INLINE_CHARACTERS:
            return handle.remote(payloads)
        submitting = Answering(lambda: handle.remote(payloads))
        with move_on_after(HEAD_SECONDS, shield=True):
            return await submitting.reply
        submitting.then(ray.cancel)
        raise TimeoutError("The raylet of this host does not answer.")

    async def _within_limits(self, ref: Any, claims: Sequence[Claim], replica: Replica | None) -> Answer | NoAnswer:
        """Await a call whose bodies have limits: the Ray worker heeds them, and knows when each has begun.

        Only what that does not reach is ended from here; so is what has not begun for a long time. Who gives signs of
        life is looked at more and more seldom.
        """
        options = claims[0].options
        of_time, of_silence = left(options)
        submitted, patience = current_time(), min(of_time, of_silence) + COOPERATE_SECONDS
        # Who has no timeout may wait for ever.
        begins_by = math.inf if options.timeout is None else max(BEGIN_SECONDS, of_time + COOPERATE_SECONDS)
        while True:
            with move_on_after(patience):
                return self._answer(await ref, replica)
            found = await self._hosts.find(claims)
            later = min(2 * patience, LOOK_AGAIN_SECONDS)
            if found is None and current_time() - submitted < begins_by:
                patience = later
            elif found is None:
                log.warning(
                    "%s was not begun: no process or CPU for it within %g s.",
                    claims[0], BEGIN_SECONDS, extra=claims[0].log_fields,
                )  # fmt: skip
                answer = await self._end(ref, claims, replica, COOPERATE, FORCE, KILL)
                return answer.with_stopped_as(Interrupted()) if isinstance(answer, Answer) else NoAnswer(Unstarted())
            else:
                ran, quiet = (seconds - COOPERATE_SECONDS for seconds in found)
                if (outcome := overrun(options, ran, quiet)) is not None:
                    answer = await self._end(ref, claims, replica, FORCE, KILL)
                    return answer.with_stopped_as(outcome) if isinstance(answer, Answer) else NoAnswer(outcome)
                of_time, of_silence = left(options, ran, quiet)
                patience = min(of_time, of_silence if of_silence < COOPERATE_SECONDS else max(of_silence, later))

    async def _end(
        self, ref: Any, claims: Sequence[Claim], replica: Replica | None, *ways: Way
    ) -> Answer | NoAnswer | None:
        """End what runs, in these ways one after the other; return what a body answered all the same.

        Or that it had not begun, where it is certain.
        """
        for way in ways:
            if not self.is_usable:
                break
            if way is KILL:
                await self._hosts.kill(claims)
            elif replica is None:
                ray.cancel(ref, force=way is FORCE)
            elif way is FORCE:
                self._replicas.kill(replica)
            else:
                # Ray takes back what a replica has not begun; what it runs is interrupted by its mark.
                ray.cancel(ref)
                await self._hosts.interrupt(claims)
            with move_on_after(COOPERATE_SECONDS, shield=True):
                try:
                    return answer_of(await ref)
                except exceptions.TaskCancelledError:
                    if way is COOPERATE:
                        # What has begun answers by itself, unless it is hit between its last body and its answer: then
                        # it runs again, as after any loss of an answer.
                        return NoAnswer(Unstarted())
                    break
                except exceptions.RayError:
                    break
        self._has_ended()
        return None

    def _answer(self, report: Any, replica: Replica | None) -> Answer:
        said: dict[str, Any] = report if isinstance(report, dict) else {}
        if replica is not None and (said.get("is_spoiled") or said.get("is_unprepared")):
            self._replicas.drop(replica)  # another process may be able to, or know newer code
        return answer_of(report)

    def _has_ended(self) -> None:
        """Note that a process has ended with its call."""
        self._ended = (self._ended + 1) % ENDED_PROCESSES
        if not self._ended:
            self._cluster.tidy()


def _found(config: Config, watcher: Watcher | None) -> Ray:
    if config.cluster is not None:
        return ExistingRay(config.cluster, config)
    if watcher is not None:
        return KeptRay(config, watcher)
    variables = {"DJANGO_SETTINGS_MODULE": config.settings_module, "PYTHONPATH": python_path(config.project)}
    return LocalRay(config.concurrency, variables)


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
            return Gone(_said(error))
        case exceptions.ActorDiedError() if "node has died" in str(error) or "node was terminated" in str(error):
            return Gone(_said(error))
        case exceptions.ActorUnschedulableError():
            return refused(f"Ray cannot run this task: {error}")
        case exceptions.OutOfMemoryError():
            return OutOfMemory(f"Memory ran out. {_said(error)}")
        case exceptions.TaskUnschedulableError():
            return refused(f"Ray cannot run this task: {error}")
        case exceptions.RuntimeEnvSetupError():
            return unprepared(f"Ray cannot prepare what the task asks for: {error}")
        case exceptions.RayTaskError():
            # What a task raises is an answer. This is a node without our code, or with one that does not understand us.
            return unprepared(f"A Ray worker could not begin:\n{error}")
        case _:
            return Lost(_said(error))


def _said(error: exceptions.RayError) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
