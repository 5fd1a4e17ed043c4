"""Spread the work inside one task over the cluster.

The functions run as Ray tasks of their own, with Django set up and its connections kept clean as in a task. A map from
inside a task on a full cluster cannot deadlock: while the task waits, Ray lends its CPU to the children. Without a Ray,
as in tests or with --sync, everything runs here, in order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "get_num_workers",
    "get_ray_resources",
    "get_total_cpus",
    "is_ray_available",
    "parallel_map",
    "parallel_starmap",
    "scatter_gather",
]


def is_ray_available() -> bool:
    """Tell whether this process is part of a Ray cluster."""
    ray: Any = sys.modules.get("ray")  # whoever has not imported it is not
    return ray is not None and ray.is_initialized()


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

    func may be nested or a closure. At most max_concurrency (twice the CPUs unless said otherwise) calls are submitted
    at a time; items may be a generator. The first error cancels the rest and is raised as itself.
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
    """Return [func(*item, **kwargs) for item in items], like parallel_map."""
    calls = (tuple(item) for item in items)
    return _spread(func, calls, kwargs, num_cpus=num_cpus, num_gpus=num_gpus, max_concurrency=max_concurrency)


def scatter_gather[Item, Part, Result](
    scatter: Callable[[Item], Part],
    items: Iterable[Item],
    gather: Callable[[list[Part]], Result],
    *,
    num_cpus: float = 1.0,
    max_concurrency: int | None = None,
) -> Result:
    """Return gather(parallel_map(scatter, items)); gather runs here."""
    return gather(parallel_map(scatter, items, num_cpus=num_cpus, max_concurrency=max_concurrency))


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
    remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(_call)
    shared, window = ray.put((func, kwargs)), max_concurrency or 2 * get_total_cpus()
    results: dict[int, Result] = {}
    pending: dict[Any, int] = {}
    try:
        for index, args in enumerate(calls):
            pending[remote.remote(shared, args)] = index
            while len(pending) >= window:
                _collect(ray, pending, results)
        while pending:
            _collect(ray, pending, results)
    except BaseException:
        for ref in pending:
            ray.cancel(ref)
        raise
    return [results[index] for index in range(len(results))]


def _collect(ray: Any, pending: dict[Any, int], results: dict[int, Any]) -> None:
    """Wait for one call and keep its result; raise its error."""
    (ref,), _ = ray.wait(list(pending), num_returns=1)
    index = pending.pop(ref)
    try:
        results[index] = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # The user's own exception, if it survived the journey.
        cause = error.cause
        raise cause if isinstance(cause, Exception) else error from None


def _call(shared: tuple[Callable[..., Any], dict[str, Any]], args: tuple[Any, ...]) -> Any:
    """Run one call in its Ray worker."""
    from django_ray.runtime.connections import upkeep
    from django_ray.runtime.entrypoint import prepare

    prepare()
    func, kwargs = shared
    with upkeep():
        return func(*args, **kwargs)


def _ray() -> Any:
    import ray

    return ray
