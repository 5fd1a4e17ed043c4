"""invoke(): one attempt, where Django is set up. What the body does becomes data here; no exception of it leaves.

Imports the task by its path and refuses anything that is not a Task, brackets the body with Django's connection upkeep,
and returns plain JSON-able values. It knows the row as the claim saw it, and nothing of supervisors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import cache, partial
from inspect import iscoroutinefunction
from typing import Any, Literal, NotRequired, TypedDict

from asgiref.sync import async_to_sync
from django.dispatch import Signal
from django.tasks import TaskResult, TaskResultStatus, task_backends
from django.tasks.base import TaskError
from django.tasks.signals import task_finished, task_started
from django.utils import timezone

from django_ray.batching import columns, results_of, wants_batch, worker_of
from django_ray.carrying import carried
from django_ray.context import RayTaskContext, running
from django_ray.databases import database_of
from django_ray.exceptions import InvalidResult, TaskSuperseded, Unprepared
from django_ray.hearing import is_heard
from django_ray.membership import Membership, membership
from django_ray.metadata import checked as checked_metadata
from django_ray.metadata import metadata_of, with_metadata
from django_ray.options import Options
from django_ray.results import import_task, task_result
from django_ray.retry import RetryPolicy
from django_ray.rows import ClaimedRow, Fence
from django_ray.runtime import snapshot
from django_ray.runtime.claimed import claimed_row
from django_ray.runtime.completion import Completion, Result
from django_ray.runtime.connections import Upkeep
from django_ray.runtime.foreign import begin_with_the_body, contained, described, ends_process, ignored
from django_ray.runtime.interrupt import interruptible, was_interrupted
from django_ray.runtime.limits import Limits
from django_ray.runtime.mark import marked
from django_ray.runtime.output import Output
from django_ray.runtime.reporting import Reporter, save_metadata
from django_ray.runtime.surroundings import apart, restored
from django_ray.runtime.upstream import Given, Passed, carriers_of, given, upstreams_of
from django_ray.serialization import encode, jsonable
from django_ray.ticking import tick_of
from django_ray.tracing import consumer

__all__ = [
    "ClaimedRow", "Envelope", "ErrorEnvelope", "Found", "ReturnedEnvelope", "call_body", "envelope_of", "failed",
    "finish", "invoke", "missing", "run", "send",
]  # fmt: skip


log = logging.getLogger("django_ray.attempt")


class ReturnedEnvelope(TypedDict):
    """The body returned."""

    kind: Literal["returned"]
    result: str  # JSON text.
    output: str  # The last lines that it wrote.
    is_settled: NotRequired[bool]  # It is recorded already, in a transaction of the body.


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


class Found:
    """What a row names, in the code that is here."""

    # Most attempts want none of these.
    unfit: BaseException | None = None  # Why what the body returned cannot be stored.
    _completion: Completion | None = None
    _context: RayTaskContext | None = None
    _reporter: Reporter | None = None
    _result: TaskResult[..., Any] | None = None

    def __init__(self, row: ClaimedRow, limits: Limits | None, passed: Passed | None = None) -> None:
        self.row = row
        self.passed = passed
        self.task = import_task(row.callable_path)
        self.has_worker = getattr(self.task, "worker", None) is not None
        if self.has_worker:
            contained(partial(worker_of, self.task), self._without_worker)
        self.is_atomic: bool = getattr(self.task, "atomic", False)
        backend = task_backends[row.backend]
        self.sender: type[Any] = type(backend)
        self.options: Options | None = getattr(backend, "settings", None)  # None for a backend that is not ours.
        self.limits = limits or self._limits()
        self.output = Output(f"{row.callable_path} {row.task_id} #{row.attempt_number} {row.queue_name}")
        self.carried = (
            carried(row.carrier, () if self.options is None else self.options.context) if row.carrier else None
        )
        self.keeps_rows: bool = getattr(backend, "keeps_rows", False)
        self.membership = self._membership() if row.carrier else None
        # What the executions before it have returned: to read that may fail, which is no fault of the body.
        self.given: Given | Passed | None = given(row) if row.carrier and self.keeps_rows else passed
        self.is_start_heard = is_heard(task_started)
        if self.task.takes_context or self.is_start_heard:
            _ = self.result  # made before the body begins: what is wrong with the row is found now

    def _without_worker(self, error: BaseException) -> None:
        # A fact about this process: in another one it may be built, or here later.
        found = described(error)
        raise Unprepared(f"Its worker cannot be built: {found.class_path}: {found.message}") from error

    @property
    def database(self) -> str:
        """The one in which its row is."""
        return database_of(self.row.backend)

    @property
    def result(self) -> TaskResult[..., Any]:
        """For the context and for receivers of signals. Made when it is wanted: most bodies can do without."""
        if self._result is None:
            self._result = task_result(self.task, self.row)
        return self._result

    def _membership(self) -> Membership | None:
        """Return the flow that what the body enqueues belongs to."""
        row = self.row
        return Membership.of_row(row.task_id, row.carrier, self.database if self.keeps_rows else None)

    @property
    def completion(self) -> Completion:
        """The end of the execution in a transaction, for those who want that."""
        if self._completion is None:
            self._completion = Completion(self.row, self.output, keeps_rows=self.keeps_rows, checked=self.checked)
        return self._completion

    @property
    def completed(self) -> Result | None:
        """What a transaction has ended the execution with."""
        return None if self._completion is None else self._completion.result

    def arguments(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return those of the row, with what its upstreams have returned; whatever that raises."""
        if self.given is None:
            return self.row.args, self.row.kwargs
        try:
            return self.given.filled()
        except BaseException as error:
            self.unfit = error  # it would be the same after another attempt
            raise

    def context(self) -> RayTaskContext:
        """Return what the body can ask."""
        if self._context is None:
            fence = Fence.of_row(self.row) if self.keeps_rows else None
            self._reporter = Reporter(self.database, fence, self.output)
            self._context = RayTaskContext(
                task_result=self.result,
                _completing=self.completion.block,
                _report=self._report(self._reporter.report),
                _save=self.save,
                _upstreams=self._upstreams,
                metadata=deepcopy(metadata_of(self.row.carrier)),
                tick=tick_of(self.row.carrier),
            )
        return self._context

    def carriers(self, most: int) -> list[Any]:
        """Return what travels with its upstreams, for a trace."""
        has_upstreams = self.keeps_rows and "needs" in (self.row.options or {})
        return carriers_of(self.database, self.row.task_id, most) if has_upstreams else []

    def _upstreams(self) -> list[Any]:
        if self.keeps_rows:
            return upstreams_of(self.database, self.row.task_id)
        return [] if self.passed is None else [*self.passed.results]

    def save(self, metadata: Any) -> None:
        """Store the metadata."""
        plain = checked_metadata(metadata, "save_metadata()")
        if self.keeps_rows:
            save_metadata(self.database, Fence.of_row(self.row), plain)
        self.row.carrier = with_metadata(self.row.carrier, plain)
        object.__setattr__(self.result, "_carrier", self.row.carrier)  # for receivers of task_finished

    def _report(self, report: Callable[[float | None, str], None]) -> Callable[[float | None, str], None]:
        """Have what is said count as a sign of life, where that matters."""
        limits = self.limits
        if limits is None or not limits.wants_signs:
            return report

        def report_alive(fraction: float | None, message: str) -> None:
            report(fraction, message)
            limits.note()

        return report_alive

    def _limits(self) -> Limits | None:
        if self.options is None:
            return None
        timeouts = self.options.timeouts(self.row.queue_name, self.row.options)
        return None if timeouts == (None, None) else Limits(*timeouts)

    def close(self) -> None:
        """Have written what the body has said of its progress."""
        if self._reporter is not None:
            self._reporter.close()

    def checked(self, returned: Any) -> Result:
        """Return what the body returned as it is stored."""
        try:
            plain = jsonable(returned, "The result")
            return plain, _encode(plain, self.options)
        except BaseException as error:
            self.unfit = error
            raise


