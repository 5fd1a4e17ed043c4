"""What Ray knows and has no public name for: of its processes on this host, and of nodes that drain."""

from __future__ import annotations

from typing import Any

import ray

__all__ = ["did_not_start", "draining", "node", "raylet_socket"]


def node() -> Any:
    """Return what Ray knows of the processes that it has started, or None."""
    return getattr(getattr(ray, "_private").worker.global_worker, "node", None)  # noqa: B009 - for the type checkers


def raylet_socket() -> str | None:
    """Return the path of our raylet's socket, if there is one."""
    return getattr(node(), "raylet_socket_name", None)


def did_not_start(error: Exception) -> bool:
    """Tell whether it is what Ray raises when its processes were not there in time."""
    return type(error) is Exception or (isinstance(error, RuntimeError) and "Timed out" in str(error))


def draining() -> frozenset[str]:
    """Ask the head which nodes drain; none where Ray's name for that is another one."""
    state: Any = getattr(getattr(getattr(ray, "_private"), "state", None), "state", None)  # noqa: B009 - as above
    nodes: Any = getattr(state, "get_draining_nodes", dict)
    return frozenset(nodes())
