"""What runs in Ray workers, as Ray's remote functions: few, exported once each, with the options of a call put on them.

Each export stays at the head for as long as the job lives, and waits for it; options cost neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from django_ray.runtime import mark
from django_ray.runtime.batch import invoke_batch
from django_ray.runtime.call import invoke_on_ray
from django_ray.runtime.libraries import load
from django_ray.runtime.rayworker import MAX_CALLS
from django_ray.runtime.snapshot import snapshot
from django_ray.runtime.warm import Replica

__all__ = [
    "ends_process", "export", "finding", "forget", "handle", "interrupting", "killing", "looking", "placing",
    "preparing", "probe", "replica", "spare",
]  # fmt: skip

MOST_HANDLES = 200  # Of shapes of options; making one takes as long as submitting it.
# A process is started for an environment of its own; with max_calls=1 no call of it has been there before.
_FRESH = "DJANGO_RAY_FRESH"
_NOWHERE = "django-ray-nowhere"


# With MAX_CALLS, a process can end itself with its answer.
_plain: Any = ray.remote(num_cpus=1, max_retries=0, max_calls=MAX_CALLS)(invoke_on_ray)
_ending: Any = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(invoke_on_ray)
_batch: Any = ray.remote(num_cpus=1, max_retries=0, max_calls=MAX_CALLS)(invoke_batch)
_replica: Any = ray.remote(Replica)
_finding: Any = ray.remote(num_cpus=0, max_retries=0)(mark.running)
_placing: Any = ray.remote(num_cpus=0, max_retries=0)(mark.running_on)
_loading: Any = ray.remote(num_cpus=0, max_retries=0)(load)
_killing: Any = ray.remote(num_cpus=0, max_retries=0)(mark.kill)
_interrupting: Any = ray.remote(num_cpus=0, max_retries=0)(mark.interrupt)
_looking: Any = ray.remote(num_cpus=0, max_retries=0)(snapshot)
_probing: Any = ray.remote(num_cpus=1, max_retries=0)(load)


def export() -> None:
    """Export all of them."""
    nowhere = {"resources": {_NOWHERE: 1}}
    # Submitted only to be exported, where no node has what they ask for: one that gets a process costs it.
    for ref in (
        _ending.options(**nowhere).remote([]),
        _finding.options(**nowhere).remote(),
        _placing.options(**nowhere).remote(""),
        _killing.options(**nowhere).remote([]),
        _interrupting.options(**nowhere).remote([]),
        _looking.options(**nowhere).remote([]),
        _batch.options(**nowhere).remote([]),
        _probing.options(**nowhere).remote(),
    ):
        ray.cancel(ref)
    # The first of a class waits for the head as well.
    ray.kill(_replica.options(**nowhere).remote())


def preparing(times: int) -> list[Any]:
    """Return references to so many calls without claims, which set Django up."""
    return [_plain.remote([]) for _ in range(times)]


def replica(options: Mapping[str, Any], avoided: tuple[str, ...]) -> Any:
    """Return a new actor with these options, on other nodes. TypeError or ValueError when Ray refuses them."""
    said = {name: value for name, value in options.items() if name != "max_calls"}
    if avoided:
        said["label_selector"] = {**_elsewhere(avoided), **(said.get("label_selector") or {})}
    try:
        return _replica.options(max_restarts=0, max_task_retries=0, **said).remote()
    except OSError as error:  # Ray looks at files that a runtime_env names, or seems to name
        raise ValueError(str(error)) from error


def spare() -> Any:
    """Return a reference to a call that needs nothing, and after which a process is at hand that knows Django."""
    return _loading.remote()


def probe(avoided: tuple[str, ...]) -> Any:
    """Return a reference to a call that takes a CPU, and ends when it has one; a process is at hand there then."""
    return (_probing.options(label_selector=_elsewhere(avoided)) if avoided else _probing).remote()


def handle(options: Mapping[str, Any], avoided: tuple[str, ...] = (), *, takes_batch: bool = False) -> Any:
    """Return what calls with these options are submitted to, to run anywhere but on the nodes that are avoided.

    TypeError or ValueError when Ray refuses them.
    """
    return _handle(json.dumps(options, sort_keys=True), avoided, takes_batch)


def forget() -> None:
    """Forget the handles: they know the job of the cluster that is left."""
    _handle.cache_clear()


def ends_process(options: Mapping[str, Any]) -> bool:
    """Tell whether the process of such a call ends with it. Ray's rule: a GPU's memory is free only then."""
    return bool(options.get("max_calls", options.get("num_gpus", 0)))


def finding(node: str) -> Any:
    """Return mark.running on that node."""
    return _finding.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def placing(node: str) -> Any:
    """Return mark.running_on on that node."""
    return _placing.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def killing(node: str) -> Any:
    """Return mark.kill on that node."""
    return _killing.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def interrupting(node: str) -> Any:
    """Return mark.interrupt on that node."""
    return _interrupting.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def looking(node: str) -> Any:
    """Return snapshot() on that node."""
    return _looking.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def _elsewhere(avoided: tuple[str, ...]) -> dict[str, str]:
    """Return Ray's label selector of all other nodes. Each node has its id as a label."""
    return {"ray.io/node-id": f"!in({','.join(avoided)})"}


@lru_cache(MOST_HANDLES)
def _handle(key: str, avoided: tuple[str, ...], takes_batch: bool) -> Any:  # noqa: FBT001 - of a cache
    options: dict[str, Any] = json.loads(key)
    if avoided:
        options["label_selector"] = {**_elsewhere(avoided), **(options.get("label_selector") or {})}
    plain = _batch if takes_batch else _plain
    if not options:
        return plain
    function = plain if takes_batch or not ends_process(options) else _ending
    if options.pop("max_calls", None):
        environment: dict[str, Any] = options.get("runtime_env") or {}
        options["runtime_env"] = {**environment, "env_vars": {**environment.get("env_vars", {}), _FRESH: "1"}}
    try:
        return function.options(**options)
    except OSError as error:  # Ray looks at files that a runtime_env names, or seems to name
        raise ValueError(str(error)) from error
