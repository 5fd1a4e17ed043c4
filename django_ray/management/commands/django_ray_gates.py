"""manage.py django_ray_gates: how gates stand, and what overrides them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, override

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import translation

from django_ray.backends import RayTaskBackend
from django_ray.bounds import LONGEST, LONGEST_IN_WORDS, MOST, is_number
from django_ray.gates import MOST_GATE
from django_ray.locking import waiting_briefly
from django_ray.management.commands._common import (
    add_operator,
    check_operator,
    explaining_locks,
    find_backend,
    note,
    piped,
    warn_of,
)
from django_ray.management.commands._tables import NOTHING, Section, line, show
from django_ray.naming import near
from django_ray.standing import Standing
from django_ray.status import gates
from django_ray.templatetags.django_ray import count_all, duration
from django_ray.templatetags.django_ray_gates import gate_rate, gate_waiting, override_in_words

__all__ = ["Command"]

_NOTHING: dict[str, Any] = {"limit": None, "rate_count": None, "rate_per": None, "rate_burst": 1}
_RATE = re.compile(r"(?P<count>\d{1,10})/(?P<per>\d{1,10}(\.\d{1,6})?)")


class Command(BaseCommand):
    """The command."""

    help = "Show gates, with what waits and runs behind them; override what the code says of one, live."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="those whose names begin so")
        parser.add_argument(
            "--backend", metavar="ALIAS", help="of this backend in TASKS (default: all; a verb: default)"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
        add_operator(parser)
        verbs = parser.add_mutually_exclusive_group()
        verbs.add_argument("--set", metavar="NAME", help="override this gate; NAME:* is all of that name")
        verbs.add_argument("--clear", metavar="NAME", help="delete the override, so that the code decides again")
        parser.add_argument(
            "--limit", type=int, metavar="N", help="with --set: how many may run at a time; 0 closes it"
        )
        parser.add_argument(
            "--rate", metavar="COUNT/SECONDS", help="with --set: how many may start in how many seconds"
        )
        parser.add_argument(
            "--burst", type=int, metavar="N", help="with --rate: how many of them may start at once (default: 1)"
        )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        """List, or do what is asked."""
        from django_ray.models import RayGate

        check_operator(options)
        if options["set"] is None:
            for name in ("limit", "rate", "burst"):
                if options[name] is not None:
                    raise CommandError(f"--{name} says what --set NAME sets: say which gate.")
        if options["set"] is not None:
            done = self._set(options["set"], _values(options), find_backend(options["backend"] or "default"))
            note({**options, "names": [options["set"]]}, RayGate, done)
        elif options["clear"] is not None:
            done = self._clear(options["clear"], find_backend(options["backend"] or "default"))
            note({**options, "names": [options["clear"]]}, RayGate, done)
        else:
            backends = None if options["backend"] is None else [find_backend(options["backend"]).alias]
            found, unreachable = gates(options["prefix"], backends)
            warn_of(unreachable, self.stderr)
            with piped(self.stdout):
                self._list(found, as_json=options["json"])

    def _list(self, found: Sequence[Standing], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({"gates": [_plain(gate) for gate in found]}))
            return
        with translation.override("en"):
            show(self.stdout, _section(found))

    def _set(self, name: str, values: dict[str, Any], backend: RayTaskBackend) -> str:
        from django_ray.models import RayGate

        if not 0 < len(name) <= MOST_GATE or "\0" in name:
            raise CommandError(f"--set: the name of a gate has 1 to {MOST_GATE} characters.")
        rows = RayGate.objects.using(backend.database)
        with explaining_locks(), waiting_briefly(backend.database):
            row, _ = rows.get_or_create(name=name, backend=backend.alias, defaults=values)
            rows.filter(pk=row.pk).update(**values)
            row = rows.get(pk=row.pk)  # where it is written
        with translation.override("en"):
            self.stdout.write(f"{line(name)}: {override_in_words(row)}.")
            return f"Overridden: {override_in_words(row)}."

    def _clear(self, name: str, backend: RayTaskBackend) -> str:
        from django_ray.models import RayGate

        rows = RayGate.objects.using(backend.database).filter(backend=backend.alias)
        with explaining_locks(), waiting_briefly(backend.database):
            # What remembers when the next start is due goes on to do so.
            number = rows.filter(name=name, next_at__isnull=False).update(**_NOTHING)
            number += rows.filter(name=name, next_at=None).delete()[0]
        if not number:
            known = rows.values_list("name", flat=True).order_by("name")[:1000]
            raise CommandError(f"--clear {name}: nothing overrides this gate{near(name, list(known))}")
        self.stdout.write(f"{line(name)}: what the code says holds again.")
        return "Overridden no more."


def _values(options: dict[str, Any]) -> dict[str, Any]:
    """Return what to write; what is not said stays."""
    values: dict[str, Any] = {}
    if (limit := options["limit"]) is not None:
        if not is_number(limit, 0, MOST):
            raise CommandError(f"--limit {limit}: it must be a whole number of 0 to {MOST:,}.")
        values["limit"] = limit
    if (rate := options["rate"]) is not None:
        match = _RATE.fullmatch(rate)
        count, per = (int(match["count"]), float(match["per"])) if match else (0, 0.0)
        if not (1 <= count <= MOST and 0 < per <= LONGEST):
            raise CommandError(
                f"--rate {rate}: it must be a number of starts, a slash and seconds of at most {LONGEST_IN_WORDS}: "
                "100/60."
            )
        values |= {"rate_count": count, "rate_per": per, "rate_burst": 1}
    if (burst := options["burst"]) is not None:
        if "rate_count" not in values or not is_number(burst, 1, MOST):
            raise CommandError(f"--burst {burst}: it must be a whole number of at least 1, beside a --rate.")
        values["rate_burst"] = burst
    if not values:
        raise CommandError("--set: say --limit N, --rate COUNT/SECONDS, or both.")
    return values


def _section(found: Sequence[Standing]) -> Section:
    return (
        "Gates",
        ("gate", "backend", "waiting", "oldest", "running", "limit", "rate", "next start", "override"),
        [
            (
                line(gate.name), gate.backend, gate_waiting(gate), duration(gate.oldest), count_all(gate.running),
                NOTHING if gate.limit is None else "closed" if gate.limit == 0 else count_all(gate.limit),
                gate_rate(gate),
                NOTHING if gate.seconds is None else duration(max(0.0, gate.next_in or 0.0)), _override(gate),
            )
            for gate in found
        ],
        "None: nothing waits or runs behind one, and nothing is overridden.",
    )  # fmt: skip


def _override(gate: Standing) -> str:
    if gate.override is None:
        return NOTHING
    words = override_in_words(gate.override)
    return words if gate.override.name == gate.name else f"{words} ({line(gate.override.name)})"


def _plain(gate: Standing) -> dict[str, Any]:
    """Return it as JSON can hold it."""
    row = gate.override
    names = ("backend", "name", "waiting", "running", "oldest", "limit", "seconds", "next_in")
    said = ("name", *_NOTHING)
    return {
        **{name: getattr(gate, name) for name in names},
        "override": None if row is None else {name: getattr(row, name) for name in said},
    }
