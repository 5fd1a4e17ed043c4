"""The form that enqueues an execution again with other arguments: as the code of the task is now, and checked by it."""

from __future__ import annotations

from functools import partial
from typing import Any, override

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

    @override
    def clean(self) -> dict[str, Any]:
        said: dict[str, Any] = super().clean() or self.cleaned_data
        if self.fields.keys() <= said.keys():
            problem = contained(partial(self._enqueue, said), reason_of)
            if problem is not None:
                self.add_error(None, problem)
        return said

    def _enqueue(self, said: dict[str, Any]) -> None:
        """Raise what an enqueue raises; nothing is enqueued then."""
        task: Any = import_task(self._row.callable_path)
        chosen = task.using(backend=self._row.backend, queue_name=said["queue_name"], priority=said["priority"])
        self.result = chosen.enqueue(*said["args"], **said["kwargs"])
