"""What travels from an enqueue to its body: values of the classes in OPTIONS["CONTEXT"], kept in the row's carrier.

Each class says what to take along, and puts it in place around the body. A body never runs without what it was
enqueued with: a class that is not known here is an error, which gives the execution back. A row that carries
nothing costs a look at its carrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from django.utils.module_loading import import_string

from django_ray.bounds import shown
from django_ray.serialization import encode, jsonable

__all__ = ["CONTEXT", "MOST_CARRIED", "Carried", "Traveller", "captured", "carried", "carrying", "traveller"]

CONTEXT = "context"  # The key of the carrier; those of W3C are traceparent, tracestate and baggage.
MOST_CARRIED = 65_536  # Bytes of JSON of all values of an enqueue: a claim carries them.


class Traveller(Protocol):
    """A class of OPTIONS["CONTEXT"]. One instance of it serves all threads of a process."""

    def capture(self) -> Any:
        """Return what to take along, JSON, at the enqueue; None for nothing."""
        ...

    def restore(self, value: Any, /) -> AbstractContextManager[Any]:
        """Put that in place around the body."""
        ...


def captured(paths: Sequence[str]) -> dict[str, Any] | None:
    """Return what these classes take along now, by their paths; None for nothing. Any error names the class."""
    values: dict[str, Any] = {}
    for path in paths:
        try:
            value = traveller(path).capture()
        except Exception as error:
            raise RuntimeError(
                f"{path}, of the setting CONTEXT, could not capture: {type(error).__qualname__}: {error}"
            ) from error
        if value is None:
            continue
        try:
            values[path] = jsonable(value, "its value")
        except Exception as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{path}.capture() returned {shown(value)}, which cannot be stored: {error}") from error
        if (size := len(encode(values).encode())) > MOST_CARRIED:
            raise ValueError(
                f"{path}.capture() returned {shown(value)}: with it, what an enqueue takes along is {size:,} bytes of "
                f"JSON; {MOST_CARRIED:,} is the most."
            )
    return values or None


@cache
def traveller(path: str) -> Traveller:
    """Return the instance of a class in this process; ImportError or TypeError if there is none that fits."""
    found: Any = import_string(path)
    if not isinstance(found, type):
        raise TypeError(f"{path!r} is {shown(found)}, which is no class.")
    for name in ("capture", "restore"):
        if not callable(getattr(cast("Any", found), name, None)):
            raise TypeError(f"{path!r} has no method {name}().")
    return cast("Traveller", found())


@dataclass(frozen=True, slots=True)
class Carried:
    """Values that were taken along, in the order of the settings. It can be pickled."""

    values: tuple[tuple[str, Any], ...]

    def restore(self, stack: ExitStack) -> None:
        """Put them in place until the stack is closed; for a contextvars context that ends with it.

        What one of them raises has a note of its class.
        """
        for path, value in self.values:
            try:
                stack.enter_context(traveller(path).restore(value))
            except BaseException as error:
                with suppress(Exception):
                    error.add_note(f"Raised by {path}.restore(), of the setting CONTEXT.")
                raise
        _restored.set(self)


def carried(carrier: Any, paths: Sequence[str]) -> Carried | None:
    """Return what a row carries for these classes; LookupError for a class that is not among them."""
    values = cast("dict[str, Any]", carrier).get(CONTEXT) if isinstance(carrier, dict) else None
    if not values or not isinstance(values, dict):
        return None
    said = cast("dict[str, Any]", values)
    for path in said:
        if path not in paths:
            raise LookupError(f"It was enqueued with {path!r} in the setting CONTEXT, which has no such entry here.")
        traveller(path)  # what is wrong with it is no fault of the body
    return Carried(tuple((path, said[path]) for path in paths if path in said))


def carrying[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Return the function as it runs in another process with what is carried here; it can be pickled."""
    found = _restored.get()
    return function if found is None else cast("Callable[P, R]", _Carrying(function, found))


@dataclass(frozen=True, slots=True)
class _Carrying:
    function: Callable[..., Any]
    carried: Carried

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            self.carried.restore(stack)
            return self.function(*args, **kwargs)


# What is in place here.
_restored: ContextVar[Carried | None] = ContextVar("django_ray.restored", default=None)
