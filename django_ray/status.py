"""What an operator wants to know at a glance: queues, running tasks, what is due next, recent failures, supervisors.

In a fixed number of statements for each database, each of which reads a bounded number of rows by index, however full
the table is: what is counted is counted up to MOST. They go to the databases that executions are written to: a replica
is late, and knows no sessions. One that does not answer takes nothing of the others away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import OuterRef, Subquery
from django.db.models.fields.json import KT
from django.tasks import task_backends
from django.utils import timezone

from django_ray.agenda import Upcoming, soonest, upcoming
from django_ray.databases import Unreachable, backends_in, database_of, databases, of_each
from django_ray.models import RayProgress, RayTaskExecution, RayWorker, State
from django_ray.moments import held_sql
from django_ray.probing import planned_by_index, select
from django_ray.rows import numbers_of, queues_of
from django_ray.standing import Standing, gates_standing, oldest_behind_gates

__all__ = [
    "MINUTES", "MOST", "Minute", "Presence", "Queue", "Status", "Supervisor", "gates", "oldest_gated", "past",
    "presence", "queues", "status",
]  # fmt: skip

MOST = 10_000  # A count that is one more than this says "more than".
MINUTES = 60
MOST_QUEUES = 200  # Of one backend, that are shown;
MOST_MEASURED = 1000  # and that are told to monitoring.
_FEW = 20  # Running tasks and failures that are listed.
MOST_GROUPED = 1000  # Failures that are grouped.


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What ended in one minute, and how long what was claimed in it had waited."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    postponed: int = 0  # Claims of what could not be begun where it was claimed.
    waited: float = 0  # Seconds, of all together.
    longest_wait: float = 0

    @property
    def ended(self) -> int:
        """How many ended for good."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue of one backend."""

    backend: str
    database: str  # In which its executions live.
    name: str
    waiting: int  # Claimable, up to MOST + 1.
    scheduled: int  # Not due yet, up to MOST + 1.
    blocked: int  # WAITING for something else than time, up to MOST + 1.
    gated: int  # Those of them that wait behind gates, up to MOST + 1.
    oldest: float | None  # Seconds that the oldest claimable one has been waiting; None when paused or empty.
    running: int
    paused_at: datetime | None
    paused_by: str | None  # By whom, where that is known.
    paused_because: str | None
    is_served: bool  # A supervisor with a session takes from it.
    minutes: tuple[Minute, ...]  # The last MINUTES, the present one last.

    @property
    def is_forsaken(self) -> bool:
        """Whether something waits in it that nobody will run: no supervisor serves it, and it is not paused."""
        return not (self.is_served or self.paused_at) and self.waiting + self.gated > 0

    @property
    def held(self) -> int:
        """Those of the blocked ones that wait for other executions; at least so many if more than MOST are blocked."""
        return max(0, self.blocked - self.gated)

    @property
    def ended(self) -> int:
        """How many ended in these minutes."""
        return sum(minute.ended for minute in self.minutes)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(minute.failed for minute in self.minutes)

    @property
    def retried(self) -> int:
        """How many attempts failed that were tried again."""
        return sum(minute.retried for minute in self.minutes)

    @property
    def postponed(self) -> int:
        """How often one was claimed and could not be begun, because its code was not known there, for instance."""
        return sum(minute.postponed for minute in self.minutes)

    @property
    def wait(self) -> float | None:
        """Mean seconds from claimable to claimed, as far as what ended tells; None when nothing did."""
        return sum(minute.waited for minute in self.minutes) / self.ended if self.ended else None


