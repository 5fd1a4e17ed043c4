"""The form of a schedule: a task that the code lets staff schedule, its arguments, and when.

Queue, priority and options are those of the task: who writes options decides what is run on the Ray nodes.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, override

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.tasks import task_backends
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_ray.admin.lists import rows_of
from django_ray.admin.payloads import ArgumentsField, KeywordsField
from django_ray.backends import RayTaskBackend
from django_ray.databases import database_of, database_of_row
from django_ray.declaring import declared, reason_of
from django_ray.models import RaySchedule
from django_ray.results import import_task
from django_ray.runtime.foreign import contained
from django_ray.serialization import storable
from django_ray.signature import check_arguments
from django_ray.timetable import default_zone

if TYPE_CHECKING:
    _Form = forms.ModelForm[RaySchedule]
else:  # Generic in their stubs alone.
    _Form = forms.ModelForm

__all__ = ["PeriodField", "ScheduleForm"]

_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PERIOD = re.compile(r"(?P<number>\d{1,9}) ?(?P<unit>s|m|min|h|d|w)")


class PeriodField(forms.DurationField):
    """A period as people say it, 5 min or 90 s, or as Django writes it, 00:05:00."""

    widget = AdminTextInputWidget

    @override
    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, timedelta):
            return value
        for unit, name in (("d", "days"), ("h", "hours"), ("min", "minutes"), ("s", "seconds")):
            number, rest = divmod(value, timedelta(**{name: 1}))
            if number > 0 and not rest:
                return f"{number} {unit}"
        return super().prepare_value(value)

    @override
    def to_python(self, value: Any) -> timedelta | None:
        match = _PERIOD.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if match is None:
            return super().to_python(value)
        try:
            return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
        except OverflowError:
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None


class ScheduleForm(_Form):
    """What staff may say of a schedule."""

    name = forms.CharField(max_length=255, widget=AdminTextInputWidget)
    task = forms.ChoiceField(
        label=_("Task"), help_text=_("A task that has a @schedule, stands in SCHEDULES, or says schedulable=True.")
    )
    args = ArgumentsField(label=_("Arguments"), help_text=_('A list in JSON, such as [1, "two"].'))
    kwargs = KeywordsField(label=_("Keyword arguments"), help_text=_('An object in JSON, such as {"number": 1}.'))
    cron = forms.CharField(
        required=False,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=_("Minute, hour, day of month, month, day of week, such as 0 3 * * *. This, or a period below."),
    )
    every = PeriodField(
        required=False, help_text=_("Such as 90 s, 5 min, 2 h or 1 d. It counts on through nights of 23 or 25 hours.")
    )
    time_zone = forms.CharField(
        label=_("Time zone"),
        initial=default_zone,
        widget=AdminTextInputWidget(attrs={"list": "dr-zones", "autocomplete": "off"}),
        help_text=_("Whose clock a cron expression means, such as Europe/Berlin."),
    )
    missed_within = PeriodField(
        required=False,
        label=_("Missed within"),
        help_text=_("What is older than that is not made up for. Empty is a day."),
    )

    class Meta:
        model = RaySchedule
        fields = (
            "name", "task", "args", "kwargs", "cron", "every", "time_zone", "missed", "missed_within", "overlap",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heads = _heads()
        if "task" not in self.fields:  # one who may only look
            return
        field: Any = self.fields["task"]
        field.choices = [("", "---------"), *((key, _label(*key.split(" "))) for key in sorted(self._heads))]
        if self.instance.pk is not None:
            self.initial["task"] = self._key

    @property
    def _key(self) -> str:
        return f"{self.instance.backend} {self.instance.callable_path}"

    def clean_name(self) -> str:
        """Refuse what PostgreSQL cannot store."""
        return _storable(self.cleaned_data["name"])

    def clean_cron(self) -> str | None:
        """Return None for an empty one: then a period says when."""
        return _storable(self.cleaned_data["cron"]).strip() or None

    @override
    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        if not {"name", "task", "args", "kwargs"} <= said.keys():
            return said
        if said["task"] != self._key:
            self.instance.backend, self.instance.callable_path = said["task"].split(" ")
            self.instance.follow()
        database = database_of(self.instance.backend)
        if self.instance.pk is not None and database != database_of_row(self.instance):
            self.add_error("task", gettext("Its backend lives in another database: make a new schedule there."))
            return said
        others = rows_of(RaySchedule, database).filter(backend=self.instance.backend, name=said["name"])
        if others.exclude(pk=self.instance.pk).exists():
            self.add_error("name", gettext("There is a schedule of this name already."))
        problem = contained(partial(self._take_arguments, said["args"], said["kwargs"]), reason_of)
        if problem is not None:
            self.add_error("args", problem)
        return said

    def _take_arguments(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Raise what an enqueue with them would; have the row say what admits its executions."""
        row = self.instance
        check_arguments(import_task(row.callable_path), args, kwargs)
        row.args, row.kwargs = args, kwargs
        row.admission = row.said_admission()


def _heads() -> set[str]:
    """Return what may be scheduled, by backend and path."""
    backends = [backend for backend in task_backends.all() if isinstance(backend, RayTaskBackend)]
    return {
        f"{backend.alias} {head['callable_path']}"
        for backend in backends
        for head in declared(backend, imports=False).tasks
    }


def _label(alias: str, path: str) -> str:
    return path if alias == "default" else f"{path} ({alias})"


def _storable(text: str) -> str:
    if not storable(text):
        raise ValidationError(gettext("It has characters that cannot be stored."))
    return text
