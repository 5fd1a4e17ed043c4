"""The command that this process was started with, so that another process can be it."""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass
from typing import Self

__all__ = ["Command"]

WITH_A_VALUE = {"-X", "-W"}


@dataclass(frozen=True, slots=True)
class Command:
    """Of Python."""

    flags: list[str]  # Of Python itself.
    kind: str  # "-c", "-m" or "" for a file.
    what: str
    arguments: list[str]

    @classmethod
    def ours(cls) -> Self | None:
        """Return that of this process; None when it is none that can be taken over, such as that of a debugger."""
        arguments = sys.argv[1:]
        given = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
        if given + arguments != sys.orig_argv[1:] or not given:
            return None
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        *flags, what = given
        kind = ""
        is_code = flags[-1:] == ["-c"] and sys.argv[0] == "-c"
        is_module = flags[-1:] == ["-m"] and spec is not None and spec.name.removesuffix(".__main__") == what
        if is_code or is_module:
            kind = flags.pop()
        elif what != sys.argv[0] or spec is not None:
            return None
        return cls(flags, kind, what, arguments) if _are_flags(flags) else None

    @property
    def parts(self) -> tuple[list[str], str, str, list[str]]:
        """What it is made from."""
        return self.flags, self.kind, self.what, self.arguments

    def run(self) -> None:
        """Be it, in this process."""
        sys.orig_argv = [sys.executable, *self.flags, *filter(None, [self.kind]), self.what, *self.arguments]
        sys.argv = [self.kind or self.what, *self.arguments]
        if not self.kind:
            sys.path[0] = os.path.dirname(os.path.realpath(self.what))  # noqa: PTH120 - as Python does
            runpy.run_path(self.what, run_name="__main__")
        elif self.kind == "-m":
            sys.path[0] = os.getcwd()  # noqa: PTH109
            runpy.run_module(self.what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(self.what, "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102 - it is our own command


def _are_flags(flags: list[str]) -> bool:
    values = {number + 1 for number, flag in enumerate(flags) if flag in WITH_A_VALUE}
    return all(number in values or flag.startswith("-") for number, flag in enumerate(flags))
