"""invoke(): one attempt, where Django is set up. What the body does becomes data here; no exception of it leaves.

Imports the task by its path and refuses anything that is not a Task, brackets the body with Django's connection upkeep,
and returns plain JSON-able values. It knows the row as the claim saw it, and nothing of supervisors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cache, partial
from inspect import iscoroutinefunction
from typing import Any, Literal, TypedDict

from asgiref.sync import async_to_sync
from django.dispatch import Signal
from django.tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
from django.tasks.base import TaskError
from django.tasks.signals import task_finished, task_started
from django.utils import timezone

from django_ray.exceptions import InvalidResult
from django_ray.hearing import is_heard
from django_ray.options import Options
from django_ray.results import import_task, task_result
from django_ray.retry import RetryPolicy
from django_ray.rows import ClaimedRow
from django_ray.runtime.claimed import claimed_row
from django_ray.runtime.connections import Upkeep
from django_ray.runtime.foreign import begin_with_the_body, contained, described, ends_process, ignored
from django_ray.runtime.interrupt import interruptible, was_interrupted
from django_ray.runtime.mark import marked
from django_ray.runtime.output import Output
from django_ray.runtime.surroundings import restored
from django_ray.serialization import encode, jsonable
from django_ray.tracing import consumer

__all__ = ["ClaimedRow", "Envelope", "ErrorEnvelope", "ReturnedEnvelope", "envelope_of", "invoke", "run"]


class ReturnedEnvelope(TypedDict):
    """The body returned."""

    kind: Literal["returned"]
    result: str  # JSON text.
    output: str  # The last lines that it wrote.


class ErrorEnvelope(TypedDict):
    """The body raised, or cannot run at all."""

    kind: Literal["raised", "refused", "missing"]  # Missing: it was not begun, newer code or another process may.
    exception_class_path: str
    message: str
    traceback: str
    mro: list[str]
    output: str


# What comes back: of plain strings, so that no class of the user's code crosses process borders.
type Envelope = ReturnedEnvelope | ErrorEnvelope
# For a test, which is in the same process: it may want the exception itself.
type Witness = Callable[[BaseException], object]


class _Found:
    """What a row names, in the code that is here."""

    __slots__ = ("_result", "is_start_heard", "options", "row", "sender", "task", "timeout")

    def __init__(self, row: ClaimedRow) -> None:
        self.row = row
        self.task = import_task(row.callable_path)
        backend = task_backends[row.backend]
        self.sender: type[Any] = type(backend)
        self.options: Options | None = getattr(backend, "settings", None)  # None for a backend that is not ours.
        # Seconds that the body may run.
        self.timeout = None if self.options is None else self.options.timeout(row.queue_name, row.options)
        self._result: TaskResult[..., Any] | None = None
        self.is_start_heard = is_heard(task_started)
        if self.task.takes_context or self.is_start_heard:
            _ = self.result  # made before the body begins: what is wrong with the row is found now

    @property
    def result(self) -> TaskResult[..., Any]:
        """For the context and for receivers of signals. Made when it is wanted: most bodies can do without."""
        if self._result is None:
            self._result = task_result(self.task, self.row)
        return self._result


def invoke(payload: str, witness: Witness | None = None) -> Envelope:
    """Run one attempt; payload is the JSON of the claim. The witness is shown what the envelope describes."""
    kept: Envelope | None = None

    def attempt() -> Envelope:
        nonlocal kept
        with Upkeep():
            kept = run(claimed_row(payload), witness)
        return kept

    def otherwise(error: BaseException) -> Envelope:
        if kept is None:
            return _missing(witness, error)  # it was not begun
        ignored("The upkeep of the database connections")(error)
        return kept

    return contained(attempt, otherwise)


def run(row: ClaimedRow, witness: Witness | None = None) -> Envelope:
    """Run one attempt. Raises nothing, but what Ray ends this process with."""
    found = contained(lambda: _Found(row), partial(_missing, witness))
    if not isinstance(found, _Found):
        return found
    if found.is_start_heard:
        _send(task_started, found)
    has_returned, plain, encoded = False, None, None
    output = Output(f"{row.callable_path} {row.task_id} #{row.attempt_number} {row.queue_name}")
    try:
        with output, consumer(row):
            with restored(), marked(row.task_id, row.attempt_number):
                returned = _run_body(found)
            has_returned = True
            plain = jsonable(returned, "The result")
            encoded = _encode(plain, found.options)
    except BaseException as error:
        if ends_process(error):
            raise
        if encoded is None:
            if witness is not None:
                witness(error)
            # A result that cannot be stored would be the same after another attempt.
            return _failed(row, found, "refused" if has_returned else "raised", error, output)
        ignored("Tracing")(error)
    if is_heard(task_finished):
        _finish(found, {"status": TaskResultStatus.SUCCESSFUL, "_return_value": plain})
    return {"kind": "returned", "result": encoded, "output": output.text}


def _missing(witness: Witness | None, error: BaseException) -> ErrorEnvelope:
    if witness is not None:
        witness(error)
    return envelope_of("missing", error)


def _failed(
    row: ClaimedRow, found: _Found, kind: Literal["raised", "refused"], error: BaseException, output: Output
) -> ErrorEnvelope:
    """Return what is said of it; called inside the except block, so that Django's logger finds the traceback."""
    contained(lambda: begin_with_the_body(error), lambda _: None)
    policy = _policy(row, found.options)
    envelope = envelope_of(kind, error, _classes_named(policy), output.text)
    if not was_interrupted() and _is_last(row, envelope, policy):
        _finish(found, {"status": TaskResultStatus.FAILED}, _task_error(envelope))
    return envelope


