"""Why an execution does not run, or what it is doing: one sentence, from its row and from what it waits for.

Each part is a probe of an index with a bound (probes.py). Where the role may not see queues, supervisors or gates, the
sentence says what can be told without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models.fields.json import KT
from django.db.models.functions import Now
from django.tasks import task_backends

from django_ray import probes
from django_ray.databases import databases
from django_ray.probes import MOST, MOST_RUNNING, Sight
from django_ray.probing import planned_by_index
from django_ray.retry import FREE_RELEASES, short_class
from django_ray.rows import numbers_of, queues_of
from django_ray.tables import Tables, execution_model

__all__ = ["UNKNOWN", "span", "why"]

UNKNOWN = (
    "There is no execution with this id: it was deleted, or pruned, or the transaction that enqueues it has not "
    "committed."
)
_MOST_SUPERVISORS = 1000  # That are looked at.
_MOST_MESSAGE = 200  # Characters of an error's message.


def why(task_id: UUID, first: str | None = None) -> str:
    """Return why an execution does not run, or what it is doing, in one sentence. That database is asked first."""
    return next((said for database in databases(first) if (said := _why(task_id, database)) is not None), UNKNOWN)


def _why(task_id: UUID, database: str) -> str | None:
    """Return it of an execution in a database; None if it is not there."""
    with Tables(database) as tables:
        rows: Any = execution_model()._base_manager.using(tables.alias)  # noqa: SLF001
        with planned_by_index(tables.alias):
            row = (
                rows.annotate(now=Now(), message=KT("errors__-1__message"))
                .defer("args", "kwargs", "carrier", "result", "errors", "output")
                .filter(pk=task_id)
                .first()
            )
            return None if row is None else f"{_Case(row, tables.alias).said}."


@dataclass(frozen=True, slots=True)
class _Serving:
    """Who serves the queue of an execution."""

    here: Sequence[Any]  # Those that live, as far as one sees.
    obstacle: str  # Why nobody does; empty when somebody does.

    @property
    def ids(self) -> list[int]:
        return [one.pk for one in self.here]

    @property
    def slots(self) -> int:
        return sum(one.concurrency for one in self.here)


class _Case:
    """One execution at one moment."""

    def __init__(self, row: Any, alias: str) -> None:
        self._row = row
        self._alias = alias
        self._sight: Sight = probes.sight_of(alias)

    @property
    def said(self) -> str:
        """The sentence, without its full stop."""
        from django_ray.models import State

        match self._row.state:
            case State.RUNNING:
                return self._running()
            case State.READY | State.WAITING:
                return self._waiting()
            case _:
                return self._ended()

    def _ended(self) -> str:
        row = self._row
        attempts, when = len(row.worker_ids), f"{span(row.now - row.finished_at)} ago"
        attempt = f", in attempt {attempts}" if attempts else ""
        if row.state == "CANCELLED":
            return f"It was CANCELLED {when}"
        if row.state == "SUCCESSFUL":
            return f"It ended SUCCESSFUL {when}{attempt}"
        error = f", with {short_class(row.exception_type)}" if row.exception_type else ""
        message = " ".join((row.message or "").split())
        if len(message) > _MOST_MESSAGE:
            message = f"{message[:_MOST_MESSAGE]}..."
        return f"It FAILED {when}{attempt}{error}{message and ': '}{message}".rstrip(".")

    def _running(self) -> str:
        row = self._row
        since, attempt = span(row.now - (row.last_attempted_at or row.now)), self._attempt()
        owner, where = self._owner()
        if (gone := self._gone(owner)) is not None:
            return f"It has been running for {since}, {attempt}, on {where}, which {gone}: whoever lives takes it back"
        if row.cancel_requested_at is not None:
            asked = span(row.now - row.cancel_requested_at)
            return f"It is to be cancelled, as somebody asked {asked} ago: {attempt}, on {where}, is being stopped"
        if owner is not None and (lacking := self._lacking([owner])):
            return f"It has been waiting in Ray for {since}, {attempt}, on {where}: {lacking}"
        if owner is not None and (held := probes.running_of(self._alias, [owner.pk])) > owner.concurrency:
            return (
                f"It was taken {since} ago, {attempt}, on {where}, which holds {held:,} executions on "
                f"{_slots(owner.concurrency)}: it runs, or is one of the next there"
            )
        return f"It has been running for {since}, {attempt}, on {where}"

    def _attempt(self) -> str:
        options = self._options()
        number = self._row.failures + 1
        return f"attempt {number}" + ("" if options is None else f" of {max(number, options.retry.max_attempts)}")

    def _owner(self) -> tuple[Any, str]:
        worker = self._row.claimed_by_id
        owner = self._supervisors().filter(pk=worker).first() if self._sight.supervisors else None
        return owner, f"supervisor {worker}" if owner is None else f"supervisor {owner}"

    def _gone(self, owner: Any) -> str | None:
        """Return what became of the supervisor of a running one; None if it lives, as far as one sees."""
        if owner is None:
            return "is not known any more" if self._sight.supervisors else None
        if owner.stopped_at is not None or owner.lost_at is not None:
            return "has ended"
        if (silence := self._silence(owner)) is not None:
            return f"has been silent for {span(silence)}"
        return "has no session with the database" if self._are_without_session([owner]) else None

    def _waiting(self) -> str:
        row = self._row
        said = self._why_waiting()
        if row.expires_at is None or row.started_at is not None:
            return said
        if row.expires_at <= row.now:
            return (
                f"It has expired: it had to begin {span(row.now - row.expires_at)} ago, and ends as soon as a "
                f"supervisor of backend {row.backend!r} sees it"
            )
        return f"{said}; it expires in {span(row.expires_at - row.now)}"

    def _why_waiting(self) -> str:
        row = self._row
        if row.state == "WAITING" and row.gate is None:
            return self._held() if row.needs is not None else "It is blocked: something else has to happen first"
        serving = self._serving()
        obstacle = self._paused() or serving.obstacle
        if row.due_at is not None and row.due_at > row.now:
            return f"{self._due()}{obstacle and '; besides, '}{obstacle}"
        if obstacle:
            return obstacle[0].upper() + obstacle[1:]
        if row.missing_since is not None:
            return self._missing()
        if serving.here and (lacking := self._lacking(serving.here)):
            return lacking[0].upper() + lacking[1:]
        if (lock := probes.lock_of(self._alias, row.pk)) is not None:
            holder = "a prepared one" if lock.pid is None else f"that of the server's process {lock.pid}"
            return f"Another transaction has locked its row, {holder}: it can be taken when that has ended"
        is_full = bool(serving.here) and probes.running_of(self._alias, serving.ids) >= serving.slots
        return (
            self._behind_gate(serving, is_full=is_full)
            if row.gate is not None
            else self._in_queue(serving, is_full=is_full)
        )

    def _held(self) -> str:
        """Return what it waits for: how many upstreams, and how the first of them stands."""
        if not self._sight.edges:
            return "It waits for other executions to end"
        left, first = probes.unmet_of(self._alias, self._row.pk)
        if first is None:
            return (
                "It waits for an execution that has just ended: somebody has locked its row, or it starts in a moment"
            )
        verb = "end" if self._row.needs == "end" else "succeed"
        number = f"{left:,}{'' if left < MOST else ' or more'} executions" if left > 1 else "an execution"
        what = (
            f"the first of them, {first.callable_path} {first.task_id},"
            if left > 1
            else f"{first.callable_path} {first.task_id}"
        )
        states = {
            "WAITING": "is blocked itself", "READY": "has not started", "RUNNING": "is running",
        }  # fmt: skip
        state = states.get(first.state, f"is {first.state}")
        if left > 1:
            return f"It waits for {number} to {verb}: {what} {state}"
        return f"It waits for {what} to {verb}, which {state}"

    def _paused(self) -> str:
        from django_ray.models import RayQueue

        if not self._sight.queues:
            return ""
        row = self._row
        queues: Any = RayQueue._base_manager.using(self._alias)  # noqa: SLF001
        paused = queues.filter(backend=row.backend, name=row.queue_name, paused_at__isnull=False).first()
        if paused is None:
            return ""
        by = f" by {paused.paused_by}" if paused.paused_by else ""
        because = f", because {paused.paused_because!r}" if paused.paused_because else ""
        since = span(row.now - paused.paused_at)
        return f"its queue {row.queue_name!r} has been paused{by} for {since}{because}: resume it"

    def _missing(self) -> str:
        row = self._row
        return (
            f"Who took it could not begin it for {span(row.now - row.missing_since)}, and says why in the log of "
            "django-ray-listen: if its code is unknown there, restart it, or use --reload"
        )

    def _due(self) -> str:
        row = self._row
        due = f"due in {span(row.due_at - row.now)}"
        if row.missing_since is not None:
            return f"{self._missing()}; the next try is {due}"
        if row.released > FREE_RELEASES:
            return f"It has come back {row.released} times without having ended, and is {due}"
        if row.failures or row.losses:
            error = f", after {short_class(row.exception_type)}" if row.exception_type else ""
            return f"The next attempt, {self._attempt().removeprefix('attempt ')}, is {due}{error}"
        return f"It is {due}"

    def _in_queue(self, serving: _Serving, *, is_full: bool) -> str:
        before = probes.before_in_queue(self._alias, self._row)
        if is_full:
            return f"It waits for a free slot: {_taken(serving.slots)}, {_count(before)} before it in its queue"
        if not serving.here:
            return f"It waits in its queue, {_count(before)} before it"
        if before:
            return f"It waits for its turn: there is a free slot, {_count(before)} before it in its queue"
        return "It should start at any moment: there is a free slot, and nothing before it in its queue"

    def _behind_gate(self, serving: _Serving, *, is_full: bool) -> str:
        row = self._row
        gate = probes.gate_of(self._alias, row, self._sight)
        before = f"{_count(probes.before_behind_gate(self._alias, row))} before it"
        if row.gate.startswith("!"):
            return f"It waits for {self._place()}: {gate.running:,} running, {before}"
        if gate.limit == 0:
            by = "" if gate.closed_by is None else f", as the override {gate.closed_by.name!r} says"
            return f"Its gate {row.gate!r} is closed: its limit is 0{by}"
        number = f"more than {MOST_RUNNING:,}" if gate.running > MOST_RUNNING else f"{gate.running:,}"
        running = f"{number} running" if gate.limit is None else f"{number} of {gate.limit:,} running"
        if gate.limit is not None and gate.running >= gate.limit:
            return f"It waits behind gate {row.gate!r}: {running}, {before}"
        if gate.seconds is not None and (gate.next_in or 0) > 0:
            due = span(timedelta(seconds=gate.next_in or 0))
            return (
                f"It waits behind gate {row.gate!r} for its rate: one start in {gate.seconds:g} s, the next one in "
                f"{due}, {before}"
            )
        if is_full:
            return f"It waits behind gate {row.gate!r}, {running}, for a free slot: {_taken(serving.slots)}, {before}"
        if not serving.here:
            return f"It waits behind gate {row.gate!r}: {running}, {before}"
        if before.startswith("none") and probes.is_alone(self._alias, row):
            return (
                f"It should start at any moment: there is a place behind gate {row.gate!r}, {running}, and a free slot"
            )
        return (
            f"It waits behind gate {row.gate!r} for its turn: {running}, so there is a place, but others come first in "
            f"the circle, {before}"
        )

    def _place(self) -> str:
        """Return what it waits for in its lane."""
        options: dict[str, Any] = self._row.options or {}
        if worker := options.get("worker"):
            return f"a place at its worker {worker}"
        return "its batch" if options.get("batch") else "a place for what it asks Ray for"

    def _supervisors(self) -> Any:
        from django_ray.models import RayWorker

        return RayWorker._base_manager.using(self._alias)  # noqa: SLF001

    def _serving(self) -> _Serving:
        row = self._row
        if not self._sight.supervisors:
            return _Serving([], "")
        living = self._supervisors().filter(backend=row.backend, stopped_at=None, lost_at=None)
        supervisors: list[Any] = list(living.order_by("-pulse_at")[:_MOST_SUPERVISORS])
        serving = [one for one in supervisors if one.queues is None or row.queue_name in queues_of(one.queues)]
        if not serving:
            others = (
                f"; {len(supervisors):,} serve{'s' if len(supervisors) == 1 else ''} other queues"
                if supervisors
                else ""
            )
            return _Serving(
                [],
                f"no supervisor serves the queue {row.queue_name!r} of backend {row.backend!r}{others}: start "
                "django-ray-listen",
            )
        here = [one for one in serving if self._silence(one) is None]
        if not here:
            silent = f"has been silent for {span(row.now - serving[0].pulse_at)}: start django-ray-listen"
            return _Serving([], self._nobody(serving, silent))
        if self._are_without_session(here):
            silent = "has no session with the database: it is connecting again, or dead"
            return _Serving([], self._nobody(here, silent))
        return _Serving(here, "")

    @staticmethod
    def _nobody(supervisors: Sequence[Any], what: str) -> str:
        first = f"supervisor {supervisors[0]}"
        if len(supervisors) == 1:
            return f"{first} serves its queue, and {what}"
        return f"{first}, the last that was heard of {len(supervisors):,} that serve its queue, {what}"

    def _silence(self, supervisor: Any) -> timedelta | None:
        silence = self._row.now - supervisor.pulse_at
        # In seconds: somebody may have written a period that no timedelta holds.
        is_silent = supervisor.pulse > 0 and silence.total_seconds() > 3 * supervisor.pulse
        return silence if is_silent else None

    def _are_without_session(self, supervisors: Sequence[Any]) -> bool:
        ids = [one.pk for one in supervisors]
        return self._sight.sessions and set(ids) <= probes.without_session(self._alias, ids)

    def _options(self) -> Any:
        """Return what it requires; None where nobody here can tell."""
        try:
            backend: Any = task_backends[self._row.backend]
            return backend.settings.of(self._row.queue_name, self._row.options)
        except Exception:  # noqa: BLE001 - of a backend that is not ours, or of a row that does not fit
            return None

    def _lacking(self, supervisors: Sequence[Any]) -> str:
        """Return what it asks for and no cluster of these supervisors has in all; empty if one may have it."""
        options = self._options()
        if options is None:
            return ""
        ray = options.ray
        wanted = {"CPU": ray.get("num_cpus", 1), "GPU": ray.get("num_gpus", 0), "memory": ray.get("memory", 0)}
        wanted |= ray.get("resources", {})
        clusters = [numbers_of(one.resources) for one in supervisors]
        if not all(cluster is not None and _lacks(cluster, wanted) for cluster in clusters):
            return ""
        whose = "its cluster has" if len(clusters) == 1 else f"the {len(clusters):,} clusters that serve its queue have"
        for name, number in wanted.items():
            most = max((cluster or {}).get(name, 0) for cluster in clusters)
            if most < number:
                return f"it asks for {_quantity(name, number)}, and {whose} {most:,g}" + (
                    " at most" if len(clusters) > 1 else ""
                )
        return f"none of {whose.removesuffix(' have')} has all that it asks for"


def _lacks(cluster: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return any(cluster.get(name, 0) < number for name, number in wanted.items())


def _quantity(name: str, number: float) -> str:
    if name == "memory":
        return f"{number:,.0f} bytes of memory"
    return f"{number:,g} {name}{'s' if name in {'CPU', 'GPU'} and number != 1 else ''}"


def _taken(slots: int) -> str:
    where = "of the supervisors that serve its queue"
    return f"the one slot {where} is taken" if slots == 1 else f"all {slots:,} slots {where} are taken"


def _slots(number: int) -> str:
    return f"{number:,} slot{'' if number == 1 else 's'}"


def _count(number: int) -> str:
    if number > MOST:
        return f"more than {MOST:,}"
    return f"{number:,}" if number else "none"


def span(length: timedelta) -> str:
    """Return how long that is: 0.4 s, 42 s, 3 min, 2 h 5 min, 3 d 4 h."""
    seconds = max(0.0, length.total_seconds())
    if seconds < 10:  # noqa: PLR2004
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    if whole < 120:  # noqa: PLR2004
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 120:  # noqa: PLR2004
        return f"{minutes} min"
    larger, name, rest, lesser = (hours, "h", minutes % 60, "min") if not days else (days, "d", hours % 24, "h")
    return f"{larger:,} {name}" + (f" {rest} {lesser}" if rest else "")
