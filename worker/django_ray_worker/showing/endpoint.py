"""--metrics-port: /metrics for Prometheus, /healthz and /readyz for who restarts and routes.

A small HTTP server in a thread that ends with the process, so that it answers when the event loop does not. What it
tells is asked of the loop when somebody wants to know: while nobody asks, nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, cast, override
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.showing.exposition import Exposition

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from django_ray_worker.showing.monitor import Monitor

__all__ = ["Endpoint"]

log = logging.getLogger("django_ray.endpoint")

ANSWER_SECONDS = 5.0  # A loop that does not turn for so long is not healthy.
END_SECONDS = 1.0  # That the thread gets, where an operating system does not wake it: the loop stands meanwhile.
CLIENT_SECONDS = 10.0  # A client that says nothing for so long is left.


class Endpoint:
    """The port, from its opening to its end."""

    def __init__(self, host: str, port: int) -> None:
        self.observer = Exposition()
        self._metrics = make_wsgi_app(self.observer.registry)
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise Misconfigured(
                f"--metrics-port {port} cannot be opened on {host} ({error.strerror or error}): end what uses it, or "
                "give another port or --metrics-host."
            ) from None
        self.port = self._server.server_port

    @contextmanager
    def serving(self, monitor: Monitor) -> Generator[None]:
        """Answer while the block lasts; to be entered in the event loop."""
        self._monitor = monitor
        self._loop = asyncio.get_running_loop()
        self.observer.show(lambda: self._ask(monitor.figures), lambda: self._ask(monitor.obstacle))
        self._server.set_app(self._answer)
        thread = threading.Thread(target=self._server.run, name="django-ray-endpoint", daemon=True)
        thread.start()
        log.info("Metrics at port %d: /metrics, /healthz, /readyz.", self.port)
        try:
            yield
        finally:
            self._server.end(thread)

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                metrics: Any = self._metrics
                return cast("Iterable[bytes]", metrics(environ, start_response))
            case "/healthz":
                status, text = self._health(self._monitor.ailment)
            case "/readyz":
                status, text = self._health(self._monitor.obstacle)
            case _:
                status, text = HTTPStatus.NOT_FOUND, "There are /metrics, /healthz and /readyz."
        body = f"{text}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def _health(self, obstacle: Callable[[], str]) -> tuple[HTTPStatus, str]:
        try:
            reason = self._ask(obstacle)
        except TimeoutError:
            reason = "The event loop does not turn."
        return (HTTPStatus.SERVICE_UNAVAILABLE, reason) if reason else (HTTPStatus.OK, "ok")

    def _ask[Reply](self, question: Callable[[], Reply]) -> Reply:
        """Have the event loop answer; TimeoutError when it does not."""
        reply: Future[Reply] = Future()

        def answer() -> None:
            try:
                reply.set_result(question())
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                reply.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(answer)
        except RuntimeError:
            raise TimeoutError from None  # it has ended
        return reply.result(ANSWER_SECONDS)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._has_ended = False
        super().__init__((host, port), _Handler)

    @override
    def server_bind(self) -> None:
        # Not HTTPServer's: that asks the DNS for the name of this host, which may take long.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def run(self) -> None:
        """Serve until ended. Not serve_forever, which wakes up twice a second."""
        while not self._has_ended:
            self.handle_request()

    def end(self, thread: threading.Thread) -> None:
        """Stop listening; thread is the one of run."""
        self._has_ended = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # which ends the wait of run
        # Closed only when nobody waits for it: a socket opened next would get its number, and be waited for instead.
        thread.join(END_SECONDS)
        self.server_close()


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    @override
    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