def _run_body(found: _Found) -> Any:
    function, args, kwargs = found.task.func, found.row.args, found.row.kwargs
    if found.task.takes_context:
        args = [TaskContext(task_result=found.result), *args]
    if _is_coroutine_function(function):
        # Through async_to_sync, which keeps database connections with this thread.
        return async_to_sync(_awaited)(function(*args, **kwargs), found.timeout)
    with interruptible(timeout=found.timeout):
        return function(*args, **kwargs)


_is_coroutine_function = cache(iscoroutinefunction)  # asked at every attempt


async def _awaited(body: Coroutine[Any, Any, Any], timeout: float | None) -> Any:  # noqa: ASYNC109 - of the body
    """Await the body in a task that an interrupt cancels."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101
    with interruptible(lambda: loop.call_soon_threadsafe(task.cancel), timeout):
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


def _policy(row: ClaimedRow, options: Options | None) -> RetryPolicy | None:
    """Return the policy by which the supervisor decides; None when the code here is too old to know it."""
    if options is None:
        return RetryPolicy(max_attempts=1)
    return contained(lambda: options.of(row.queue_name, row.options).retry, lambda _: None)


def _is_last(row: ClaimedRow, envelope: ErrorEnvelope, policy: RetryPolicy | None) -> bool:
    """Tell whether the policy will not try again; the supervisor decides by the same rule."""
    if envelope["kind"] == "refused":
        return True
    return policy is not None and not policy.retries_failure(row.failures + 1, envelope["mro"])


def _classes_named(policy: RetryPolicy | None) -> tuple[str, ...]:
    return () if policy is None else (*(policy.retry_on or ()), *policy.no_retry_on)


_receiver_raised = ignored("A receiver of a task's signal")


def _send(signal: Signal, found: _Found) -> None:
    # Exceptions of a receiver are Django's to log; what else it may raise passes by Django.
    contained(lambda: signal.send_robust(sender=found.sender, task_result=found.result), _receiver_raised)


def _finish(found: _Found, changes: Mapping[str, Any], *errors: TaskError) -> None:
    def finish() -> None:
        result = found.result
        # For receivers in this process; the row gets the database's time.
        for name, value in {**changes, "finished_at": timezone.now()}.items():
            object.__setattr__(result, name, value)
        result.errors.extend(errors)
        _send(task_finished, found)

    contained(finish, ignored("The signal task_finished"))


def _task_error(envelope: ErrorEnvelope) -> Any:
    return TaskError(exception_class_path=envelope["exception_class_path"], traceback=envelope["traceback"])


def envelope_of(
    kind: Literal["raised", "refused", "missing"], error: BaseException, named: Sequence[str] = (), output: str = ""
) -> ErrorEnvelope:
    """Return what is said of an error; named are paths that a policy knows its bases by."""
    found = described(error, named)
    return {
        "kind": kind,
        "exception_class_path": found.class_path,
        "message": found.message,
        "traceback": found.traceback,
        "mro": found.mro,
        "output": output,
    }