def invoke(payload: str, witness: Witness | None = None, limits: Limits | None = None) -> Envelope:
    """Run one attempt; payload is the JSON of the claim. The witness is shown what the envelope describes.

    Who watches the limits passes them; else they are as the row and the settings say, and watched here.
    """
    kept: Envelope | None = None

    def attempt() -> Envelope:
        nonlocal kept
        with Upkeep():
            kept = run(claimed_row(payload), witness, limits)
        return kept

    def otherwise(error: BaseException) -> Envelope:
        if kept is None:
            return missing(witness, error)  # it was not begun
        ignored("The upkeep of the database connections")(error)
        return kept

    return contained(attempt, otherwise)


def run(
    row: ClaimedRow,
    witness: Witness | None = None,
    limits: Limits | None = None,
    passed: Passed | None = None,
) -> Envelope:
    """Run one attempt. Raises nothing, but what Ray ends this process with.

    passed is what a double knows of its upstreams, which keeps no rows to read that from.
    """
    found = contained(lambda: Found(row, limits, passed), partial(missing, witness))
    if not isinstance(found, Found):
        return found
    # What the body sets in context variables, the language and the time zone among them, ends with it. What modules
    # set when they are imported has been set outside.
    return apart(_run if found.carried is None else _run_restored, found, witness)


