"""Do the arguments of an enqueue fit the function of its task? Said at the enqueue, not by a worker minutes later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from django.tasks import Task

__all__ = ["bound", "check_arguments", "given_to", "parameters", "takes_given"]

MOST_SHOWN = 200  # Characters of a call that an error shows.


class _Fit(NamedTuple):
    """What of a signature decides at a glance."""

    signature: Signature
    positional: tuple[str, ...]
    required: frozenset[str]
    known: frozenset[str]
    is_open: bool  # It takes *args or **kwargs.
    takes_given: bool  # It has parameters for what we give it.


def check_arguments(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError, with the call and the signature, when the function cannot be called with these."""
    fit = _fit(task.func, given_to(task))
    if fit is None:
        return
    given = fit.positional[: len(args)]
    if (
        not fit.is_open
        and len(args) <= len(fit.positional)
        and fit.known.issuperset(kwargs)
        and fit.required.issubset((*given, *kwargs))
        and kwargs.keys().isdisjoint(given)
    ):
        return
    try:
        fit.signature.bind(*args, **kwargs)
    except TypeError as error:
        said = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        shown = said if len(said) <= MOST_SHOWN else f"{said[:MOST_SHOWN]} ..."
        raise TypeError(f"{task.name}{fit.signature} cannot be called with ({shown}): {error}.") from None


def given_to(task: Task[..., Any]) -> int:
    """Return how many leading parameters of its function are not for who enqueues: the context, and the worker."""
    return task.takes_context + (getattr(task, "worker", None) is not None)


def bound(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments by the names of their parameters, defaults included; None where these are not known."""
    fit = _fit(task.func, given_to(task))
    if fit is None:
        return None
    found = fit.signature.bind(*args, **kwargs)
    found.apply_defaults()
    return found.arguments


def takes_given(task: Task[..., Any]) -> bool:
    """Tell whether its function takes what is not for who enqueues, as far as that is known."""
    fit = _fit(task.func, given_to(task))
    return fit is None or fit.takes_given


def parameters(task: Task[..., Any]) -> Mapping[str, Parameter] | None:
    """Return the parameters that an enqueue gives, by their names; None where they are not known."""
    fit = _fit(task.func, given_to(task))
    return None if fit is None else fit.signature.parameters


@lru_cache(maxsize=10_000)
def _fit(function: Callable[..., Any], given: int) -> _Fit | None:
    try:
        # Of the function itself: what a decorator wraps may be called with something else.
        signature = Signature.from_callable(function, follow_wrapped=False)
    except ValueError:
        return None  # a builtin that does not tell
    parameters = [*signature.parameters.values()]
    while given and parameters and parameters[0].kind in _BY_POSITION:
        del parameters[0]
        given -= 1
    takes_any = any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters)
    named = [parameter for parameter in parameters if parameter.kind not in _VARIABLE]
    return _Fit(
        signature=signature.replace(parameters=parameters, return_annotation=Signature.empty),
        positional=tuple(parameter.name for parameter in named if parameter.kind in _BY_POSITION),
        required=frozenset(parameter.name for parameter in named if parameter.default is Parameter.empty),
        known=frozenset(parameter.name for parameter in named if parameter.kind in _BY_NAME),
        is_open=len(named) != len(parameters),
        takes_given=not given or takes_any,
    )


_VARIABLE = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
_BY_POSITION = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
_BY_NAME = {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