class Queues(NamedTuple):
    """Those that are looked at, of one backend or of one database."""

    queues: Sequence[Queue]
    more: int  # How many are not.


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervisor:
    """One that has not said goodbye."""

    id: int  # Of its database: another one may have the same.
    backend: str
    database: str
    hostname: str
    pid: int
    queues: Sequence[str] | None  # None is any queue.
    slots: int
    wanted: int  # Slots that its cluster was asked for, and has not given yet.
    running: int
    resources: Mapping[str, float] | None  # Of its cluster in all, by Ray's names; None is not known.
    replicas: Mapping[str, float]  # Of each worker that stays, by its path.
    started_at: datetime
    pulse_at: datetime
    ray_address: str
    version: str
    is_here: bool  # It has a session; without, it is connecting again, or dead and not found yet.


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Of one task with one class of error, among the newest MOST_GROUPED of all."""

    callable_path: str
    exception_type: str
    number: int
    first_at: datetime
    last: RayTaskExecution  # error_text is its message.


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """One that was found dead within the last hour."""

    id: int
    backend: str
    database: str
    hostname: str
    pid: int
    lost_at: datetime
    rescued: int  # Executions that were taken back from it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """How many supervisors of a backend there are."""

    alive: int = 0  # With a session.
    silent: int = 0  # Without one: connecting again, or dead and not found yet.
    lost: int = 0  # Found dead within the last hour.


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of it, at one moment."""

    at: datetime
    queues: Sequence[Queue]
    running: Sequence[
        RayTaskExecution
    ]  # The longest running ones first; fraction and said are their progress, or None.
    failures: Sequence[RayTaskExecution]  # The last ones first; error_text is the message.
    failure_groups: Sequence[Failures]  # The same by task and error, that of the last one first.
    supervisors: Sequence[Supervisor]
    lost: Sequence[Lost]  # The last ones first.
    schedules: Sequence[Upcoming]  # What fires next, the first one first.
    unreachable: Mapping[str, str] = field(default_factory=dict[str, str])  # Databases that do not answer, and why.
    more_queues: int = 0  # That are not looked at: there are very many.
    is_divided: bool = False  # Executions live in more than one database.


def status() -> Status:
    """Look at each database. Seven statements there, and four for each alias of RayTaskBackend in TASKS."""
    found, unreachable = of_each(_status)
    parts = found.values()
    return Status(
        at=timezone.now(),
        queues=[queue for part in parts for queue in part.queues],
        more_queues=sum(part.more_queues for part in parts),
        running=sorted((row for part in parts for row in part.running), key=_began)[:_FEW],
        failures=sorted((row for part in parts for row in part.failures), key=_ended, reverse=True)[:_FEW],
        failure_groups=sorted(
            (group for part in parts for group in part.failure_groups),
            key=lambda group: _ended(group.last),
            reverse=True,
        )[:_FEW],
        supervisors=[one for part in parts for one in part.supervisors],
        lost=sorted((one for part in parts for one in part.lost), key=lambda one: one.lost_at, reverse=True),
        schedules=soonest(one for part in parts for one in part.schedules),
        unreachable=unreachable,
        is_divided=len(databases()) > 1,
    )


def _status(database: str) -> Status:
    with planned_by_index(database):
        failures, groups = _failures(database)
        found = _queues_in(database, MOST_QUEUES)
        return Status(
            at=timezone.now(),
            queues=found.queues,
            more_queues=found.more,
            running=list(_running(database).order_by("last_attempted_at")[:_FEW]),
            failures=failures,
            failure_groups=groups,
            supervisors=_supervisors(database),
            lost=[Lost(**row, database=database) for row in select(database, _LOST)],
            schedules=upcoming(backends_in(database), database),
        )


def _failures(database: str) -> tuple[list[RayTaskExecution], list[Failures]]:
    """Return the last ones, and groups of them."""
    failed = _few(database).filter(state=State.FAILED)
    newest = failed.order_by("-finished_at").values_list("pk", "callable_path", "exception_type", "finished_at")
    last, found = list[Any](), dict[tuple[str, str], list[tuple[Any, datetime]]]()
    for pk, path, error, at in newest[:MOST_GROUPED]:
        last.append(pk)
        found.setdefault((path, error or ""), []).append((pk, at))
    groups = list(found.items())[:_FEW]  # in the order of their last one
    wanted = {*last[:_FEW], *(rows[0][0] for _, rows in groups)}
    rows = failed.annotate(error_text=KT("errors__-1__message")).in_bulk(wanted)
    return [rows[pk] for pk in last[:_FEW] if pk in rows], [
        Failures(
            callable_path=path, exception_type=error, number=len(some), first_at=some[-1][1], last=rows[some[0][0]]
        )
        for (path, error), some in groups
        if some[0][0] in rows
    ]


def _began(row: RayTaskExecution) -> tuple[bool, Any]:
    """Sort as PostgreSQL does: what somebody has written without a moment comes last."""
    return row.last_attempted_at is None, row.last_attempted_at


