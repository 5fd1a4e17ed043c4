"""django-ray-listen: arguments, logging, exit codes. The same as manage.py django_ray_listen.

Exit codes: 0 it was told to stop, or drained; 78 it cannot work as configured, one sentence says why; 1 something
failed for good.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from django_ray_worker.core.signals import ending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django_ray_worker.core.config import Config

__all__ = ["add_arguments", "main", "make_parser", "run"]

EX_CONFIG = 78  # sysexits.h
EXAMPLES = """examples:
  django-ray-listen --settings mysite.settings
  django-ray-listen --queue mail,reports --concurrency 8
  django-ray-listen --queue mail:4,images:2,default     at most 4 of mail and 2 of images at once
  django-ray-listen --cluster head.example.com:6379 --metrics-port 9100 --log-format json
  django-ray-listen --sync --burst          without Ray, until nothing is left to do
  django-ray-listen --reload                for development
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line and run."""
    _heed_signals()
    options = make_parser().parse_args(arguments)
    project = (options.pythonpath or Path.cwd()).resolve()
    sys.path.insert(0, str(project))
    if options.settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = options.settings
    _reload(options, project)
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        _refuse("No settings: give --settings mysite.settings, or set DJANGO_SETTINGS_MODULE.")
    import django
    import django.core.exceptions

    try:
        django.setup()
    except ModuleNotFoundError as error:
        _refuse(
            f"The settings {os.environ['DJANGO_SETTINGS_MODULE']!r} cannot be imported from {project} ({error}). Start "
            "in the folder of manage.py, or name it with --pythonpath."
        )
    except django.core.exceptions.ImproperlyConfigured as error:
        _refuse(f"The settings {os.environ['DJANGO_SETTINGS_MODULE']!r} cannot be used: {error}")
    run(options, project)


def make_parser() -> argparse.ArgumentParser:
    """Return what django-ray-listen takes; docs/reference/commands.md is written from it."""
    import django_ray

    parser = argparse.ArgumentParser(
        prog="django-ray-listen",
        description="Run the tasks that Django enqueues, on Ray, as they come.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", metavar="MODULE", help="the settings module (default: DJANGO_SETTINGS_MODULE)")
    parser.add_argument("--pythonpath", type=Path, metavar="FOLDER", help="the project's folder (default: this folder)")
    parser.add_argument(
        "--version", action="version", version=f"django-ray {django_ray.__version__}", help="print the version"
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what both commands take."""
    parser.add_argument("--backend", default="default", metavar="ALIAS", help="the backend in TASKS (default: default)")
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="A,B:4",
        help="queues to serve, B with at most 4 at once; repeatable (default: all of it)",
    )
    parser.add_argument("--concurrency", type=_slots, metavar="N", help="tasks at a time (default: Ray's CPUs)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="start Ray on this host (default without an address)")
    where.add_argument("--cluster", metavar="ADDRESS", help="join this Ray cluster (default: RAY_ADDRESS)")
    where.add_argument("--sync", action="store_true", help="no Ray: run tasks in this process, one at a time")
    parser.add_argument("--burst", action="store_true", help="stop when nothing is left to do")
    parser.add_argument(
        "--reload", action="store_true", help="for development: start again when Python files of the project change"
    )
    parser.add_argument(
        "--grace", type=_seconds, metavar="SECONDS", help="for running tasks when stopping (default: 30)"
    )
    parser.add_argument(
        "--metrics-port", type=_port, metavar="PORT", help="serve /metrics, /healthz and /readyz (default: nothing)"
    )
    parser.add_argument("--metrics-host", default="0.0.0.0", metavar="HOST", help="where (default: 0.0.0.0)")  # noqa: S104 - probes come from outside
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="what is written to standard error (default: info)",
    )
    parser.add_argument(
        "--log-format", default="text", choices=["text", "json"], help="lines for people, or one object per line"
    )


def run(options: argparse.Namespace, project: Path) -> NoReturn:
    """Run a supervisor in a process where Django is set up; exits."""
    _heed_signals()
    _reload(options, project)
    from django.core.exceptions import ImproperlyConfigured

    from django_ray.driver import need_psycopg

    try:
        need_psycopg("A supervisor")
        import anyio

        from django_ray_worker import logs
        from django_ray_worker.core.exceptions import Misconfigured, Stuck
        from django_ray_worker.preflight import find_backend, find_database
    except ImproperlyConfigured as error:
        _refuse(str(error))
    except ModuleNotFoundError as error:
        if error.name not in {"anyio", "psycopg_pool"}:
            raise
        _refuse("The supervisor needs more than a web process: pip install 'django-ray-listen[worker]'.")
    if options.log_format == "json":
        logs.write_objects()
    logs.configure(options.log_level, options.log_format)
    from django_ray_worker.supervisor import supervise

    try:
        config = _config(options, project)
        database = find_database(find_backend(options.backend))
        executor = _executor(config)
        anyio.run(partial(supervise, config, database, executor, _endpoint(options), on_ready=partial(_ready, config)))
    except* Misconfigured as errors:
        _refuse(str(_first(errors)))
    except* Stuck as errors:
        _begin_anew(str(_first(errors)))
    if executor.is_stuck:
        _end_at_once()
    sys.exit(0)


