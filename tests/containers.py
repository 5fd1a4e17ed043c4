"""The containers, by the compose command of whoever runs the test: COMPOSE, else `docker compose`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

__all__ = ["Compose"]


class Compose:
    """The containers of one compose file, as a project of that name; they end with the block."""

    def __init__(self, file: Path, project: str, services: Sequence[str], *, is_kept: bool) -> None:
        self._services = services
        self._is_kept = is_kept
        command = shlex.split(os.environ.get("COMPOSE") or "docker compose")
        self._command = [*command, "--project-name", project, "--file", str(file)]

    def __enter__(self) -> Self:
        self._down()  # what a run that was killed has left
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for service in self._services:
                print(f"--- the end of the log of {service}", file=sys.stderr)
                print(self._run("logs", "--tail", "100", service, check=False), file=sys.stderr, flush=True)
        if not self._is_kept:
            self._down()

    def __call__(self, *arguments: str) -> str:
        """Run a command of compose and return what it says; what it complains of is raised when it fails."""
        return self._run(*arguments, check=True)

    def port(self, service: str, port: int) -> int:
        """Return the port of this host that leads to one of a service."""
        return int(self("port", service, str(port)).strip().splitlines()[-1].rpartition(":")[2])

    def _down(self) -> None:
        self._run("down", "-v", check=False)

    def _run(self, *arguments: str, check: bool) -> str:
        ended = subprocess.run(
            [*self._command, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        )  # fmt: skip
        if check and ended.returncode:
            raise SystemExit(f"compose {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stdout}")
        return ended.stdout
