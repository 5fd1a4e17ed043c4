"""What a Ray worker process has to say to its Ray, and to ask it, beside the answer of a call.

Elsewhere, as with --sync and in tests, there is no Ray to talk to.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

__all__ = ["MAX_CALLS", "end_after_answer", "is_cancelled", "is_on_ray", "is_ray_worker", "job", "node"]

log = logging.getLogger("django_ray.rayworker")

_WORKER_MODE = 1  # Ray's number of it.
# What is exported with this max_calls may run without end in one process, and can end it with its answer.
MAX_CALLS = 2**31 - 1


def is_on_ray() -> bool:
    """Tell whether this process is part of a Ray cluster."""
    return _ray() is not None


def is_ray_worker() -> bool:
    """Tell whether this process is one; a driver is not."""
    ray = _ray()
    with suppress(AttributeError):  # a Ray that says it in another way
        return ray is not None and bool(ray.get_runtime_context().worker.mode == _WORKER_MODE)
    return False


def is_cancelled() -> bool:
    """Tell whether the call on the main thread is, by what Ray knows."""
    if (ray := _ray()) is None:
        return False
    with suppress(AttributeError, RuntimeError):  # a Ray that cannot tell; a driver
        return bool(ray.get_runtime_context().is_canceled())
    return False


def job() -> str:
    """Return the number of the job that this process works for, as Ray has it; empty elsewhere."""
    if (ray := _ray()) is None:
        return ""
    return str(ray.get_runtime_context().get_job_id())


def node() -> str:
    """Return the id of the node that this process belongs to, as Ray has it; empty elsewhere."""
    if (ray := _ray()) is None:
        return ""
    return str(ray.get_runtime_context().get_node_id())


def end_after_answer() -> None:
    """Have Ray end this process with the answer of the call that runs.

    The answer is delivered, and nothing is sent to this process after it: it is as if max_calls was reached. Ray has no
    public way to say so.
    """
    if (ray := _ray()) is None:
        return
    try:
        manager = getattr(ray, "_private").worker.global_worker.function_actor_manager  # noqa: B009 - for the type checkers
        for function, execution in list(manager._function_execution_info.items()):  # noqa: SLF001
            if execution.max_calls:
                manager._num_task_executions[function] = execution.max_calls - 1  # noqa: SLF001
    except AttributeError:
        log.warning("This Ray worker should end and cannot: Ray counts the calls of a process in another way now.")


def _ray() -> Any:
    """Return Ray's module where it runs, else None."""
    ray: Any = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None
