"""Spread the work inside one task over the cluster.

The functions run as Ray tasks of their own, with Django set up and its connections kept clean as in a task. A map from
inside a task on a full cluster cannot deadlock: while the task waits, Ray lends its CPU to the children. Without a Ray,
as in tests or with --sync, everything runs here, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import cache
from typing import Any

from django_ray.carrying import carrying
from django_ray.runtime.output import Output
from django_ray.runtime.preparation import prepare
from django_ray.runtime.rayworker import MAX_CALLS, end_after_answer, is_on_ray

__all__ = [
    "get_num_workers",
    "get_ray_resources",
    "get_total_cpus",
    "is_ray_available",
    "parallel_map",
    "parallel_starmap",
    "scatter_gather",
]

COOPERATE_SECONDS = 1.0  # That cancelled calls get before their processes are killed; less than a cancelled task gets.


def is_ray_available() -> bool:
    """Tell whether this process is part of a Ray cluster."""
    return is_on_ray()


def get_ray_resources() -> dict[str, float]:
    """Return what the cluster has in all, by resource; empty without Ray."""
    return dict(_ray().cluster_resources()) if is_ray_available() else {}


def get_total_cpus() -> int:
    """Return the CPUs of the cluster; 1 without Ray."""
    return max(1, int(get_ray_resources().get("CPU", 1)))


def get_num_workers() -> int:
    """Return the number of living nodes of the cluster; 1 without Ray."""
    return sum(node["Alive"] for node in _ray().nodes()) if is_ray_available() else 1


def parallel_map[Item, Result](
    func: Callable[..., Result],
    items: Iterable[Item],
    *,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    max_concurrency: int | None = None,
    **kwargs: Any,
) -> list[Result]:
    """Return [func(item, **kwargs) for item in items], computed on the cluster.

    func may be nested or a closure; each call holds num_cpus and num_gpus (numbers of them, fractions too). At most
    max_concurrency calls (twice the CPUs of the cluster unless said otherwise) are submitted at a time; items may be
    a generator.

    The first error ends the other calls, is raised as itself and has the traceback of its Ray worker as its cause. An
    exception that cannot be pickled becomes a ray.exceptions.RayError that quotes it; a call that ends its process, by
    sys.exit() too, a WorkerCrashedError. ValueError when max_concurrency is less than 1.
    """
    calls = ((item,) for item in items)
    return _spread(func, calls, kwargs, num_cpus=num_cpus, num_gpus=num_gpus, max_concurrency=max_concurrency)


def parallel_starmap[Result](
    func: Callable[..., Result],
    items: Iterable[Iterable[Any]],
    *,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    max_concurrency: int | None = None,
    **kwargs: Any,
) -> list[Result]:
    """Return [func(*item, **kwargs) for item in items]; the rest is as with parallel_map."""
    calls = (tuple(item) for item in items)
    return _spread(func, calls, kwargs, num_cpus=num_cpus, num_gpus=num_gpus, max_concurrency=max_concurrency)


def scatter_gather[Item, Part, Result](
    scatter: Callable[[Item], Part],
    items: Iterable[Item],
    gather: Callable[[list[Part]], Result],
    *,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    max_concurrency: int | None = None,
    **kwargs: Any,
) -> Result:
    """Return gather(parallel_map(scatter, items, **kwargs)); gather runs here, once, with the parts in order."""
    calls = ((item,) for item in items)
    return gather(
        _spread(scatter, calls, kwargs, num_cpus=num_cpus, num_gpus=num_gpus, max_concurrency=max_concurrency)
    )


def _spread[Result](
    func: Callable[..., Result],
    calls: Iterable[tuple[Any, ...]],
    kwargs: dict[str, Any],
    *,
    num_cpus: float,
    num_gpus: float,
    max_concurrency: int | None,
) -> list[Result]:
    if max_concurrency is not None and max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency!r}.")
    if not is_ray_available():
        return [func(*args, **kwargs) for args in calls]
    ray = _ray()
    remote = _remote().options(num_cpus=num_cpus, num_gpus=num_gpus)
    label = Output.entered[-1].label if Output.entered else ""
    shared, window = ray.put((_Prepared(), carrying(func), kwargs, label)), max_concurrency or 2 * get_total_cpus()
    results: dict[int, Result] = {}
    pending: dict[Any, int] = {}
    try:
        for index, args in enumerate(calls):
            pending[remote.remote(shared, (_Prepared(), args))] = index
            while len(pending) >= window:
                _collect(ray, pending, results)
        while pending:
            _collect(ray, pending, results)
    except BaseException:
        _end(ray, list(pending))
        raise
    return [results[index] for index in range(len(results))]


def _collect(ray: Any, pending: dict[Any, int], results: dict[int, Any]) -> None:
    """Wait for one call and keep its result; raise its error."""
    (ref,), _ = ray.wait(list(pending), num_returns=1)
    index = pending.pop(ref)
    try:
        results[index] = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # The user's own exception, if it survived the journey; Ray's tells where in the Ray worker it was raised.
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise


def _end(ray: Any, pending: list[Any]) -> None:
    """Cancel the calls, gently and then not: none of them may outlive the map, beside a retry of its task."""
    for force in (False, True):
        for ref in pending:
            ray.cancel(ref, force=force)
        if pending:
            ended, pending = ray.wait(pending, num_returns=len(pending), timeout=COOPERATE_SECONDS)
            for ref in ended:
                with suppress(Exception):
                    ray.get(ref)  # or Ray logs their errors as unhandled


class _Prepared:
    """Sets Django up where it is unpickled: what is pickled behind it may need models."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return prepare, ()


@cache
def _remote() -> Any:
    """Return the remote function; each new one would stay in the cluster's store for good."""
    return _ray().remote(max_retries=0, max_calls=MAX_CALLS)(_call)


def _call(shared: tuple[Any, Callable[..., Any], dict[str, Any], str], call: tuple[Any, tuple[Any, ...]]) -> Any:
    """Run one call in its Ray worker."""
    from django_ray.runtime.connections import Upkeep
    from django_ray.runtime.interrupt import interruptible, protected
    from django_ray.runtime.preparation import settle_in
    from django_ray.runtime.surroundings import apart, restored, spoiled_by

    _, func, kwargs, label = shared
    _, args = call
    try:
        with protected():
            settle_in()
            with Output(label) if label else nullcontext(), Upkeep(), restored(), interruptible():
                return apart(func, *args, **kwargs)
    finally:
        if spoiled_by():
            end_after_answer()


def _ray() -> Any:
    import ray

    return ray
