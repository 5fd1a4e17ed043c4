"""The rows of schedules, and what can be done with them. Whatever says when, in rules.py; who fires, a supervisor.

A row says everything that its executions need, so that a supervisor fires it without the code of the project. What
counts of time are `since` and `last_at`; `next_at` is only when to look again, and follows from them. A trigger sets
`since` when a schedule is new, says when in another way, or goes on after a pause: then its next tick is the first one
from now, whoever has written the row.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, override
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.db.models.lookups import Exact
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME, Task, TaskResult, task_backends
from django.tasks.base import DEFAULT_TASK_PRIORITY, TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from django_ray import locking
from django_ray.databases import PlacedQuerySet, database_of
from django_ray.fields import json_field, moment_field, period_field
from django_ray.rules import Rule, read_policy, read_rule, ticks

__all__ = ["MOST_FILLED", "Missed", "Overlap", "RaySchedule", "ScheduleQuerySet"]

MOST_FILLED = 10_000  # Ticks of one backfill().
# What counts is what the database's clock says.
_NOW = "SELECT statement_timestamp() FROM django_ray_schedule WHERE id = %s"
_ENQUEUE = "SELECT task_id FROM django_ray_enqueue_ticks(%s::int[], %s::timestamptz[])"
_TWIN = (
    "SELECT execution.task_id FROM django_ray_schedule AS schedule JOIN django_ray_execution AS execution"
    " ON execution.backend = schedule.backend AND unique_key = admission ->> 'unique'"
    " AND state IN ('READY', 'RUNNING', 'WAITING') WHERE schedule.id = %s"
)


class Missed(models.TextChoices):
    """What becomes of ticks while no supervisor was there."""

    ONE = "one", _("The last one, once")
    SKIP = "skip", _("None")
    ALL = "all", _("All")


class Overlap(models.TextChoices):
    """What becomes of a tick while the run before is unfinished."""

    SKIP = "skip", _("Skip the tick")
    ALLOW = "allow", _("Run both")


_UNSAID = (DEFAULT_TASK_QUEUE_NAME, DEFAULT_TASK_PRIORITY, None)
# What admits executions follows from these.
_DECIDE = frozenset({"backend", "callable_path", "args", "kwargs", "queue_name"})


def _is_json(field: str, kind: str) -> Exact:
    return Exact(models.Func(F(field), function="jsonb_typeof", output_field=models.TextField()), kind)


def default_zone() -> str:
    """Return the time zone of the project: a schedule keeps the one that it was made with."""
    return settings.TIME_ZONE


class ScheduleQuerySet(PlacedQuerySet["RaySchedule"]):
    """The verbs for many schedules at once."""

    def pause(self) -> int:
        """Fire them no more; return how many were not paused. What runs may finish."""
        return self._write(Q(paused_at=None), paused_at=Now())

    def resume(self) -> int:
        """Fire them again, from their next tick on; return how many were paused, or not declared any more.

        What was due meanwhile is not made up for. A schedule that the code has declared once is kept from now on.
        """
        return self._write(
            Q(paused_at__isnull=False) | Q(gone_at__isnull=False),
            paused_at=None,
            gone_at=None,
            is_declared=models.Case(models.When(gone_at=None, then=F("is_declared")), default=Value(False)),  # noqa: FBT003
        )

    def run_now(self) -> list[TaskResult[..., Any]]:
        """Enqueue each of them once, whatever its rule says, and also while it is paused; return the results.

        The tick of such a run is the moment of this. Where an equal execution is unfinished, as unique=... of the task
        has it, nothing is enqueued, and the result is the one of that, with is_duplicate. One that is deleted meanwhile
        is left out.
        """
        alias = self.written_to
        chosen = list(self.order_by("name").values_list("pk", "backend"))
        results: list[TaskResult[..., Any]] = []
        with connections[alias].cursor() as cursor:
            for pk, backend in chosen:
                if (result := _run_now(cursor, pk, backend)) is not None:
                    results.append(result)
        return results

    def _write(self, condition: Q, **values: Any) -> int:
        with locking.waiting_briefly(self.written_to):
            return self.using(self.written_to).filter(condition).update(**values)

    @property
    def written_to(self) -> str:
        """The database that they are written in."""
        self._for_write = True
        return self.db

    for _verb in (pause, resume, run_now):
        _verb.alters_data = True  # type: ignore[union-attr]  # pyright: ignore[reportFunctionMemberAccess]
    del _verb


class RaySchedule(models.Model):
    """A task, with its arguments, that is enqueued by itself at certain times."""

    backend = models.CharField(
        max_length=255, db_collation="C", default=DEFAULT_TASK_BACKEND_ALIAS, db_default=DEFAULT_TASK_BACKEND_ALIAS
    )
    name = models.CharField(max_length=255, db_collation="C")

    # As an enqueue of the task has it, with what the schedule says otherwise.
    callable_path = models.TextField()
    args = json_field(default=list, db_default=Value([], models.JSONField()), blank=True)
    kwargs = json_field(default=dict, db_default=Value({}, models.JSONField()), blank=True)
    queue_name = models.CharField(
        max_length=255, db_collation="C", default=DEFAULT_TASK_QUEUE_NAME, db_default=DEFAULT_TASK_QUEUE_NAME
    )
    priority = models.SmallIntegerField(default=DEFAULT_TASK_PRIORITY, db_default=DEFAULT_TASK_PRIORITY)
    options = json_field(null=True, blank=True)
    admission = json_field(null=True, blank=True, editable=False)  # See admission.py.

    # When: one of these two.
    cron = models.TextField(null=True, blank=True)  # noqa: DJ001 - null is none, and an empty one is wrong
    every = period_field(null=True, blank=True)
    time_zone = models.TextField(default=default_zone, db_default="UTC")
    missed = models.TextField(choices=Missed, default=Missed.ONE, db_default=Missed.ONE)
    missed_within = period_field(null=True, blank=True)  # null is a day.
    overlap = models.TextField(choices=Overlap, default=Overlap.SKIP, db_default=Overlap.SKIP)

    is_declared = models.BooleanField(default=False, db_default=False)  # By the code.
    gone_at = moment_field(null=True, blank=True)  # Since then it is not declared any more, and is not fired.
    # What the code has said of it, the latest last: digests of definitions, or what its task says. See declaring.py.
    seen = json_field(default=list, db_default=Value([], models.JSONField()), editable=False)
    paused_at = moment_field(null=True, blank=True)

    # Written by triggers and supervisors.
    since = moment_field(db_default=Now(), editable=False)  # Ticks after this count.
    last_at = moment_field(null=True, editable=False)  # The last tick that was decided about.
    next_at = moment_field(null=True, editable=False)  # When to look again; null is at once.
    lag = models.FloatField(null=True, editable=False)  # Seconds from the last tick that was fired to its enqueue.
    skipped = models.IntegerField(db_default=0, editable=False)  # Ticks while the run before was unfinished.
    lost = models.IntegerField(db_default=0, editable=False)  # Ticks that were missed, and not made up for.
    problem = models.TextField(null=True, editable=False)  # noqa: DJ001 - why it does not fire, or will not run

    objects = ScheduleQuerySet.as_manager()

    class Meta:
        db_table = "django_ray_schedule"
        required_db_vendor = "postgresql"
        verbose_name = _("schedule")
        indexes = [
            models.Index("backend", "next_at", name="django_ray_next", condition=Q(paused_at=None, gone_at=None)),
        ]
        constraints = [
            models.UniqueConstraint("backend", "name", name="django_ray_schedule_once"),
            models.CheckConstraint(
                name="django_ray_schedule_when",
                condition=Q(cron=None, every__isnull=False) | Q(cron__isnull=False, every=None),
            ),
            models.CheckConstraint(
                name="django_ray_schedule_words",
                condition=Q(missed__in=Missed.values, overlap__in=Overlap.values),
            ),
            models.CheckConstraint(
                name="django_ray_schedule_priority",
                condition=Q(priority__range=(TASK_MIN_PRIORITY, TASK_MAX_PRIORITY)),
            ),
            models.CheckConstraint(
                name="django_ray_schedule_json_shapes",
                condition=Q(_is_json("args", "array")) & Q(_is_json("kwargs", "object")) & Q(_is_json("seen", "array")),
            ),
        ]

    @override
    def __str__(self) -> str:
        return self.name

    @override
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save it. A new one whose queue, priority and options nobody has said follows its task.

        It goes where the executions of its backend live, unless using= says where.

        What admits its executions is what its task says for these arguments, unless the code declares the schedule:
        whatever that raises, and TypeError when they do not fit.
        """
        if self._state.adding and not self.seen and (self.queue_name, self.priority, self.options) == _UNSAID:
            self.follow()
        if self._state.db is None and kwargs.get("using") is None:
            kwargs["using"] = database_of(self.backend)
        only = kwargs.get("update_fields")
        if not self.is_declared and (only is None or not _DECIDE.isdisjoint(only)):
            self.admission = self.said_admission()
            if only is not None:
                kwargs["update_fields"] = {*only, "admission"}
        super().save(*args, **kwargs)

    @property
    def rule(self) -> Rule:
        """When it is due; ValueError when that cannot be read."""
        return read_rule(self.cron, self.every, self.time_zone)

    @property
    def is_active(self) -> bool:
        """Tell whether it is fired."""
        return self.paused_at is None and self.gone_at is None

    def next_times(self, number: int = 5, after: datetime | None = None) -> list[datetime]:
        """Return its next ticks from now on, or from another moment, in its time zone; ValueError as for rule."""
        rule, zone = self.rule, ZoneInfo(self.time_zone)
        start = datetime.now(UTC) if after is None else _aware(after)
        return [tick.astimezone(zone) for tick in islice(ticks(rule, start), number)]

    def follow(self) -> None:
        """Say what the task says of queue, priority and options, now and, after each migrate, what it says then."""
        if (task := self._task()) is None:
            return
        options = getattr(task, "row_options", lambda: None)()
        self.queue_name, self.priority, self.options = task.queue_name, task.priority, options
        self.seen = [self._head]

    @property
    def _head(self) -> dict[str, Any]:
        return {"queue_name": self.queue_name, "priority": self.priority, "options": self.options}

    @property
    def follows(self) -> bool:
        """Tell whether it says what its task said last, and nobody anything else."""
        return bool(self.seen) and self.seen[-1] == self._head

    def said_admission(self) -> dict[str, Any] | None:
        """Return what its task says of the admission of executions with its arguments; see admission.py.

        As the row has it where the task is not here. Raises what an enqueue raises.
        """
        task = self._task()
        admission = getattr(task_backends[self.backend], "admission", None) if self.backend in settings.TASKS else None
        if task is None or admission is None:
            return self.admission  # type: ignore[no-any-return]
        return admission(task, self.args, self.kwargs, self.queue_name)  # type: ignore[no-any-return]

    def _task(self) -> Any:
        """Return its task, None if that is not here."""
        try:
            task: Any = import_string(self.callable_path)
        except Exception:  # noqa: BLE001 - of the project's
            return None
        return task if isinstance(task, Task) else None

    @override
    def clean(self) -> None:
        """Say what is wrong with when it is due, beside the field that says it."""
        for check, arguments, fields in (
            (read_rule, (self.cron or None, self.every, self.time_zone), ("cron", "every", "time_zone")),
            (read_policy, (self.missed, self.missed_within), ("missed_within", "missed")),
        ):
            try:
                check(*arguments)
            except ValueError as error:
                raise ValidationError({_field_of(str(error), fields): str(error)}) from None

    def pause(self) -> bool:
        """Fire it no more; tell whether it was not paused."""
        return self._tell(self._row().pause())

    def resume(self) -> bool:
        """Fire it again, from its next tick on; tell whether it was paused, or not declared any more."""
        return self._tell(self._row().resume())

    def run_now(self) -> TaskResult[..., Any]:
        """Enqueue it once, whatever its rule says; return the result. DoesNotExist if it is deleted."""
        results = self._row().run_now()
        if not results:
            raise RaySchedule.DoesNotExist(f"The schedule {self.name!r} is deleted.")
        return results[0]

    def backfill(self, start: datetime, end: datetime) -> int:
        """Enqueue what was due from start on, and before end; return how many are new.

        Each tick is enqueued once, however often it is asked for, as long as its execution is not deleted. What is
        unfinished matters only where the task says unique=...: then an equal one is not enqueued. ValueError for more
        than 10,000 ticks, and when the rule cannot be read.
        """
        after, until = (_aware(moment) - timedelta(microseconds=1) for moment in (start, end))
        chosen = list(islice(ticks(self.rule, after, until), MOST_FILLED + 1))
        if len(chosen) > MOST_FILLED:
            raise ValueError(
                f"{self.name} is due more than {MOST_FILLED:,} times from {start} to {end}: ask for less at a time."
            )
        with connections[self._row().written_to].cursor() as cursor:
            cursor.execute(_ENQUEUE, [[self.pk] * len(chosen), chosen])
            return len(cursor.fetchall())

    for _verb in (pause, resume, run_now, backfill):
        _verb.alters_data = True  # type: ignore[union-attr]  # pyright: ignore[reportFunctionMemberAccess]
    del _verb

    def _row(self) -> ScheduleQuerySet:
        return ScheduleQuerySet(type(self), using=self._state.db).filter(pk=self.pk)

    def _tell(self, number: int) -> bool:
        self.refresh_from_db(using=self._row().written_to)  # a replica may not know it yet
        return bool(number)


def _run_now(cursor: Any, pk: int, backend: str) -> Any:
    """Return the result; None when the schedule is gone."""
    while True:
        cursor.execute(_NOW, [pk])
        if (found := cursor.fetchone()) is None:
            return None
        cursor.execute(_ENQUEUE, [[pk], [*found]])
        if (row := cursor.fetchone()) is not None:
            return _result(backend, *row)
        cursor.execute(_TWIN, [pk])
        if (row := cursor.fetchone()) is not None:
            result = _result(backend, *row)
            object.__setattr__(result, "is_duplicate", True)
            return result
        # It has ended in between, and so it can be enqueued.


def _result(backend: str, task_id: Any) -> Any:
    return task_backends[backend].get_result(str(task_id))


def _aware(moment: datetime) -> datetime:
    return (timezone.make_aware(moment) if timezone.is_naive(moment) else moment).astimezone(UTC)


def _field_of(sentence: str, fields: tuple[str, ...]) -> str:
    """Return which field a sentence is about: it begins with its name."""
    return next((name for name in fields if sentence.startswith(f"{name} ")), fields[0])
