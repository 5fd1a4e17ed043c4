"""What Ray reads from the environment when it is imported. It never looks again, so this comes before `import ray`."""

from __future__ import annotations

import os
import secrets
import sys
from functools import cache
from pathlib import Path

from django_ray_worker.watcher import TOKEN

__all__ = ["prepare_environment", "python_path"]

LOG_BYTES = 16_000_000  # Of one log of one process; an older one of that size is kept.
PRELOADED = "RAY_preload_python_modules"
PRELOAD = "django_ray.runtime.preload"


def prepare_environment(*, cluster: str | None) -> None:
    """Set what a supervisor needs and is not set already; a cluster of our own gets a token of its own."""
    # Or a call after a shutdown would silently start another cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    # Or Ray calls exit(1) in the driver 60 s after the head is lost; the supervisor outlives its cluster.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "3600")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What tasks print is the user's: every line of it counts.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # a file or a log collector shows no colours
    # Or Ray sees `uv run` above us, copies the folder and builds an environment of its own for the Ray workers.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if cluster is None:
        # Or Ray lets the log of each process grow without end; its own default is not heeded by Ray workers.
        os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(LOG_BYTES))
        os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
        # Ray holds the whole process until a head that it starts has a port: for 30 s if it is killed meanwhile. No
        # signal is heard then.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "10")
        # Or the head keeps what became of the last 100,000 calls, some 270 MB, for a dashboard that is not there.
        os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", "10000")
        modules = [*os.environ.get(PRELOADED, "").split(","), PRELOAD]
        os.environ[PRELOADED] = ",".join(dict.fromkeys(filter(None, modules)))
        # Or the titles that Ray gives its processes overwrite their environment, by which we know them.
        os.environ["SPT_NOENV"] = "1"
        # Ray's ports have no other guard.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = _token()
    elif _has_token():
        # The rule by which `ray start` decides; ray.init does not apply it to a cluster that exists.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@cache
def _token() -> str:
    """Return the one of this process: Ray reads it once, also when a second supervisor follows the first.

    Those who share a Ray share its token.
    """
    return os.environ.get(TOKEN) or secrets.token_hex(32)


def _has_token() -> bool:
    """Tell whether a token lies where Ray looks for one."""
    default = Path.home() / ".ray" / "auth_token"
    return "RAY_AUTH_TOKEN" in os.environ or Path(os.environ.get("RAY_AUTH_TOKEN_PATH", default)).is_file()


def python_path(project: Path) -> str:
    """Return what Ray workers import from: the project, and what this process was told."""
    parts = [str(project), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(part for part in parts if part))
