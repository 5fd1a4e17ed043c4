"""invoke(): one attempt inside a Ray worker. What the body does becomes data here; no exception of it leaves.

Sets Django up once per process, imports the task by its path and refuses anything that is not a Task, brackets the
body with Django's connection upkeep, and returns plain JSON-able values. It knows the row as the claim saw it, and
nothing of supervisors.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any, Literal, TypedDict

import django
from asgiref.sync import async_to_sync
from django.apps import apps
from django.tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
from django.tasks.base import TaskError
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.module_loading import import_string

from django_ray.exceptions import InvalidResult
from django_ray.options import Options
from django_ray.results import import_task, task_result
from django_ray.retry import class_path
from django_ray.rows import ClaimedRow
from django_ray.runtime.connections import Upkeep
from django_ray.runtime.interrupt import interruptible, was_interrupted
from django_ray.runtime.output import Output
from django_ray.serialization import clean_text, encode, jsonable
from django_ray.tracing import consumer

__all__ = ["ClaimedRow", "Envelope", "ErrorEnvelope", "ReturnedEnvelope", "invoke", "prepare", "run"]

MAX_MESSAGE = 10_000  # Characters of an error's message that are kept.
MAX_TRACEBACK = 100_000


class ReturnedEnvelope(TypedDict):
    """The body returned."""

    kind: Literal["returned"]
    result: str  # JSON text.
    output: str  # The last lines that it wrote.


class ErrorEnvelope(TypedDict):
    """The body raised, or cannot run at all."""

    kind: Literal["raised", "refused", "missing"]  # Missing: the code here does not know the task.
    exception_class_path: str
    message: str
    traceback: str
    mro: list[str]
    output: str


# What comes back: of plain strings, so that no class of the user's code crosses process borders.
type Envelope = ReturnedEnvelope | ErrorEnvelope


def prepare() -> None:
    """Set Django up, once per process."""
    if not apps.ready:
        django.setup()


def invoke(payload: str) -> Envelope:
    """Run one attempt; payload is the JSON of the claim."""
    prepare()
    with Upkeep():
        return run(ClaimedRow.of(payload))


def run(row: ClaimedRow) -> Envelope:
    """Run one attempt in a process where Django is set up."""
    try:
        task = import_task(row.callable_path)
        backend = task_backends[row.backend]
        result = task_result(task, row)
    except Exception as error:  # noqa: BLE001 - whatever importing the user's module raises
        return _error("missing", error)
    options = getattr(backend, "settings", None)
    task_started.send_robust(sender=type(backend), task_result=result)
    has_returned = False
    output = Output(f"{row.callable_path} {row.task_id}")
    try:
        with output, consumer(row):
            returned = _run_body(result)
            has_returned = True
            plain = jsonable(returned, "The result")
            encoded = _encode(plain, options)
        object.__setattr__(result, "_return_value", plain)
        _finish(result, TaskResultStatus.SUCCESSFUL)
        task_finished.send_robust(sender=type(backend), task_result=result)
    except BaseException as error:
        if hasattr(error, "ray_terminate_msg"):
            raise  # Ray ends this process on purpose.
        # A result that cannot be stored would be the same after another attempt.
        kind: Literal["raised", "refused"] = "refused" if has_returned and isinstance(error, Exception) else "raised"
        envelope = _error(kind, error, _classes_named(row, options), output.text)
        if not was_interrupted() and _is_last(row, envelope, options):
            # Inside the except block, so that Django's logger finds the traceback.
            result.errors.append(_task_error(envelope))
            _finish(result, TaskResultStatus.FAILED)
            task_finished.send_robust(sender=type(backend), task_result=result)
        return envelope
    return {"kind": "returned", "result": encoded, "output": output.text}


def _run_body(result: TaskResult[..., Any]) -> Any:
    task = result.task
    context: tuple[Any, ...] = (TaskContext(task_result=result),) if task.takes_context else ()
    if iscoroutinefunction(task.func):
        # Through async_to_sync, which keeps database connections with this thread.
        return async_to_sync(_awaited)(task.func(*context, *result.args, **result.kwargs))
    with interruptible():
        return task.func(*context, *result.args, **result.kwargs)


async def _awaited(body: Coroutine[Any, Any, Any]) -> Any:
    """Await the body in a task that an interrupt cancels."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101
    with interruptible(lambda: loop.call_soon_threadsafe(task.cancel)):
        return await body


def _encode(plain: Any, options: Options | None) -> str:
    encoded = encode(plain)
    size = len(encoded.encode())
    if options is not None and size > options.max_result_bytes:
        raise InvalidResult(
            f"The result is {size:,} bytes of JSON; MAX_RESULT_BYTES allows {options.max_result_bytes:,}. "
            "Store it elsewhere and return where it is."
        )
    return encoded


def _is_last(row: ClaimedRow, envelope: ErrorEnvelope, options: Options | None) -> bool:
    """Tell whether the policy will not try again; the supervisor decides by the same rule."""
    if envelope["kind"] == "refused" or options is None:
        return True
    policy = options.of(row.queue_name, row.options).retry
    return not policy.retries_failure(row.failures + 1, envelope["mro"])


def _classes_named(row: ClaimedRow, options: Options | None) -> tuple[str, ...]:
    if options is None:
        return ()
    policy = options.of(row.queue_name, row.options).retry
    return (*(policy.retry_on or ()), *policy.no_retry_on)


def _bases(error: BaseException, named: Sequence[str]) -> list[str]:
    """Return the paths of the bases, and those by which the policy names one of them from elsewhere."""
    paths = [class_path(base) for base in type(error).__mro__]
    for path in set(named).difference(paths):
        with suppress(Exception):  # a path of the policy's that leads nowhere names no base
            if isinstance(error, import_string(path)):
                paths.append(path)
    return paths


def _finish(result: TaskResult[..., Any], status: Any) -> None:
    # For receivers in this process; the row gets the database's time.
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "status", status)


def _task_error(envelope: ErrorEnvelope) -> Any:
    return TaskError(exception_class_path=envelope["exception_class_path"], traceback=envelope["traceback"])


def _error(
    kind: Literal["raised", "refused", "missing"], error: BaseException, named: Sequence[str] = (), output: str = ""
) -> ErrorEnvelope:
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a __str__ of the user's may raise anything
        message = f"<no message: its __str__ raised {type(broken).__qualname__}>"
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as broken:  # noqa: BLE001 - likewise
        text = f"<no traceback: formatting it raised {type(broken).__qualname__}>\n"
    return {
        "kind": kind,
        "exception_class_path": clean_text(class_path(type(error)), 1000),
        "message": clean_text(message, MAX_MESSAGE),
        "traceback": clean_text(text, MAX_TRACEBACK),
        "mro": _bases(error, named),
        "output": output,
    }
