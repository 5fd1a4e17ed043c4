"""`python -m tests.chaos.soak --minutes 5`: real work while everything fails that can, then the account of it.

Two supervisors with a Ray each reach a private PostgreSQL through a proxy; one thread enqueues and cancels straight at
the server; every few seconds something is killed, frozen, cut or stopped. In the end the faults cease, everything must
finish, and what the tasks wrote into their ledger is compared with the rows and with every change of them. Exits 1
when an execution was lost, recorded twice, or ended in a way that nobody asked for.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tests.chaos.postgres import HOST, Postgres
from tests.chaos.proxy import Proxy

if TYPE_CHECKING:
    from tests.chaos.chaos import Chaos, Clock

PAUSE = (2.0, 6.0)  # Seconds between the end of a fault and the next one.
START_SECONDS = 120  # That the supervisors get to start.
END_SECONDS = 120  # After the last fault, that may pass without anything coming to its end.


def main() -> int:
    options = _parse()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing is left behind then either
    folder = Path(tempfile.mkdtemp(prefix="django-ray-soak-"))
    print(f"seed {seed}, {options.minutes:g} minutes; ledger and logs in {folder}", flush=True)
    with Postgres() as postgres, Proxy(HOST, postgres.port) as proxy:
        environment = _set_up(postgres, folder)
        environment["DATABASE_URL"] = postgres.url_at(proxy.port)
        is_well = _soak(postgres, proxy, environment, options, seed)
    if is_well and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_well else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="Real work while everything fails that can.")
    parser.add_argument("--minutes", type=float, default=5, help="of faults (default: 5)")
    parser.add_argument("--seed", type=int, help="repeats the choices, though not the moments, of another run")
    parser.add_argument("--faults", default="all", metavar="A,B", help="kinds of faults, or none (default: all)")
    parser.add_argument("--tasks", default="all", metavar="A,B", help="kinds of tasks (default: all)")
    parser.add_argument("--per-second", type=float, default=3, help="enqueues (default: 3)")
    parser.add_argument("--keep", action="store_true", help="keep ledger and logs although all is well")
    return parser.parse_args()


def _set_up(postgres: Postgres, ledger: Path) -> dict[str, str]:
    """Set Django up for this process, migrate, and return the environment of the supervisors."""
    environment = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings", "CHAOS_LEDGER": str(ledger)}
    os.environ.update(environment, DATABASE_URL=postgres.url)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from tests.chaos import audit

    audit.install(postgres)
    return environment


def _soak(
    postgres: Postgres, proxy: Proxy, environment: dict[str, str], options: argparse.Namespace, seed: int
) -> bool:
    from tests.chaos.account import account
    from tests.chaos.chaos import Chaos, Clock
    from tests.chaos.crew import Crew
    from tests.chaos.customer import KINDS, Customer

    folder = Path(environment["CHAOS_LEDGER"])
    clock = Clock()
    crew = Crew(environment, folder, clock.say)
    chaos = Chaos(postgres, proxy, crew, clock, random.Random(seed))
    kinds = _named(options.faults, list(chaos.kinds), "fault")
    orders = {kind: KINDS[kind] for kind in _named(options.tasks, list(KINDS), "kind of task")}
    customer = Customer(postgres, random.Random(seed + 1), per_second=options.per_second, kinds=orders)
    crew.start()
    try:
        if not crew.wait_for_all(START_SECONDS):
            raise SystemExit(f"The supervisors did not start; their logs: {folder}")
        clock.say("both supervisors are ready")
        customer.start()
        _strike_for(options.minutes * 60, chaos, kinds, random.Random(seed + 2))
        clock.say("the faults are over")
        customer.stop()
        _wait_for_the_end(postgres, clock)
    finally:
        left = crew.stop()
        clock.say(f"the supervisors are stopped; {len(left)} processes of theirs had to be killed")
    return account(postgres, chaos, crew, customer, folder)


def _named(names: str, known: list[str], what: str) -> list[str]:
    chosen = {"all": known, "none": []}.get(names, names.split(","))
    if unknown := set(chosen) - set(known):
        raise SystemExit(f"There is no {what} {min(unknown)!r}; there are {', '.join(known)}.")
    return chosen


def _strike_for(seconds: float, chaos: Chaos, kinds: list[str], chance: random.Random) -> None:
    """Strike in rounds of all kinds, each in an order of its own, with a breath between two faults."""
    deadline = time.monotonic() + seconds
    to_come: list[str] = []
    while (rest := deadline - time.monotonic()) > 0:
        time.sleep(min(rest, chance.uniform(*PAUSE)))
        if kinds and time.monotonic() < deadline:
            to_come = to_come or chance.sample(kinds, len(kinds))
            chaos.strike(to_come.pop())


def _wait_for_the_end(postgres: Postgres, clock: Clock) -> None:
    """Look once a second until every row is finished; when nothing more ends, say what has not."""
    deadline, fewest = time.monotonic() + END_SECONDS, sys.maxsize
    with psycopg.connect(postgres.url, autocommit=True) as session:
        while True:
            unfinished = session.execute(
                "SELECT state, args->>0, attempt_number, claimed_by_id, due_at FROM django_ray_execution"
                " WHERE finished_at IS NULL ORDER BY task_id"
            ).fetchall()
            if not unfinished:
                clock.say("everything is finished")
                return
            if len(unfinished) < fewest:
                deadline, fewest = time.monotonic() + END_SECONDS, len(unfinished)
            if time.monotonic() > deadline:
                break
            time.sleep(1)
    clock.say(f"nothing has ended for {END_SECONDS} s; {len(unfinished)} executions are unfinished:")
    for state, key, attempt, owner, due_at in unfinished[:20]:
        print(f"           {key}: {state}, attempt {attempt}, owner {owner}, due {due_at}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
