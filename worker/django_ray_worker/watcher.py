"""With --reload: what a supervisor says to the process that watches over it, and what it asks of it.

They talk through a socket, one JSON object per line. Where it ends, that process has ended: then this one ends as by
SIGTERM.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from django_ray_worker.core.exceptions import Misconfigured

__all__ = ["SOCKET", "TOKEN", "Kept", "Watcher", "watcher"]

SOCKET = "DJANGO_RAY_IS_RELOADED"  # In the environment of a process that is watched over: its end of the socket.
TOKEN = "DJANGO_RAY_KEPT_TOKEN"  # noqa: S105 - likewise: of the Ray that is kept, for all who join it


@dataclass(frozen=True, slots=True)
class Kept:
    """A Ray on this host that outlives supervisors."""

    address: str
    folder: str
    keeper: int  # The process that has started it.


class Watcher:
    """The process that watches over this one."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._is_told_to_go = threading.Event()
        self._prepared_for: tuple[str | None] | None = None
        self._replies: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._hear, name="django-ray-watcher", daemon=True).start()

    def has_prepared(self, cluster: str | None) -> None:
        """Note that Ray was imported in advance, for this cluster, or the Ray that is kept."""
        self._prepared_for = (cluster,)

    def fits(self, cluster: str | None) -> bool:
        """Tell whether this process can be a driver there: Ray has read the environment, and does so once."""
        return self._prepared_for in {None, (cluster,)}

    def until_told_to_go(self) -> None:
        """Say that this process is prepared, and wait until it shall be the supervisor."""
        self._tell({"prepared": True})
        self._is_told_to_go.wait()

    def ready(self, *, sync: bool, cluster: str | None) -> None:
        """Say that this supervisor works, and where it runs tasks: its successor can be prepared for the same."""
        self._tell({"ready": {"sync": sync, "cluster": cluster}})

    def hand_over(self) -> None:
        """Leave the talk to the program that takes the place of this one in this process."""
        self._socket.set_inheritable(True)
        os.environ[SOCKET] = str(self._socket.fileno())

    def begin_anew(self) -> None:
        """Ask for another process when this one has ended."""
        self._tell({"anew": True})

    def ray(self, *, cpus: int | None, settings: str, path: str, gone: str) -> Kept:
        """Return the Ray that is kept, started if need be; never the one at an address that is gone.

        Waits for as long as that takes. OSError when it may work later, Misconfigured when not.
        """
        self._tell({"ray": {"cpus": cpus, "settings": settings, "path": path, "gone": gone}})
        match self._replies.get():
            case {"misconfigured": message}:
                raise Misconfigured(message)
            case {"failed": message}:
                raise OSError(message)
            case reply:
                return Kept(**reply)

    def _tell(self, what: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(what).encode() + b"\n")

    def _hear(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                match json.loads(line):
                    case {"go": _}:
                        self._is_told_to_go.set()
                    case reply:
                        self._replies.put(reply)
        self._replies.put({"failed": "The process that keeps Ray has ended."})
        os.kill(os.getpid(), signal.SIGTERM)


@cache
def watcher() -> Watcher | None:
    """Return the one of this process; None without --reload, and in the process that watches."""
    descriptor = os.environ.pop(SOCKET, None)  # it is for nobody that is started here
    return None if descriptor is None else Watcher(int(descriptor))
