"""`python -m tests.nodes.drive`: tasks on two hosts of a Ray cluster while its hosts are killed and paused.

Exits 1 when a task is not SUCCESSFUL in the end, when one was charged for a host that went away, or when the supervisor
had to be started again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.containers import Compose

if TYPE_CHECKING:
    from tests.nodes.faults import Fault, Faults
    from tests.nodes.load import Load
    from tests.nodes.watch import Watch


FILE = Path(__file__).parent / "docker-compose.yml"
SERVICES = ("postgres", "head", "node-a", "node-b", "supervisor")


def main() -> int:
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing is left behind then either
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with Compose(FILE, "django-ray-nodes", SERVICES, is_kept=options.keep) as compose:
        say("building the image")
        compose("build")
        say("starting PostgreSQL")
        compose("up", "-d", "postgres")
        port = compose.port("postgres", 5432)
        # Whatever encoding the server made its databases in.
        _set_up(f"postgresql://django:django@127.0.0.1:{port}/django?client_encoding=UTF8")
        from tests.nodes.account import account
        from tests.nodes.faults import Faults
        from tests.nodes.load import Load
        from tests.nodes.watch import Watch

        load = Load()
        watch = Watch(os.environ["DATABASE_URL"], load.check)
        watch.install()
        say("starting a head, two nodes and a supervisor")
        compose("up", "-d")
        faults = _strike(watch, load, Faults(compose, watch, say))
        compose("stop", "supervisor")
        if not account(watch, load, faults):
            raise SystemExit(1)  # so that the logs are shown
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nodes-test", description="Tasks on hosts that are killed and paused.")
    parser.add_argument("--keep", action="store_true", help="leave the containers for a look at them")
    return parser.parse_args()


def _set_up(url: str) -> None:
    """Wait for the server, set Django up in this process, and migrate."""
    os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.nodes.settings", "DATABASE_URL": url}
    import django
    import psycopg
    from django.core.management import call_command

    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            break
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    django.setup()
    call_command("migrate", verbosity=0)


def _strike(watch: Watch, load: Load, faults: Faults) -> list[Fault]:
    """Every fault in its turn, each after the last one is overcome; then everything finishes."""
    with load:
        faults.begin()
        faults.kill_node("node-a")
        faults.pause_node("node-b")
        faults.kill_head()
    watch.until_finished()
    return faults.seen


if __name__ == "__main__":
    sys.exit(main())