def _ended(row: RayTaskExecution) -> Any:
    return row.finished_at


def oldest_gated(database: str) -> dict[str, float | None]:
    """Return how long the oldest of what waits behind gates has done so, by the aliases of RayTaskBackend there."""
    with planned_by_index(database):
        return {alias: oldest_behind_gates(database, alias) for alias in backends_in(database)}


def gates(prefix: str = "", backends: Sequence[str] | None = None) -> tuple[list[Standing], Unreachable]:
    """Look at the gates of all aliases of RayTaskBackend, or of some, whose names begin with a prefix.

    Return with them which databases do not answer.
    """
    if backends is not None:
        return [gate for alias in backends for gate in gates_standing(database_of(alias), [alias], prefix)], {}
    found, unreachable = of_each(lambda database: gates_standing(database, backends_in(database), prefix))
    return [gate for some in found.values() for gate in some], unreachable


def queues(database: str) -> list[Queue]:
    """Look at the queues of the backends there: those of QUEUES, and what else holds something or did.

    No more than MOST_MEASURED for each backend; those of QUEUES first.
    """
    with planned_by_index(database):
        return list(_queues_in(database, MOST_MEASURED).queues)


def past(backend: str, name: str, first: datetime, step: int, steps: int) -> list[Minute]:
    """Return what ended in a queue from a moment on, in so many steps of so many seconds each."""
    database = database_of(backend)
    with planned_by_index(database):
        rows = select(database, _PAST, backend=backend, name=name, first=first, step=step, steps=steps)
    found = {row.pop("index"): Minute(**row) for row in rows}
    return [found.get(index, Minute()) for index in range(steps)]


def _queues_in(database: str, most: int) -> Queues:
    is_served = _serving(database)
    parts = [_queues(database, alias, is_served, most) for alias in backends_in(database)]
    return Queues([queue for part in parts for queue in part.queues], sum(part.more for part in parts))


def _few(database: str) -> Any:
    rows: Any = RayTaskExecution.objects.using(database)
    return rows.defer("args", "kwargs", "options", "carrier", "result", "errors")


def _running(database: str) -> Any:
    progress: Any = RayProgress._base_manager.filter(pk=OuterRef("pk"))  # noqa: SLF001
    said = {"fraction": Subquery(progress.values("fraction")), "said": Subquery(progress.values("message"))}
    return _few(database).filter(state=State.RUNNING).annotate(**said)