def _run_restored(found: Found, witness: Witness | None) -> Envelope:
    """Run it with what it was enqueued with in place, for its signals too."""
    assert found.carried is not None  # noqa: S101
    stack = ExitStack()
    try:
        found.carried.restore(stack)
    except BaseException as error:
        if ends_process(error):
            raise
        if witness is not None:
            witness(error)
        return failed(found, "raised", error)
    else:
        return _run(found, witness)
    finally:
        contained(stack.close, ignored("The end of what a class of CONTEXT had restored"))


def _run(found: Found, witness: Witness | None) -> Envelope:
    if found.is_start_heard:
        send(task_started, found)
    result: Result | None = None
    try:
        with found.output, consumer(found.row, found.carriers):
            result = _run_atomically(found) if found.is_atomic else found.checked(_run_in_place(found))
    except BaseException as error:
        if ends_process(error):
            raise
        result = found.completed or result
        if result is None:
            if witness is not None:
                witness(error)
            # A result that cannot be stored would be the same after another attempt.
            return failed(found, "refused" if error is found.unfit else "raised", error)
        ignored("What came after the end of the body")(error)
    completed = found.completed
    plain, encoded = completed or result
    if is_heard(task_finished):
        finish(found, {"status": TaskResultStatus.SUCCESSFUL, "_return_value": plain})
    envelope: ReturnedEnvelope = {"kind": "returned", "result": encoded, "output": found.output.text}
    if completed is not None and found.keeps_rows:
        envelope["is_settled"] = True
    return envelope


def _run_atomically(found: Found) -> Result:
    with found.completion.block() as done:
        done(_run_in_place(found))
    assert found.completed is not None  # noqa: S101
    return found.completed


def _run_in_place(found: Found) -> Any:
    try:
        with restored(), marked(found.row.task_id, found.row.attempt_number):
            return _run_body(found)
    finally:
        found.close()


def missing(witness: Witness | None, error: BaseException) -> ErrorEnvelope:
    """Return what is said of one that was not begun."""
    if witness is not None:
        witness(error)
    return envelope_of("missing", error)


def failed(found: Found, kind: Literal["raised", "refused"], error: BaseException) -> ErrorEnvelope:
    """Return what is said of it; called inside the except block, so that Django's logger finds the traceback."""
    contained(lambda: begin_with_the_body(error), lambda _: None)
    policy = _policy(found.row, found.options)
    envelope = envelope_of(kind, error, _classes_named(policy), found.output.text)
    if isinstance(error, TaskSuperseded):
        log.warning("%s", error)  # how the execution ends, somebody else says
    elif not was_interrupted() and _is_last(found.row, envelope, policy):
        finish(found, {"status": TaskResultStatus.FAILED}, _task_error(envelope))
    return envelope


def _run_body(found: Found) -> Any:
    if found.membership is not None:
        membership.set(found.membership)
    args, kwargs = found.arguments()
    if not wants_batch(found.task):
        running.set(found.context)
        return call_body(found, args, kwargs)
    try:
        (result,) = results_of(found.task, call_body(found, *columns(found.task, [(args, kwargs)])), 1)
    except InvalidResult as error:
        found.unfit = error
        raise
    if isinstance(result, BaseException):
        raise result
    return result


def call_body(found: Found, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call it with these, and what it gets of us: the context first, then its worker."""
    function = found.task.func
    if found.has_worker:
        args = [worker_of(found.task), *args]
    if found.task.takes_context:
        args = [found.context(), *args]
    if _is_coroutine_function(function):
        # Through async_to_sync, which keeps database connections with this thread.
        return async_to_sync(_awaited)(function(*args, **kwargs), found.limits)
    with interruptible(limits=found.limits):
        return function(*args, **kwargs)


_is_coroutine_function = cache(iscoroutinefunction)  # asked at every attempt


async def _awaited(body: Coroutine[Any, Any, Any], limits: Limits | None) -> Any:
    """Await the body in a task that an interrupt cancels."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101
    snapshot.awaiting(task)
    with interruptible(lambda: loop.call_soon_threadsafe(task.cancel), limits):
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


def send(signal: Signal, found: Found) -> None:
    """Send a signal of a task."""
    # Exceptions of a receiver are Django's to log; what else it may raise passes by Django.
    contained(lambda: signal.send_robust(sender=found.sender, task_result=found.result), _receiver_raised)


def finish(found: Found, changes: Mapping[str, Any], *errors: TaskError) -> None:
    """Tell receivers that it has ended."""

    def tell() -> None:
        running.set(found.context)  # a batch has none: who hears of an error may ask of which execution it is
        result = found.result
        # For receivers in this process; the row gets the database's time.
        for name, value in {**changes, "finished_at": timezone.now()}.items():
            object.__setattr__(result, name, value)
        result.errors.extend(errors)
        send(task_finished, found)

    contained(tell, ignored("The signal task_finished"))


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
