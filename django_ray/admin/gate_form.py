"""The form of what overrides a gate: a limit, a rate, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, override

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_ray.admin.lists import rows_of
from django_ray.backends import RayTaskBackend
from django_ray.bounds import LONGEST, MOST
from django_ray.databases import database_of, database_of_row
from django_ray.gates import MOST_GATE, RayGate

if TYPE_CHECKING:
    _Form = forms.ModelForm[RayGate]
else:  # Generic in their stubs alone.
    _Form = forms.ModelForm

__all__ = ["GateForm"]

_SHORTEST = 0.000_001


def _backends() -> list[tuple[str, str]]:
    return [(alias, alias) for alias in task_backends if isinstance(task_backends[alias], RayTaskBackend)]


class GateForm(_Form):
    """What holds at a gate instead of what the code says."""

    name = forms.CharField(
        max_length=MOST_GATE,
        widget=AdminTextInputWidget,
        help_text=_(
            "The path of a task or its gate; with limit_by, a colon and the value. With a star behind the colon, all "
            "of them."
        ),
    )
    backend = forms.ChoiceField(choices=_backends, initial=DEFAULT_TASK_BACKEND_ALIAS)
    limit = forms.IntegerField(
        label=_("Limit"), required=False, min_value=0, max_value=MOST,
        help_text=_("How many may run at a time. 0 closes the gate; empty is what the code says."),
    )  # fmt: skip
    rate_count = forms.IntegerField(label=_("Starts"), required=False, min_value=1, max_value=MOST)
    rate_per = forms.FloatField(label=_("In so many seconds"), required=False, min_value=_SHORTEST, max_value=LONGEST)
    rate_burst = forms.IntegerField(
        label=_("At once"), required=False, initial=1, min_value=1, max_value=MOST,
        help_text=_("How many of them may be made up for at once, after a time without one."),
    )  # fmt: skip

    class Meta:
        model = RayGate
        fields = ("name", "backend", "limit", "rate_count", "rate_per", "rate_burst")

    def clean_rate_burst(self) -> int:
        """Nothing said is one."""
        return self.cleaned_data.get("rate_burst") or 1

    @override
    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        backend, is_new = data.get("backend"), self.instance.pk is None
        if backend and not is_new and database_of(backend) != database_of_row(self.instance):
            raise ValidationError(gettext("This backend lives in another database: make a new override there."))
        if not self.errors and data.get("limit") is None and data.get("rate_count") is None:
            raise ValidationError(gettext("Say a limit or a rate. To have what the code says, delete the override."))
        self._take_over(data)
        return data

    def _take_over(self, data: dict[str, Any]) -> None:
        """Have a row that only remembers a start become the override: it is none, and in nobody's way."""
        if self.instance.pk is None and data.get("name") and data.get("backend"):
            idle = Q(limit=None, rate_count=None, backend=data.get("backend"), name=data["name"])
            self.instance = rows_of(RayGate, database_of(data["backend"])).filter(idle).first() or self.instance
