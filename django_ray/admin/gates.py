"""The gates in the admin: how they stand, and what overrides them, live."""

from __future__ import annotations

from typing import Any, override

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_ray.admin.gate_form import GateForm
from django_ray.admin.lists import Bounded, link_to, shows
from django_ray.databases import database_of, database_of_row
from django_ray.locking import Locked, waiting_briefly
from django_ray.models import RayGate, RayTaskExecution
from django_ray.status import gates

__all__ = ["GateAdmin"]

_WRITTEN = ("backend", "name", "limit", "rate_count", "rate_per", "rate_burst")  # When the next start is due stays.


@admin.register(RayGate)
class GateAdmin(Bounded):
    """How gates stand, and the overrides."""

    form = GateForm
    list_display = ("name", "backend", "limit", "rate_count", "rate_per", "rate_burst")
    ordering = ("backend", "name")
    actions = None
    fieldsets = (
        (None, {"fields": ("name", "backend", "limit")}),
        (gettext_lazy("Rate"), {"fields": (("rate_count", "rate_per"), "rate_burst")}),
    )

    class Media:
        css = {"all": ["django_ray/admin.css"]}  # noqa: RUF012 - Django's way

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        request.current_app = self.admin_site.name
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        prefix = request.GET.get("q", "").replace("\0", "")
        found, unreachable = gates(prefix)
        name, page = self.admin_site.name, "admin:django_ray_raygate_change"
        context = {
            **self.admin_site.each_context(request),
            "title": _("Gates"),
            "opts": self.opts,
            "gates": [(gate, gate.override and link_to(page, gate.override, name)) for gate in found],
            "unreachable": unreachable,
            "prefix": prefix,
            "has_add_permission": self.has_add_permission(request),
            "has_change_permission": self.has_change_permission(request),
            "can_see_executions": shows(self.admin_site, RayTaskExecution, request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/django_ray/raygate/change_list.html", context)

    @override
    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        return {name: request.GET[name] for name in ("name", "backend") if name in request.GET}

    @override
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        using = database_of(obj.backend) if obj.pk is None else database_of_row(obj)
        with waiting_briefly(using):
            obj.save(using=using, update_fields=None if obj.pk is None else _WRITTEN)

    @override
    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with waiting_briefly(database_of_row(obj)):
            obj.delete(using=database_of_row(obj))

    @override
    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except Locked as error:
            return self._refuse(request, error)

    @override
    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        try:
            return super().delete_view(request, object_id, extra_context)
        except Locked as error:
            return self._refuse(request, error)

    def _refuse(self, request: HttpRequest, error: Locked) -> HttpResponse:
        self.message_user(request, str(error), messages.ERROR)
        return HttpResponseRedirect(reverse("admin:django_ray_raygate_changelist", current_app=self.admin_site.name))
