"""Arguments that somebody types into a form, as JSON."""

from __future__ import annotations

from typing import Any, override

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget
from django.core.exceptions import ValidationError
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_ray.serialization import jsonable

__all__ = ["ArgumentsField", "KeywordsField"]


class _PayloadField(forms.JSONField):
    kind: type[Any]
    otherwise: Any

    def __init__(self, **options: Any) -> None:
        widget = AdminTextareaWidget(attrs={"rows": 2})
        super().__init__(required=False, initial=self.kind, widget=widget, **options)

    @override
    def clean(self, value: Any) -> Any:
        found = super().clean(value)
        if found is None or found == "":
            return self.kind()
        if not isinstance(found, self.kind):
            raise ValidationError(str(self.otherwise))
        try:
            return jsonable(found, gettext("it"))
        except (TypeError, ValueError) as error:
            raise ValidationError(str(error)) from None


class ArgumentsField(_PayloadField):
    """A list, of arguments by position."""

    kind = list
    otherwise = _("It must be a list.")


class KeywordsField(_PayloadField):
    """A dictionary, of arguments by name."""

    kind = dict
    otherwise = _("It must be an object, with names.")
