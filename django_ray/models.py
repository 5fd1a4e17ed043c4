"""The rows: executions, supervisors, paused queues, and what was in each minute; others in timetable, gates and edges.

What a row may look like is held by CHECK constraints, so that no program, ours included, can store an impossible one.
Every column has a default in the database: a plain INSERT of a callable_path is an enqueue.
"""

from __future__ import annotations

from typing import Any, override

from django.db import models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.fields.json import KT
from django.db.models.functions import Coalesce, JSONObject, Now
from django.db.models.lookups import Exact
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME
from django.tasks.base import DEFAULT_TASK_PRIORITY, TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from django.utils.translation import gettext_lazy as _

from django_ray import again, locking
from django_ray.bounds import MOST, is_whole, shown
from django_ray.databases import database_of
from django_ray.edges import RayEdge, RayFlow
from django_ray.fields import Uuid7, json_field, moment_field
from django_ray.gates import RayGate
from django_ray.rows import StoredError
from django_ray.serialization import clean_text
from django_ray.timetable import RaySchedule

__all__ = [
    "RayEdge", "RayFlow", "RayGate", "RayMinute", "RayQueue", "RaySchedule", "RayTaskExecution", "RayWorker", "State",
    "Uuid7",
]  # fmt: skip


class State(models.TextChoices):
    """Where an execution stands.

    WAITING is for something else than time, which makes it READY. Django's Tasks API has neither that nor CANCELLED:
    they are READY and FAILED to it.
    """

    WAITING = "WAITING", _("Blocked")
    READY = "READY", _("Ready")
    RUNNING = "RUNNING", _("Running")
    SUCCESSFUL = "SUCCESSFUL", _("Successful")
    FAILED = "FAILED", _("Failed")
    CANCELLED = "CANCELLED", _("Cancelled")


FINISHED = [State.SUCCESSFUL.value, State.FAILED.value, State.CANCELLED.value]


def _is_json(field: str, kind: str) -> Exact:
    return Exact(models.Func(F(field), function="jsonb_typeof", output_field=models.TextField()), kind)


