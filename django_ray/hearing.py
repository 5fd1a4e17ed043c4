"""Whether anybody hears Django's signals of a task.

Django listens itself, and logs. Where nobody else listens, and no handler shows that record, neither the record is made
nor the TaskResult that it needs: together a third of what a short task costs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from django.conf import settings
from django.dispatch import Signal
from django.tasks import signals
from django.utils.log import RequireDebugFalse, RequireDebugTrue

__all__ = ["is_heard"]

_logger = logging.getLogger("django.tasks")


def is_heard(signal: Signal) -> bool:
    """Tell whether it makes a difference to send it, of a task that has not failed."""
    of_django, level = _OF_DJANGO[signal]
    receivers = signal.receivers
    return not (len(receivers) == 1 and receivers[0] is of_django) or _shows(level)


def _entry(signal: Signal, function: Callable[..., Any]) -> Any:
    """Return what a signal holds of its receiver; None if this Django holds it in another way."""
    for entry in signal.receivers:
        if isinstance(entry, tuple) and any(callable(part) and part() is function for part in entry[1:2]):
            return entry
    return None


# The receiver that Django connects itself, and the level of the record that it makes.
_OF_DJANGO: Mapping[Signal, tuple[Any, int]] = {
    signals.task_enqueued: (_entry(signals.task_enqueued, signals.log_task_enqueued), logging.DEBUG),
    signals.task_started: (_entry(signals.task_started, signals.log_task_started), logging.INFO),
    signals.task_finished: (_entry(signals.task_finished, signals.log_task_finished), logging.INFO),
}


def _shows(level: int) -> bool:
    """Tell whether anything would come of a record of Django's, as far as only logging of the usual kind is there."""
    if not _logger.isEnabledFor(level):
        return False
    if _is_instrumented() or _logger.filters:
        return True
    logger: logging.Logger | None = _logger
    has_handler = False
    while logger is not None:
        for handler in logger.handlers:
            has_handler = True
            if handler.level <= level and not _is_shut(handler):
                return True
        logger = logger.parent if logger.propagate else None
    return not has_handler and logging.lastResort is not None and logging.lastResort.level <= level


def _is_shut(handler: logging.Handler) -> bool:
    """Tell whether the first filter of a handler lets nothing pass: one of Django's, by DEBUG."""
    kind = type(handler)
    return (
        bool(handler.filters)
        and type(handler.filters[0]) is (RequireDebugFalse if settings.DEBUG else RequireDebugTrue)
        and kind.handle is logging.Handler.handle
        and kind.filter is logging.Handler.filter
        and vars(handler).keys().isdisjoint({"handle", "filter"})
    )


def _methods() -> tuple[Any, ...]:
    """Return the methods through which a record goes on its way to the handlers."""
    kind: Any = logging.Logger
    return kind.info, kind.log, kind._log, kind.makeRecord, kind.handle, kind.filter, kind.callHandlers  # noqa: SLF001


def _is_usual(method: Any) -> bool:
    return type(method) is FunctionType and method.__code__.co_filename == logging.getLogger.__code__.co_filename


_METHODS = _methods()
_NAMES = frozenset(method.__name__ for method in _METHODS)
_ARE_USUAL = all(map(_is_usual, _METHODS))


def _is_instrumented() -> bool:
    """Tell whether something else than handlers may see a record, as error trackers and structured logging have it."""
    return not (
        _ARE_USUAL
        and _methods() == _METHODS
        and type(_logger) is logging.Logger
        and _NAMES.isdisjoint(vars(_logger))
        and _is_plain(logging.getLogRecordFactory())
    )


def _is_plain(factory: Any) -> bool:
    """Tell whether it makes records and does nothing else. Ray's adds the time, to those of the factory before it."""
    if getattr(factory, "__module__", "") != "ray._private.log":
        return factory is logging.LogRecord
    return all(cell.cell_contents is logging.LogRecord for cell in factory.__closure__ or ())