# Ordered by due_at, or the planner may take the index of all queues, and read past the others.
_QUEUES = f"""
WITH RECURSIVE running AS MATERIALIZED (
    SELECT queue_name, count(*) AS number FROM django_ray_execution
    WHERE state = 'RUNNING' AND backend = %(backend)s GROUP BY queue_name
), blocked(name) AS (
    -- One index probe per queue.
    (SELECT queue_name::text FROM django_ray_execution
     WHERE backend = %(backend)s AND state = 'WAITING' ORDER BY queue_name LIMIT 1)
    UNION ALL
    SELECT (SELECT queue_name::text FROM django_ray_execution
            WHERE backend = %(backend)s AND state = 'WAITING' AND queue_name > blocked.name COLLATE "C"
            ORDER BY queue_name LIMIT 1)
    FROM blocked WHERE blocked.name IS NOT NULL
), class(priority) AS (
    -- One index probe per priority with which something waits behind a gate.
    (SELECT priority FROM django_ray_execution
     WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT priority FROM django_ray_execution
            WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND priority < class.priority
            ORDER BY priority DESC LIMIT 1)
    FROM class WHERE class.priority IS NOT NULL
), found(name, rank) AS (
    -- Of very many, those come first that somebody has named, has paused, or that do something.
    SELECT unnest(%(configured)s::text[]), 0
    UNION ALL SELECT name, 1 FROM django_ray_queue WHERE backend = %(backend)s AND paused_at IS NOT NULL
    UNION ALL SELECT queue_name, 2 FROM running
    UNION ALL SELECT queue_name, 3 FROM django_ray_minute
        WHERE minute > statement_timestamp() - interval '1 hour' AND backend = %(backend)s
    UNION ALL SELECT django_ray_filled_queues(%(backend)s), 4
    UNION ALL SELECT name, 4 FROM blocked WHERE name IS NOT NULL
), known AS MATERIALIZED (
    SELECT name, min(rank) AS rank FROM found GROUP BY name
), queue(name) AS MATERIALIZED (
    SELECT name FROM known ORDER BY rank, name COLLATE "C" LIMIT %(most_queues)s
)
SELECT
    name, (SELECT count(*) FROM known) AS known,
    (SELECT count(*) FROM (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = name AND state = 'READY' AND due_at IS NULL LIMIT %(most)s + 1
    ) AS head) + (SELECT count(*) FROM (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = name AND state = 'READY' AND due_at <= statement_timestamp()
        ORDER BY due_at LIMIT %(most)s + 1
    ) AS due) AS waiting,
    (SELECT count(*) FROM (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = name AND state = 'READY' AND due_at > statement_timestamp()
        ORDER BY due_at LIMIT %(most)s + 1
    ) AS later) AS scheduled,
    (SELECT count(*) FROM (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = name AND state = 'WAITING' LIMIT %(most)s + 1
    ) AS waits) AS blocked,
    (SELECT count(*) FROM (
        SELECT FROM class CROSS JOIN LATERAL (
            SELECT FROM django_ray_execution AS row
            WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND row.priority = class.priority
                AND queue_name = name
            ORDER BY gate, task_id LIMIT %(most)s + 1
        ) AS one
        LIMIT %(most)s + 1
    ) AS behind) AS gated,
    (
        SELECT least(greatest(
            extract(epoch FROM statement_timestamp()) - extract(epoch FROM since), 0
        ), 3153600000)::float8
        FROM django_ray_oldest(%(backend)s, ARRAY[name]) AS since WHERE since IS NOT NULL
    ) AS oldest,
    coalesce((SELECT number FROM running WHERE queue_name = name), 0) AS running,
    (SELECT {held_sql("paused_at")} FROM django_ray_queue AS paused
        WHERE paused.backend = %(backend)s AND paused.name = queue.name) AS paused_at,
    (SELECT paused_by FROM django_ray_queue AS paused
        WHERE paused.backend = %(backend)s AND paused.name = queue.name) AS paused_by,
    (SELECT paused_because FROM django_ray_queue AS paused
        WHERE paused.backend = %(backend)s AND paused.name = queue.name) AS paused_because
FROM queue ORDER BY name
"""  # noqa: S608 - constants

_MINUTES = """
SELECT
    queue_name,
    (extract(epoch FROM date_trunc('minute', statement_timestamp()) - minute) / 60)::int AS ago,
    sum(succeeded) AS succeeded, sum(failed) AS failed, sum(retried) AS retried,
    sum(postponed) AS postponed,
    sum(least(greatest(waited, 0), 3153600000)) AS waited,
    max(least(greatest(longest_wait, 0), 3153600000)) AS longest_wait
FROM django_ray_minute
WHERE minute > statement_timestamp() - interval '1 hour' AND minute <= statement_timestamp() AND backend = %(backend)s
GROUP BY 1, 2
"""

_PAST = """
SELECT
    floor(extract(epoch FROM minute - %(first)s::timestamptz) / %(step)s::int)::int AS index,
    sum(succeeded) AS succeeded, sum(failed) AS failed, sum(retried) AS retried, sum(postponed) AS postponed,
    sum(least(greatest(waited, 0), 3153600000)) AS waited,
    max(least(greatest(longest_wait, 0), 3153600000)) AS longest_wait
FROM django_ray_minute
WHERE minute >= %(first)s::timestamptz
    AND minute < %(first)s::timestamptz + make_interval(secs => %(step)s::int * %(steps)s::int)
    AND backend = %(backend)s AND queue_name = %(name)s
GROUP BY 1
"""

_SUPERVISORS = f"""
SELECT
    worker.id, backend, hostname, pid, queues, concurrency AS slots, wanted, resources, replicas,
    {held_sql("started_at")} AS started_at,
    {held_sql("pulse_at")} AS pulse_at, ray_address, version,
    (SELECT count(*) FROM django_ray_execution WHERE state = 'RUNNING' AND claimed_by_id = worker.id) AS running,
    django_ray_session(worker.id::int) IS NOT NULL AS is_here
FROM django_ray_worker AS worker
WHERE stopped_at IS NULL AND lost_at IS NULL
ORDER BY worker.id
LIMIT 200
"""  # noqa: S608 - constants