class RayWorker(models.Model):
    """One life of a supervisor: while it lives, its session holds the advisory lock of this id."""

    hostname = models.TextField()
    pid = models.IntegerField()
    backend = models.TextField()
    queues = json_field()  # A list of names; null is any queue.
    concurrency = models.IntegerField()
    ray_address = models.TextField()
    resources = json_field(null=True)  # What its cluster has in all, by Ray's names; null is not known.
    replicas = json_field(null=True)  # How many of each worker stay, by its path.
    wanted = models.IntegerField(db_default=0)  # Slots that its cluster was asked for, and has not given yet.
    version = models.TextField()
    started_at = moment_field(db_default=Now())
    pulse = models.FloatField(db_default=0)  # Seconds between two signs of life; 0 is none.
    pulse_at = moment_field(db_default=Now())  # The last one.
    stopped_at = moment_field(null=True)  # It said goodbye.
    lost_at = moment_field(null=True)  # It was found dead, and its work was returned.
    rescued = models.IntegerField(db_default=0)  # How many executions that was.

    class Meta:
        db_table = "django_ray_worker"
        required_db_vendor = "postgresql"
        verbose_name = _("supervisor")
        indexes = [
            models.Index("id", name="django_ray_worker_live", condition=Q(stopped_at=None, lost_at=None)),
            models.Index(
                Coalesce("stopped_at", "lost_at"),
                name="django_ray_worker_ended",
                condition=Q(stopped_at__isnull=False) | Q(lost_at__isnull=False),
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.pk} ({self.hostname}, process {self.pid})"


_MOST_SAID = 1000  # Characters of who paused a queue, and why.


def _said(text: str | None) -> str | None:
    """Return what somebody has said, in one line that is not long; None for nothing."""
    return clean_text(" ".join((text or "").split()), _MOST_SAID) or None


class RayQueueManager(models.Manager["RayQueue"]):
    """The verbs for queues."""

    def pause(
        self,
        name: str,
        backend: str = DEFAULT_TASK_BACKEND_ALIAS,
        *,
        by: str | None = None,
        because: str | None = None,
    ) -> bool:
        """Have no supervisor start anything more of the queue; what runs may finish. Tell whether it was not paused.

        The pages and `why()` say by whom it was paused, and why, where that is given.
        """
        rows, said = self._rows_of(backend), {"paused_by": _said(by), "paused_because": _said(because)}
        with locking.waiting_briefly(rows.db):
            queue = rows.get_or_create(name=name, backend=backend)[0]
            return bool(rows.filter(pk=queue.pk, paused_at=None).update(paused_at=Now(), **said))

    def say_why(self, name: str, backend: str, because: str | None) -> bool:
        """Say why a queue is paused; tell whether it is."""
        rows = self._rows_of(backend)
        with locking.waiting_briefly(rows.db):
            paused = rows.filter(name=name, backend=backend, paused_at__isnull=False)
            return bool(paused.update(paused_because=_said(because)))

    def resume(self, name: str, backend: str = DEFAULT_TASK_BACKEND_ALIAS) -> bool:
        """Take pause back; tell whether it was paused."""
        rows = self._rows_of(backend)
        with locking.waiting_briefly(rows.db):
            paused = rows.filter(name=name, backend=backend, paused_at__isnull=False)
            return bool(paused.update(paused_at=None, paused_by=None, paused_because=None))

    def _rows_of(self, backend: str) -> models.QuerySet[RayQueue]:
        """Return the rows where the executions of a backend live: its claims heed them there."""
        return self.using(self._db or database_of(backend))


class RayQueue(models.Model):
    """A queue that somebody has paused, now or once. The others have no row; the trigger tells the supervisors."""

    backend = models.CharField(max_length=255, db_collation="C", db_default=DEFAULT_TASK_BACKEND_ALIAS)
    name = models.CharField(max_length=255, db_collation="C")
    paused_at = moment_field(null=True)
    paused_by = models.TextField(null=True)  # noqa: DJ001 - null is not known
    paused_because = models.TextField(null=True)  # noqa: DJ001

    objects = RayQueueManager()

    class Meta:
        db_table = "django_ray_queue"
        required_db_vendor = "postgresql"
        verbose_name = _("queue")
        constraints = [models.UniqueConstraint("backend", "name", name="django_ray_queue_once")]

    @override
    def __str__(self) -> str:
        return f"{self.name} ({self.backend})"


class RayMinute(models.Model):
    """What a supervisor counted of a queue in one minute, by the database's clock; after a day, in one hour."""

    id = models.BigAutoField(primary_key=True)  # One per queue, supervisor and second, kept or not.
    minute = moment_field()
    backend = models.CharField(max_length=255, db_collation="C")
    queue_name = models.CharField(max_length=255, db_collation="C")
    worker = models.ForeignKey(RayWorker, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    succeeded = models.IntegerField()
    failed = models.IntegerField()  # For good.
    retried = models.IntegerField()  # Attempts that failed or were lost, and are tried again.
    cancelled = models.IntegerField()  # By the supervisor: what was running, or waited there.
    postponed = models.IntegerField(db_default=0)  # Claims of what could not be begun: its code was not known there.
    waited = models.FloatField()  # Seconds from claimable to claimed, of all of them together.
    longest_wait = models.FloatField()

    class Meta:
        db_table = "django_ray_minute"
        required_db_vendor = "postgresql"
        constraints = [
            models.UniqueConstraint("minute", "backend", "queue_name", "worker", name="django_ray_minute_once"),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.queue_name} at {self.minute:%H:%M}"


class _Appended(models.Func):
    """A jsonb array with one element more."""

    template = "(%(expressions)s)"
    arg_joiner = " || "

    def __init__(self, field: str, **element: Any) -> None:
        super().__init__(F(field), JSONObject(**element), output_field=models.JSONField())


class ExecutionQuerySet(models.QuerySet["RayTaskExecution"]):
    """The verbs for many executions at once."""

    def cancel(self) -> int:
        """Cancel those that are not finished; return how many.

        WAITING and READY ones are CANCELLED at once. RUNNING ones are stopped by their supervisor, and are CANCELLED
        when they have ended; one that returns in that moment is SUCCESSFUL. Those that another transaction has locked
        come last: Locked, an OperationalError, when one of them stays so for 10 s, and the others are cancelled.
        """
        is_unclaimed = Q(state__in=(State.WAITING, State.READY))
        now = Now()
        error = {
            "exception_class_path": Value("django_ray.exceptions.TaskCancelled"),
            "message": Value("The execution was cancelled."),
            "traceback": Value("django_ray.exceptions.TaskCancelled: The execution was cancelled.\n"),
            "attempt": models.Func(F("worker_ids"), function="jsonb_array_length", output_field=models.IntegerField()),
            "worker_id": Value(None, models.TextField()),
            "at": now,
        }
        # One statement, so that none slips from one state to the other between two.
        return locking.update(
            self,
            (State.WAITING, State.READY, State.RUNNING),
            Q(state=State.RUNNING, cancel_requested_at__isnull=False),
            {
                "state": Case(When(is_unclaimed, then=Value(State.CANCELLED)), default=F("state")),
                "finished_at": Case(When(is_unclaimed, then=now), default=F("finished_at")),
                "due_at": None,
                "errors": Case(When(is_unclaimed, then=_Appended("errors", **error)), default=F("errors")),
                "cancel_requested_at": now,
            },
        )

    def retry(self) -> int:
        """Make those that FAILED or were CANCELLED claimable again, with all their attempts; return how many.

        Their errors are kept, and whoever waits for a result waits for the new one. What has expired once does not
        again. Where an equal execution is unfinished, as unique=... of the task has it, they stay as they are and do
        not count; of equal ones the newest is retried. Locked as for cancel().
        """
        return again.retry(self).number

    def enqueue_again(self) -> int:
        """Enqueue them once more, as executions of their own that may start at once; return how many.

        Those of which an equal one is unfinished, as unique=... of the task has it, are left out and do not count.
        Copies wait behind the same gates, and have from now as long to begin as their models had.
        """
        return again.enqueue_again(self).number

    def prune(self, most: int = 1000) -> int:
        """Delete up to most of those that are finished, and that nobody else is busy with; return how many.

        Results that an unfinished execution waits for stay.
        """
        if not is_whole(most, 0):
            raise ValueError(f"most must be a whole number of at least 0 and at most {MOST:,}, not {shown(most)}.")
        self._for_write = True
        needed = models.Func(F("pk"), function="django_ray_is_needed", output_field=models.BooleanField())
        chosen = (
            self.filter(state__in=FINISHED)
            .exclude(Q(is_upstream=True) & Q(needed))
            .order_by("finished_at")
            .select_for_update(skip_locked=True)
        )
        with transaction.atomic(using=self.db):
            ids = list(chosen.values_list("pk", flat=True)[:most])
            RayProgress._base_manager.using(self.db).filter(pk__in=ids)._raw_delete(self.db)  # noqa: SLF001
            doomed = self.model._base_manager.using(self.db).filter(pk__in=ids)  # noqa: SLF001
            # One DELETE: nothing refers to these rows.
            return doomed._raw_delete(doomed.db) if ids else 0  # noqa: SLF001

    for _verb in (cancel, retry, enqueue_again, prune):
        _verb.alters_data = True  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
    del _verb


class RayTaskExecution(models.Model):
    """One enqueue of a task, through all its attempts."""

    task_id = models.UUIDField(primary_key=True, db_default=Uuid7(), editable=False)
    backend = models.CharField(max_length=255, db_collation="C", db_default=DEFAULT_TASK_BACKEND_ALIAS)
    queue_name = models.CharField(max_length=255, db_collation="C", db_default=DEFAULT_TASK_QUEUE_NAME)
    priority = models.SmallIntegerField(db_default=DEFAULT_TASK_PRIORITY)
    callable_path = models.TextField()
    args = json_field(db_default=models.Value([], models.JSONField()))
    kwargs = json_field(db_default=models.Value({}, models.JSONField()))
    options = json_field(null=True)  # See Requirements; null is as configured.
    carrier = json_field(null=True)  # The trace context of the enqueue, and what travels with it: carrying.py.

    state = models.CharField(max_length=10, choices=State, db_default=State.READY)
    enqueued_at = moment_field(db_default=Now())
    run_after = moment_field(null=True)  # What the caller asked; null is now.
    due_at = moment_field(null=True)  # When it becomes claimable; null is now.

    # The fence: it only ever grows, and a record of an older attempt is refused.
    attempt_number = models.IntegerField(db_default=0)
    failures = models.IntegerField(db_default=0)  # Attempts that count against max_attempts.
    losses = models.IntegerField(db_default=0)  # Attempts lost with their process.
    worker_ids = json_field(db_default=models.Value([], models.JSONField()))  # One entry per attempt.
    claimed_by = models.ForeignKey(
        RayWorker, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="running"
    )
    started_at = moment_field(null=True)  # The first attempt.
    last_attempted_at = moment_field(null=True)
    finished_at = moment_field(null=True)
    cancel_requested_at = moment_field(null=True)
    missing_since = moment_field(null=True)  # Since then nobody that claimed it could begin it.
    # Times that it was claimed and came back without having ended or been charged; an attempt that fails keeps it.
    released = models.SmallIntegerField(db_default=0)
    awaited = models.BooleanField(db_default=False)  # Somebody waits for the end: its NOTIFY is wanted.

    result = json_field(null=True)
    # One object per failed attempt: exception_class_path, message, traceback, attempt, worker_id, at.
    errors = json_field(db_default=models.Value([], models.JSONField()))
    exception_type = models.GeneratedField(
        expression=KT("errors__-1__exception_class_path"), output_field=models.TextField(), db_persist=True
    )

    output = models.TextField(null=True)  # The last lines that the latest attempt wrote; null is none.  # noqa: DJ001

    # Of what a schedule has enqueued: which one, and when it was due.
    schedule = models.ForeignKey(
        RaySchedule, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="executions"
    )
    tick = moment_field(null=True)

    # What admits it: see admission.py.
    unique_key = models.TextField(null=True, db_collation="C")  # noqa: DJ001 - null is none
    gate = models.TextField(null=True, db_collation="C")  # noqa: DJ001
    gate_rule = json_field(null=True)  # What holds at its gate: limit, count, per, burst, full, lane.
    expires_at = moment_field(null=True)  # It must have begun by then.

    # What it waits for: see edges.py.
    # "success" of its upstreams, or their "end"; null is no upstream.
    needs = models.CharField(max_length=7, null=True)  # noqa: DJ001
    is_upstream = models.BooleanField(db_default=False)  # Another one waits, or has waited, for it.
    flow = models.ForeignKey(
        RayFlow, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="executions"
    )

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        db_table = "django_ray_execution"
        required_db_vendor = "postgresql"
        verbose_name = _("task execution")
        # Few, because each one costs every enqueue.
        indexes = [
            models.Index(
                "backend", "queue_name", F("priority").desc(), "task_id",
                name="django_ray_ready", condition=Q(state=State.READY, due_at=None),
            ),
            models.Index(
                "backend", "queue_name", "due_at",
                name="django_ray_due", condition=Q(state=State.READY, due_at__isnull=False),
            ),
            # For a supervisor of any queue. There are no NULLs in it: their place keeps the planner from taking it
            # for named queues, where it would read past all others.
            models.Index(
                "backend", F("due_at").asc(nulls_first=True),
                name="django_ray_scheduled", condition=Q(state=State.READY, due_at__isnull=False),
            ),
            models.Index("backend", "queue_name", name="django_ray_waiting", condition=Q(state=State.WAITING)),
            models.Index("claimed_by", name="django_ray_running", condition=Q(state=State.RUNNING)),
            models.Index("finished_at", name="django_ray_finished", condition=Q(finished_at__isnull=False)),
            models.Index("finished_at", name="django_ray_failed", condition=Q(state=State.FAILED)),
            # What of a schedule is unfinished. Others pay for neither this nor the constraint.
            models.Index(
                "schedule", name="django_ray_unfinished",
                condition=Q(schedule__isnull=False, finished_at=None),
            ),
            # What waits behind gates, for who admits; by gate, for who counts; and what may not wait for long.
            models.Index(
                "backend", F("priority").desc(), "queue_name", "gate", "task_id",
                name="django_ray_gated", condition=Q(state=State.WAITING, gate__isnull=False),
            ),
            models.Index(
                "backend", "gate", "state",
                name="django_ray_behind", condition=Q(gate__isnull=False, state__in=(State.WAITING, State.RUNNING)),
            ),
            models.Index(
                "backend", "gate", "task_id",
                name="django_ray_impatient", condition=Q(state=State.WAITING, gate_rule__has_key="full"),
            ),
            models.Index(
                "backend", "expires_at",
                name="django_ray_expiring",
                condition=Q(expires_at__isnull=False, started_at=None, state__in=(State.READY, State.WAITING)),
            ),
            # What waits in lanes, and what is due there.
            models.Index(
                "backend", "queue_name", "gate", F("priority").desc(), "task_id",
                name="django_ray_lanes",
                condition=Q(state=State.WAITING, gate__isnull=False, gate_rule__has_key="lane"),
            ),
            models.Index(
                "backend", "due_at",
                name="django_ray_lanes_due",
                condition=Q(state=State.READY, due_at__isnull=False, gate_rule__has_key="lane"),
            ),
            models.Index(
                "flow", "state", "task_id", name="django_ray_members", condition=Q(flow__isnull=False),
            ),
        ]  # fmt: skip
        constraints = [
            # Of what is enqueued once, there is one that is unfinished.
            models.UniqueConstraint(
                fields=["backend", "unique_key"],
                name="django_ray_unique",
                condition=Q(unique_key__isnull=False, state__in=(State.READY, State.RUNNING, State.WAITING)),
            ),
            # Whatever two supervisors believe, a tick is enqueued once.
            models.UniqueConstraint(
                fields=["schedule", "tick"], name="django_ray_tick", condition=Q(schedule__isnull=False)
            ),
            models.CheckConstraint(name="django_ray_state", condition=Q(state__in=State.values)),
            models.CheckConstraint(
                name="django_ray_priority",
                condition=Q(priority__range=(TASK_MIN_PRIORITY, TASK_MAX_PRIORITY)),
            ),
            models.CheckConstraint(
                name="django_ray_running_has_owner",
                condition=Q(state=State.RUNNING, claimed_by__isnull=False)
                | (~Q(state=State.RUNNING) & Q(claimed_by=None)),
            ),
            models.CheckConstraint(
                name="django_ray_finished_has_time",
                condition=Q(state__in=FINISHED, finished_at__isnull=False)
                | (~Q(state__in=FINISHED) & Q(finished_at=None)),
            ),
            models.CheckConstraint(name="django_ray_due_is_ready", condition=Q(due_at=None) | Q(state=State.READY)),
            models.CheckConstraint(
                name="django_ray_result_is_successful",
                condition=Q(result__isnull=True) | Q(state=State.SUCCESSFUL),
            ),
            models.CheckConstraint(
                name="django_ray_counts",
                condition=Q(attempt_number__gte=0, failures__gte=0, losses__gte=0),
            ),
            models.CheckConstraint(
                name="django_ray_json_shapes",
                condition=Q(_is_json("args", "array"))
                & Q(_is_json("kwargs", "object"))
                & Q(_is_json("errors", "array"))
                & Q(_is_json("worker_ids", "array")),
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.callable_path} {self.task_id}"

    @property
    def error_message(self) -> str | None:
        """The message of the last error, None without one."""
        return StoredError.all_of(self.errors)[-1].message if self.errors else None

    @property
    def error_traceback(self) -> str | None:
        """The traceback of the last error, None without one."""
        return StoredError.all_of(self.errors)[-1].traceback if self.errors else None


class RayProgress(models.Model):
    """What the latest attempt of an execution that said how far it is has said last.

    A narrow table of its own: the row of the execution is wide, and is not written anew for it. Nothing refers by a
    constraint, which each execution would pay for; whoever deletes executions deletes these as well.
    """

    execution = models.OneToOneField(
        RayTaskExecution, models.DO_NOTHING, primary_key=True, db_column="task_id", db_constraint=False,
        related_name="+",
    )  # fmt: skip
    attempt = models.IntegerField()
    fraction = models.FloatField(null=True)
    message = models.TextField(db_default="")
    at = moment_field(db_default=Now())
    number = models.IntegerField(db_default=1)  # How many values have been written.
    # While somebody watches: the last lines that the body has written, and the number of the line after them.
    output = models.TextField(db_default="")
    lines = models.IntegerField(db_default=0)

    class Meta:
        db_table = "django_ray_progress"
        required_db_vendor = "postgresql"
        default_permissions = ()

    @override
    def __str__(self) -> str:
        return f"{self.pk}: {self.fraction}"
