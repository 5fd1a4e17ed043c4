"""The form that enqueues an execution again with other arguments: as the code of the task is now, and checked by it."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.tasks.base import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from django.utils.translation import gettext_lazy as _

from django_ray.admin.payloads import ArgumentsField, KeywordsField
from django_ray.declaring import reason_of
from django_ray.models import RayTaskExecution
from django_ray.results import import_task
from django_ray.runtime.foreign import contained

__all__ = ["EditForm"]


class EditForm(forms.Form):
    """Of one execution."""

    args = ArgumentsField(label=_("Arguments"), help_text=_('A list in JSON, such as [1, "two"].'))
    kwargs = KeywordsField(label=_("Keyword arguments"), help_text=_('An object in JSON, such as {"number": 1}.'))
    queue_name = forms.CharField(label=_("Queue"), max_length=255)
    priority = forms.IntegerField(
        label=_("Priority"),
        validators=[MinValueValidator(TASK_MIN_PRIORITY), MaxValueValidator(TASK_MAX_PRIORITY)],
    )

    def __init__(self, row: RayTaskExecution, *args: Any, **kwargs: Any) -> None:
        said = {"args": row.args, "kwargs": row.kwargs, "queue_name": row.queue_name, "priority": row.priority}
        super().__init__(*args, **{"initial": said, **kwargs})
        self._row = row
        self.result: Any = None  # Of what was enqueued.

    def enqueue(self) -> bool:
        """Enqueue what the form says; tell whether it could be, the form says why not."""
        if self.is_valid() and (problem := contained(self._enqueue, reason_of)) is not None:
            self.add_error(None, problem)
        return self.result is not None

    def _enqueue(self) -> None:
        said, task = self.cleaned_data, cast("Any", import_task(self._row.callable_path))
        chosen = task.using(backend=self._row.backend, queue_name=said["queue_name"], priority=said["priority"])
        self.result = chosen.enqueue(*said["args"], **said["kwargs"])
