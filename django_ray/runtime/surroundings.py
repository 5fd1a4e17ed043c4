"""What a body finds around it in its process: the next one finds the same, whatever this one did to it.

Signals, the running event loop, the current folder, the umask and the standard streams are put right after each body,
and after the import of its module. What cannot be put right spoils the process: a Ray worker ends with the answer of
that body, and the next one gets another process. What a program configures (the environment, sys.path, logging, the
locale) stays as it is, because modules do that once, when they are imported.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from decimal import getcontext, setcontext
from threading import get_ident
from typing import Any

from django_ray.runtime.interrupt import keep_signals, take_signals_back

__all__ = ["apart", "keep_surroundings", "restored", "spoiled_by"]

log = logging.getLogger("django_ray.surroundings")

_DECIMAL = "decimal_context"  # The variable in which decimal keeps precision and rounding, where somebody has asked.

# In asyncio's __all__, for those who make event loops.
_running_loop: Any = getattr(asyncio, "_get_running_loop")  # noqa: B009 - for the type checkers
_set_running_loop: Any = getattr(asyncio, "_set_running_loop")  # noqa: B009


class _Surroundings:
    """Of this process, as they were when this was made."""

    def __init__(self) -> None:
        keep_signals()
        self._folder = _current_folder()
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self.modules = len(sys.modules)
        self.is_disturbed = False
        self.inside: int | None = None  # The thread in which a body runs.
        self.spoiled_by = ""

    def restore(self) -> None:
        """Put right what differs."""
        self.is_disturbed = True
        try:
            take_signals_back()
            if _running_loop() is not None:
                _set_running_loop(None)
                self._spoil("an event loop was left running.")
            os.umask(self._umask)
            if self._folder is not None:
                os.fchdir(self._folder)
            if (sys.stdin, sys.stdout, sys.stderr) != self._streams:
                sys.stdin, sys.stdout, sys.stderr = self._streams
        except Exception as error:  # noqa: BLE001 - what is wrong with it is for people to read
            self._spoil(f"{type(error).__qualname__}: {error}.")
        self.modules = len(sys.modules)
        self.is_disturbed = False

    def _spoil(self, how: str) -> None:
        self.spoiled_by = how
        log.warning("This task leaves its process unfit for others: %s", how)


def _current_folder() -> int | None:
    """Return a descriptor of it: it stays the same one if it is moved, as in a deploy. None if it cannot be opened."""
    with suppress(OSError):
        return os.open(".", os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
    return None


_kept: _Surroundings | None = None


def keep_surroundings() -> None:
    """Take what is found now for what every body shall find: once per process that runs bodies, when it is set up."""
    global _kept  # noqa: PLW0603 - there is one process
    if _kept is None:
        _kept = _Surroundings()


def apart[**P, R](do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call it in a context of its own: what it sets in context variables, the language among them, ends with it."""
    context = copy_context()
    for variable in context:
        if variable.name == _DECIMAL:
            context.run(_copy_decimal)
            break
    return context.run(do, *args, **kwargs)


def _copy_decimal() -> None:
    setcontext(getcontext().copy())  # it is changed in place


def spoiled_by() -> str:
    """Return what a body has done to this process that cannot be put right; empty if it is fit for another one."""
    return "" if _kept is None else _kept.spoiled_by


class restored:  # noqa: N801 - it is read as what it does
    """Bracket a body: it finds its surroundings as they were kept, and so does whatever comes after it."""

    __slots__ = ("_kept",)

    def __enter__(self) -> None:
        kept = _kept
        if kept is not None:
            thread = get_ident()
            if kept.inside == thread:
                kept = None  # a task that a task runs in place
            else:
                kept.inside = thread
                # Modules of the task that were imported meanwhile may have done anything.
                if kept.is_disturbed or kept.modules != len(sys.modules):
                    kept.restore()
        self._kept = kept

    def __exit__(self, *exception: object) -> None:
        if self._kept is not None:
            self._kept.inside = None
            self._kept.restore()