# Those with a session, so that one that has frozen or died without a word is none.
_SERVING = """
SELECT DISTINCT backend, queues FROM django_ray_worker
WHERE stopped_at IS NULL AND lost_at IS NULL AND django_ray_session(id::int) IS NOT NULL
LIMIT 1000
"""


def _serving(database: str) -> Callable[[str, str], bool]:
    """Return what tells whether a supervisor serves a queue of a backend there."""
    names: dict[str, set[str]] = {}
    any_queue: set[str] = set()
    for row in select(database, _SERVING):
        if (queues := _json(row["queues"])) is None:
            any_queue.add(row["backend"])
        else:
            names.setdefault(row["backend"], set()).update(queues_of(queues))
    return lambda backend, name: backend in any_queue or name in names.get(backend, ())


def _json(value: Any) -> Any:
    """Return what a column of JSON holds: Django's connections leave it as text."""
    column: Any = RayWorker._meta.get_field("queues")  # noqa: SLF001
    return column.from_db_value(value, None, None)


# Live and lost ones, each up to a number, by the index that holds them alone.
_PRESENCE = """
SELECT
    backend, count(*) FILTER (WHERE kind = 'alive') AS alive, count(*) FILTER (WHERE kind = 'silent') AS silent,
    count(*) FILTER (WHERE kind = 'lost') AS lost
FROM (
    (SELECT backend, CASE WHEN django_ray_session(id::int) IS NULL THEN 'silent' ELSE 'alive' END AS kind
    FROM django_ray_worker WHERE stopped_at IS NULL AND lost_at IS NULL ORDER BY id LIMIT 1000)
    UNION ALL
    (SELECT backend, 'lost' AS kind FROM django_ray_worker
    WHERE (stopped_at IS NOT NULL OR lost_at IS NOT NULL)
        AND coalesce(stopped_at, lost_at) > statement_timestamp() - interval '1 hour' AND lost_at IS NOT NULL
    ORDER BY coalesce(stopped_at, lost_at) DESC LIMIT 1000)
) AS one
GROUP BY backend
"""


def presence(database: str) -> dict[str, Presence]:
    """Return how many supervisors are there, and are not, by the aliases of RayTaskBackend there."""
    with planned_by_index(database):
        found = {row.pop("backend"): Presence(**row) for row in select(database, _PRESENCE)}
    return {alias: found.get(alias, Presence()) for alias in backends_in(database)}


_LOST = f"""
SELECT id, backend, hostname, pid, {held_sql("lost_at")} AS lost_at, rescued FROM django_ray_worker
WHERE (stopped_at IS NOT NULL OR lost_at IS NOT NULL)
    AND coalesce(stopped_at, lost_at) > statement_timestamp() - interval '1 hour' AND lost_at IS NOT NULL
ORDER BY coalesce(stopped_at, lost_at) DESC
LIMIT {_FEW}
"""  # noqa: S608 - constants


def _queues(database: str, alias: str, is_served: Callable[[str, str], bool], most: int) -> Queues:
    minutes: dict[str, dict[int, Minute]] = {}
    for row in select(database, _MINUTES, backend=alias):
        name, index = row.pop("queue_name"), MINUTES - 1 - row.pop("ago")
        minutes.setdefault(name, {})[index] = Minute(**row)
    configured = sorted(task_backends[alias].queues)
    rows = select(database, _QUEUES, backend=alias, configured=configured, most=MOST, most_queues=most)
    known = [row.pop("known") for row in rows]
    return Queues(
        [
            Queue(
                **row,
                backend=alias,
                database=database,
                is_served=is_served(alias, row["name"]),
                minutes=tuple(minutes.get(row["name"], {}).get(index, Minute()) for index in range(MINUTES)),
            )
            for row in rows
        ],
        more=known[0] - len(rows) if known else 0,
    )


def _supervisors(database: str) -> list[Supervisor]:
    rows = select(database, _SUPERVISORS)
    for row in rows:
        queues, resources, replicas = [_json(row[name]) for name in ("queues", "resources", "replicas")]
        row["queues"] = None if queues is None else queues_of(queues)
        row["resources"], row["replicas"] = numbers_of(resources), numbers_of(replicas) or {}
    return [Supervisor(**row, database=database) for row in rows]
