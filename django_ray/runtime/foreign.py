"""The border between our code and a project's. What the project's raises becomes data here, of whatever class it is.

Not only bodies are the project's code: so are the import of a module, its __getattr__, receivers of signals, the
settings, AppConfig.ready, and the __str__ and the class of an exception. All of it may raise SystemExit, GeneratorExit,
KeyboardInterrupt or a BaseException of its own; none of that may end a process of ours, or touch another execution.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.utils.module_loading import import_string

from django_ray.retry import class_path
from django_ray.serialization import MAX_MESSAGE, MAX_TRACEBACK, clean_text

__all__ = [
    "Described", "begin_with_the_body", "contained", "described", "ends_process", "ignored", "is_below_a_body",
]  # fmt: skip

# The modules through which a body is called.
_BELOW_A_BODY = ("django_ray.", "asgiref.", "asyncio.", "concurrent.futures.")

log = logging.getLogger("django_ray.runtime")


def contained[Answer, Otherwise](
    do: Callable[[], Answer], otherwise: Callable[[BaseException], Otherwise]
) -> Answer | Otherwise:
    """Return what do() returns, or what otherwise makes of whatever it raises."""
    try:
        return do()
    except BaseException as error:
        if ends_process(error):
            raise
        return otherwise(error)


def ends_process(error: BaseException) -> bool:
    """Tell whether Ray ends this process on purpose; of that class itself, so that no code of the project answers."""
    return type(error) is SystemExit and hasattr(error, "ray_terminate_msg")


def ignored(what: str) -> Callable[[BaseException], None]:
    """Return what logs an error, and no more: what it came from changes no outcome."""

    def ignore(error: BaseException) -> None:
        found = described(error)
        contained(
            lambda: log.error("%s raised %s, which is ignored:\n%s", what, found.class_path, found.traceback),
            lambda _: None,  # a handler of the project's
        )

    return ignore


class Described(NamedTuple):
    """An exception as plain strings that PostgreSQL can store."""

    class_path: str
    message: str
    traceback: str
    mro: list[str]


def described(error: BaseException, named: Sequence[str] = ()) -> Described:
    """Describe an exception, whatever its class does about it; named are paths that a policy knows bases by."""
    kind = type(error)
    path = clean_text(contained(lambda: class_path(kind), lambda _: "builtins.BaseException"), 1000)
    message = contained(lambda: str(error), lambda broken: f"<no message: its __str__ raised {_name_of(broken)}>")
    text = contained(
        lambda: "".join(traceback.format_exception(error)),
        lambda broken: f"{_frames_of(error)}{path}: <formatting it raised {_name_of(broken)}>\n",
    )
    bases: list[str] = contained(lambda: [class_path(base) for base in kind.__mro__], lambda _: [path])
    bases += [other for other in set(named).difference(bases) if _is_a(error, other)]
    return Described(path, clean_text(message, MAX_MESSAGE), clean_text(text, MAX_TRACEBACK), bases)


def begin_with_the_body(error: BaseException) -> None:
    """Have its traceback begin where the body does: also for who logs it next."""
    frame = error.__traceback__
    while frame is not None and is_below_a_body(frame.tb_frame.f_globals.get("__name__", "")):
        frame = frame.tb_next
    if frame is not None:  # else it is ours
        error.__traceback__ = frame


def is_below_a_body(module: str) -> bool:
    """Tell whether bodies are called through a module of this name."""
    return module.startswith(_BELOW_A_BODY)


def _is_a(error: BaseException, path: str) -> bool:
    """Tell whether the path names a base; one that leads nowhere does not."""
    return contained(lambda: isinstance(error, import_string(path)), lambda _: False)


def _name_of(error: BaseException) -> str:
    return contained(lambda: clean_text(type(error).__qualname__, 1000), lambda _: "something")


def _frames_of(error: BaseException) -> str:
    return contained(lambda: "".join(traceback.format_tb(error.__traceback__)), lambda _: "")