def _reload(options: argparse.Namespace, project: Path) -> None:
    """With --reload, this process only watches over another one."""
    if not options.reload:
        return
    if options.burst:
        _end("--reload and --burst contradict each other: one starts again and again, the other ends.", 2)
    try:
        import anyio

        from django_ray_worker import logs
        from django_ray_worker.reload.keeper import Keeper
        from django_ray_worker.reload.reloading import reloading
        from django_ray_worker.watcher import watcher
    except ModuleNotFoundError as error:
        if error.name not in {"anyio", "watchfiles"}:
            raise
        _refuse("--reload needs watchfiles: pip install 'django-ray-listen[worker]'.")
    if watcher() is None:
        logs.configure(options.log_level, options.log_format)
        # One after the other where there is one terminal for breakpoints, or one port.
        is_side_by_side = not options.sync and options.metrics_port is None
        keeper = Keeper(options.log_level, options.log_format)
        sys.exit(anyio.run(partial(reloading, project, keeper, is_side_by_side=is_side_by_side)))


def _config(options: argparse.Namespace, project: Path) -> Config:
    from django_ray_worker.core.config import Config
    from django_ray_worker.preflight import find_backend, find_queues, find_quotas

    backend = find_backend(options.backend)
    wanted, quotas = find_quotas(backend, [name for group in options.queue for name in group.split(",") if name])
    address = options.cluster or (None if options.local else os.environ.get("RAY_ADDRESS"))
    if not (address or options.local):
        address = backend.settings.ray_address
    return Config(
        backend=options.backend,
        queues=find_queues(backend, wanted),
        concurrency=options.concurrency or backend.settings.concurrency,
        cluster=address,
        sync=options.sync,
        burst=options.burst,
        grace=backend.settings.grace if options.grace is None else options.grace,
        pulse=backend.settings.pulse,
        settings_module=os.environ["DJANGO_SETTINGS_MODULE"],
        project=project,
        options=backend.settings,
        quotas=quotas,
        declared=_declared(backend),
    )


def _declared(backend: Any) -> tuple[str, str]:
    """Return what the code says of schedules; what is wrong with it is logged, and ends no supervisor."""
    from django_ray.declaring import declared

    found = declared(backend, imports=False)
    found.log()
    return found.parameters


def _executor(config: Config) -> Any:
    if config.sync:
        from django_ray_worker.running.inprocess import InProcessExecutor

        return InProcessExecutor()
    from django_ray_worker.running.onray.environment import prepare_environment
    from django_ray_worker.watcher import watcher

    watching = watcher()
    if watching is not None and not watching.fits(config.cluster):
        watching.begin_anew()
        _end_at_once()
    prepare_environment(cluster=config.cluster)
    try:
        from django_ray_worker.running.onray.executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        _refuse(
            "Ray is not installed: pip install 'django-ray-listen[worker]', or run tasks in this process with --sync."
        )
    return RayExecutor(config, watching)


def _ready(config: Config) -> None:
    from django_ray_worker.watcher import watcher

    if (watching := watcher()) is not None:
        watching.ready(sync=config.sync, cluster=config.cluster)


def _endpoint(options: argparse.Namespace) -> Any:
    if options.metrics_port is None:
        return None
    try:
        from django_ray_worker.showing.endpoint import Endpoint
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        _refuse("--metrics-port needs prometheus-client: pip install 'django-ray-listen[metrics]'.")
    return Endpoint(options.metrics_host, options.metrics_port)


def _slots(text: str) -> int:
    from django_ray.bounds import MOST_SLOTS
    from django_ray.readers import whole

    number: int = _number(text, int, partial(whole, 1, most=MOST_SLOTS))
    return number


def _port(text: str) -> int:
    def port(value: int) -> int:
        if not 0 <= value <= 65535:  # noqa: PLR2004
            raise ValueError("it must be a port: 1 to 65535, or 0 for a free one.")
        return value

    number: int = _number(text, int, port)
    return number


def _seconds(text: str) -> float:
    from django_ray.readers import seconds

    value: float = _number(text, float, seconds)
    return value


def _number(text: str, kind: Callable[[str], Any], reader: Callable[[Any], Any]) -> Any:
    from django_ray.bounds import shown

    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None
    try:
        return reader(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shown(text)} does not fit: {error}") from None


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _refuse(sentence: str) -> NoReturn:
    _end(sentence, EX_CONFIG)


def _end(sentence: str, code: int) -> NoReturn:
    print(f"django-ray-listen: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _heed_signals() -> None:
    """Until the supervisor installs its own handlers; nothing has been claimed yet."""
    if threading.current_thread() is not threading.main_thread() or _is_in_a_loop():
        _refuse(
            "It needs the main thread of a process, without an event loop that runs: signals end it. Start it as a "
            "process of its own."
        )
    for number in ending():
        signal.signal(number, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending())  # which _begin_anew() has left blocked


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _leave(*_: object) -> NoReturn:
    _end_at_once()  # an exception may be raised where nobody lets it through


def _begin_anew(reason: str) -> NoReturn:
    """Put another process in the place of this one, in which a thread hangs."""
    from django_ray_worker.watcher import watcher

    logging.getLogger("django_ray.supervisor").warning("%s This process begins anew.", reason)
    _flush()
    if (watching := watcher()) is not None:
        watching.hand_over()
    signal.pthread_sigmask(signal.SIG_BLOCK, ending())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def _end_at_once() -> NoReturn:
    """End without Python's own end, which would wait for a thread that hangs."""
    _flush()
    os._exit(0)


def _flush() -> None:
    for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with suppress(Exception):  # a signal may have come in the middle of one
            flush()
