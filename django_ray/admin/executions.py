"""The executions in the admin: the list, the verbs for what is selected there, and the page of one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, cast, override
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import display_for_value
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.db.models import Case, Exists, F, Func, IntegerField, OuterRef, QuerySet, TextField, Value, When
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Left
from django.db.models.lookups import GreaterThan
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.dateformat import time_format
from django.utils.functional import lazy
from django.utils.html import format_html
from django.utils.text import Truncator, format_lazy
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST, require_safe

from django_ray import again, dashboard
from django_ray.admin.edit_form import EditForm
from django_ray.admin.filters import FILTERS, NEWEST, bounded, newest_id
from django_ray.admin.flow_page import neighbours
from django_ray.admin.history import history
from django_ray.admin.lists import MOST_COUNTED, ReadOnly, found, link_to, rows_of, shows
from django_ray.admin.noting import chosen, chosen_one, note
from django_ray.admin.searching import NEWEST_READ, found_by, indexed, outside_index, terms
from django_ray.again import Again
from django_ray.bounds import shown
from django_ray.databases import database_of_row, databases
from django_ray.figures import usual
from django_ray.locking import Locked
from django_ray.metadata import metadata_of
from django_ray.models import FINISHED, RayFlow, RayProgress, RayQueue, RaySchedule, RayTaskExecution, State
from django_ray.moments import for_machines
from django_ray.serialization import clean_text
from django_ray.situation import paused_queues, situation
from django_ray.snapshot import NoSnapshot, snapshot
from django_ray.templatetags.django_ray import ago, count_all, duration, short_class
from django_ray.templatetags.django_ray_times import until
from django_ray.ticking import schedule_of, tick_of
from django_ray.why import why

__all__ = ["ExecutionAdmin"]

MOST_DELETED = 1000  # By the action, which shows them all first.
MOST_UNASKED = 20  # More than so many, and it is asked first.
MOST_SHOWN = 100_000  # Characters of arguments, of a result and of an output.

MOST_OF_AN_ERROR = 120  # Characters, in the list.


MOST_OF_ARGUMENTS = 60  # Characters, in the list.
_LIVE = "admin/django_ray/raytaskexecution/live.html"
_LARGE = 4000  # Bytes: what is larger is not read for the list.


def _beginning(column: str) -> Any:
    """Return the JSON of a column, or its beginning; NULL where it is large."""
    return Case(
        When(
            GreaterThan(Func(F(column), function="pg_column_size", output_field=IntegerField()), _LARGE),
            then=Value(None),
        ),
        default=Left(Cast(column, TextField()), 2 * MOST_OF_ARGUMENTS),
    )


_ARGUMENTS = {"args_start": _beginning("args"), "kwargs_start": _beginning("kwargs")}


def _arguments(row: Any) -> str:
    args, kwargs = ("\N{HORIZONTAL ELLIPSIS}" if text is None else text for text in (row.args_start, row.kwargs_start))
    parts = [args.removeprefix("[").removesuffix("]"), "" if kwargs == "{}" else kwargs]
    return ", ".join(part for part in parts if part)


def _more_of(row: Any) -> str:
    """Return when it is due, and behind what it waits."""
    parts = [until(row.due_at)] if row.state == State.READY and row.due_at else []
    if row.state == State.WAITING and row.gate is not None:
        parts.append(row.gate.removeprefix("!"))
    return ", ".join(parts)


def _error_of(row: Any) -> str:
    """Return what its last attempt failed with."""
    if not row.exception_type or row.state not in {State.READY, State.FAILED}:
        return ""
    said = f"{short_class(row.exception_type)}: {row.error_text or ''}"
    return Truncator(" ".join(said.split())).chars(MOST_OF_AN_ERROR)


# What is said after a verb. One sentence each, so that it can be translated.
_RETRIED = ngettext_lazy(
    "%(shown)s execution will be tried again.", "%(shown)s executions will be tried again.", "number"
)
_NOT_RETRIED = _("No execution will be tried again. Only what FAILED or was CANCELLED can be.")
_CANCELLED = ngettext_lazy("%(shown)s execution cancelled.", "%(shown)s executions cancelled.", "number")
_NOT_CANCELLED = _("No execution cancelled. What has ended cannot be.")
_ENQUEUED = ngettext_lazy("%(shown)s execution enqueued.", "%(shown)s executions enqueued.", "number")
_LEFT = ngettext_lazy(
    "%(shown)s execution is left: an equal one is unfinished, and the task is unique.",
    "%(shown)s executions are left: equal ones are unfinished, and their tasks are unique.",
    "number",
)
_NOT_ENQUEUED = _("No execution enqueued. Nothing was selected.")
# What is asked first.
_WOULD_RETRY = _("%(shown)s executions are selected. Those of them that FAILED or were CANCELLED will be tried again.")
_WOULD_CANCEL = _(
    "%(shown)s executions are selected. Those of them that have not ended will be cancelled; what runs is interrupted."
)
_WOULD_ENQUEUE = _("%(shown)s executions are selected. Each of them will be enqueued again, as a new execution.")


class _Verb(NamedTuple):
    """What can be done to executions that are selected."""

    name: str  # Of the action.
    do: Callable[[Any], Again]
    done: Any  # What is said then, and when nothing was done, and what is asked first.
    otherwise: Any
    would: Any


def _may_edit(request: HttpRequest) -> bool:
    """Tell whether somebody may enqueue with arguments of his own: that is more than to do again what is there."""
    user = cast("Any", request.user)
    # One by one: not every project's users have has_perms().
    return all(user.has_perm(f"django_ray.{verb}_raytaskexecution") for verb in ("add", "change"))


def _cancel(rows: Any) -> Again:
    return Again(rows.cancel(), 0)


@admin.register(RayTaskExecution)
class ExecutionAdmin(ReadOnly):
    """Executions of tasks."""

    list_display = (
        "shown_state",
        "shown_task",
        "shown_arguments",
        "shown_queue",
        "shown_age",
        "shown_duration",
    )
    list_display_links = ("shown_task",)
    list_filter = FILTERS
    search_fields = ("task_id", "callable_path")
    search_help_text = format_lazy(
        _(
            "An id, or words in a task's path, its arguments or its last error. task:, args:, error:, meta: and queue: "
            "say where. Looks at the newest {number} executions, and into the newest {read} of them."
        ),
        read=lazy(count_all, str)(NEWEST_READ),
        number=lazy(count_all, str)(NEWEST),
    )
    ordering = ("-task_id",)
    actions = ("retry", "cancel", "enqueue_again", "delete_selected")

    class Media:
        css = {"all": ["django_ray/admin.css"]}  # noqa: RUF012 - Django's way

    @admin.display(description=_("state"))
    def shown_state(self, row: Any) -> str:
        """Return where it stands, as a word in its colour, and what it waits for."""
        paused = {(row.backend, row.queue_name)} if row.is_paused else set[tuple[str, str]]()
        now = situation(row, timezone.now(), paused)
        badge = format_html('<span class="dr-state dr-{}">{}</span>', now.style, now.label)
        if not (more := _more_of(row)):
            return badge
        return format_html('{}<br><span class="dr-quiet">{}</span>', badge, more)

    @admin.display(description=_("task"))
    def shown_task(self, row: RayTaskExecution) -> str:
        """Return the path of the function, which may be broken before its name, and what it failed with."""
        module, _, name = row.callable_path.rpartition(".")
        path = format_html('<span class="dr-quiet">{}.</span><wbr><b>{}</b>', module, name)
        if not (error := _error_of(row)):
            return path
        return format_html('{}<br><span class="dr-bad-text">{}</span>', path, error)

    @admin.display(description=_("queue"), ordering="queue_name")
    def shown_queue(self, row: RayTaskExecution) -> str:
        """Return the queue."""
        return row.queue_name

    @admin.display(description=_("arguments"))
    def shown_arguments(self, row: Any) -> str:
        """Return the beginning of the arguments, as Python would write a call of them."""
        return Truncator(_arguments(row)).chars(MOST_OF_ARGUMENTS)

    @admin.display(description=_("enqueued"))
    def shown_age(self, row: RayTaskExecution) -> str:
        """Return how long ago it was enqueued."""
        return format_html(
            '<time datetime="{}" title="{}">{}</time>',
            for_machines(row.enqueued_at),
            display_for_value(row.enqueued_at, ""),
            ago(row.enqueued_at),
        )

    @admin.display(description=_("took"))
    def shown_duration(self, row: RayTaskExecution) -> str:
        """Return how long the last attempt took, or has been running, and how many there were."""
        took = "\N{EN DASH}"
        if row.last_attempted_at is not None and row.state != State.READY:
            took = duration(((row.finished_at or timezone.now()) - row.last_attempted_at).total_seconds())
        if (number := len(row.worker_ids)) <= 1:
            return took
        attempts = ngettext("%(number)s attempt", "%(number)s attempts", number) % {"number": count_all(number)}
        return format_html('{}<br><span class="dr-quiet dr-whole">{}</span>', took, attempts)

    @override
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {"title": _("Task executions"), **(extra_context or {})})

    @override
    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: Any = super().get_queryset(request).defer("args", "kwargs", "options", "carrier", "result", "errors")
        paused = RayQueue.objects.filter(
            backend=OuterRef("backend"), name=OuterRef("queue_name"), paused_at__isnull=False
        )
        shown: QuerySet[Any] = rows.annotate(
            is_paused=Exists(paused), error_text=KT("errors__-1__message"), **_ARGUMENTS
        )
        return shown

    @override
    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        try:
            return found(RayTaskExecution, UUID(object_id), request)
        except ValueError:
            return None

    @override
    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find an id, or what was typed; and keep what no index serves to the newest executions."""
        said = terms(search_term)
        try:
            return queryset.filter(pk=UUID(search_term.strip())), False
        except ValueError:
            pass
        if (ids := indexed(queryset, said, oldest=lambda: newest_id(queryset, NEWEST))) is not None:
            return found_by(queryset.filter(pk__in=ids), outside_index(said), oldest_read=None), False
        if said:
            queryset = found_by(queryset, said, oldest_read=newest_id(queryset, NEWEST_READ))
        return bounded(queryset, request, self.get_list_filter(request)), False

    @admin.action(description=_("Retry"), permissions=["change"])
    def retry(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Retry the selected ones."""
        return self._act(request, queryset, _Verb("retry", again.retry, _RETRIED, _NOT_RETRIED, _WOULD_RETRY))

    @admin.action(description=_("Cancel"), permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Cancel the selected ones."""
        return self._act(request, queryset, _Verb("cancel", _cancel, _CANCELLED, _NOT_CANCELLED, _WOULD_CANCEL))

    @admin.action(description=_("Enqueue again, as a new execution"), permissions=["change"])
    def enqueue_again(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Enqueue copies of the selected ones."""
        verb = _Verb("enqueue_again", again.enqueue_again, _ENQUEUED, _NOT_ENQUEUED, _WOULD_ENQUEUE)
        return self._act(request, queryset, verb)

    @admin.action(description=_("Delete"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Delete the selected ones, after a question."""
        if queryset.order_by()[: MOST_DELETED + 1].count() > MOST_DELETED:
            text = gettext("More than %(number)s are selected: delete them with manage.py django_ray_prune.")
            self.message_user(request, text % {"number": count_all(MOST_DELETED)}, messages.ERROR)
            return None
        return delete_selected(self, request, _every(queryset))

    def _act(self, request: HttpRequest, queryset: Any, verb: _Verb) -> HttpResponse | None:
        """Do it, say what was done, and note it; ask first where it is more than a few."""
        what = chosen(request, queryset)
        if what.number > MOST_UNASKED and not request.POST.get("confirmed"):
            return self._ask(request, what.number, verb)
        try:
            result = verb.do(_every(queryset))
        except Locked as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        self._say(request, result, verb.done, verb.otherwise)
        if number := result.number:
            note(request, RayTaskExecution, verb.done % {"number": number, "shown": count_all(number)}, what)
        return None

    def _ask(self, request: HttpRequest, selected: int, verb: _Verb) -> HttpResponse:
        shown = f"{count_all(MOST_COUNTED)}+" if selected > MOST_COUNTED else count_all(selected)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Are you sure?"),
            "opts": self.opts,
            "question": verb.would % {"shown": shown},
            "action": verb.name,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "is_across": request.POST.get("select_across") == "1",
        }
        return TemplateResponse(request, "admin/django_ray/raytaskexecution/ask.html", context)

    def _say(self, request: HttpRequest, result: Again, done: Any, otherwise: Any) -> None:
        number, left = result
        if number or not left:
            text = done % {"number": number, "shown": count_all(number)} if number else otherwise
            self.message_user(request, text, messages.SUCCESS if number else messages.WARNING)
        if left:
            self.message_user(request, _LEFT % {"number": left, "shown": count_all(left)}, messages.WARNING)

    @override
    def get_urls(self) -> Any:
        view = self.admin_site.admin_view
        do, edit = view(require_POST(self._do)), view(self._edit)
        return [
            path("<uuid:task_id>/do/", do, name="django_ray_raytaskexecution_do"),
            path("<uuid:task_id>/edit/", edit, name="django_ray_raytaskexecution_edit"),
            path("<uuid:task_id>/now/", view(require_safe(self._now)), name="django_ray_raytaskexecution_now"),
            path("<uuid:task_id>/live/", view(self._live), name="django_ray_raytaskexecution_live"),
            path("<uuid:task_id>/stream/", view(self._stream), name="django_ray_raytaskexecution_stream"),
            *super().get_urls(),
        ]

    def _edit(self, request: HttpRequest, task_id: UUID) -> HttpResponse:
        """Enqueue an execution again with other arguments."""
        request.current_app = self.admin_site.name
        if not _may_edit(request):
            raise PermissionDenied
        row = found(RayTaskExecution, task_id, request)
        if row is None or row.needs is not None:
            raise Http404
        form = EditForm(row, request.POST if request.method == "POST" else None)
        if form.enqueue():
            result = form.result
            note(request, RayTaskExecution, f"Enqueued again, with other arguments, as {result.id}.", chosen_one(row))
            self.message_user(request, gettext("Enqueued."), messages.SUCCESS)
            page = "admin:django_ray_raytaskexecution_change"
            return HttpResponseRedirect(reverse(page, args=[result.id], current_app=self.admin_site.name))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Edit and enqueue again"),
            "opts": self.opts,
            "row": row,
            "form": form,
        }
        return TemplateResponse(request, "admin/django_ray/raytaskexecution/edit.html", context)

    def _do(self, request: HttpRequest, task_id: UUID) -> HttpResponse:
        """Do what a button of the page of one execution says."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        verbs = {"retry": self.retry, "cancel": self.cancel, "enqueue_again": self.enqueue_again}
        verb = verbs.get(request.POST.get("verb", ""))
        if verb is None:
            raise Http404
        row = found(RayTaskExecution, task_id, request)
        if row is None:
            raise Http404
        verb(request, rows_of(RayTaskExecution, database_of_row(row)).filter(pk=task_id))
        page, where = "admin:django_ray_raytaskexecution_change", [task_id]
        if request.POST.get("back") == "live" and shows(self.admin_site, RayQueue, request):
            page, where = "admin:django_ray_rayqueue_changelist", []
        return HttpResponseRedirect(reverse(page, args=where, current_app=self.admin_site.name))

    @override
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method != "GET":
            raise PermissionDenied
        try:
            task_id = UUID(object_id)
        except ValueError:
            raise Http404 from None
        shown = self._shown(request, task_id)
        context = {
            **self.admin_site.each_context(request),
            "title": shown["row"].callable_path,
            "opts": self.opts,
            "original": shown["row"],
            "is_streaming": dashboard.can_stream(request),
            **shown,
        }
        return TemplateResponse(request, "admin/django_ray/raytaskexecution/change_form.html", context)

    def _live(self, request: HttpRequest, task_id: UUID) -> HttpResponse:
        return TemplateResponse(request, _LIVE, self._shown(request, task_id))

    def _stream(self, request: HttpRequest, task_id: UUID) -> HttpResponseBase:
        database = database_of_row(self._row(request, task_id))
        if not dashboard.can_listen():
            raise Http404
        from django_ray.streaming import stream  # which needs psycopg 3

        def render() -> str:
            try:
                shown = self._shown(request, task_id)
            except Http404:  # pruned meanwhile
                shown = {"row": None}
            return render_to_string(_LIVE, shown, request)

        return stream(render, [database])

    def _now(self, request: HttpRequest, task_id: UUID) -> HttpResponse:
        """Show what the body does now."""
        row = self._row(request, task_id)
        if not dashboard.can_listen():
            raise Http404
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": _("What it does now"),
            "opts": self.opts,
            "row": row,
        }
        try:
            found = snapshot(row.pk)
        except (NoSnapshot, OperationalError) as error:
            context |= {"reason": str(error)}
        else:
            context |= {
                "found": found,
                "stack": "\n".join(found.stack),
                "output": "\n".join(found.output),
                "at": time_format(timezone.localtime() if settings.USE_TZ else timezone.now(), "H:i:s"),
            }
        return TemplateResponse(request, "admin/django_ray/raytaskexecution/now.html", context)

    def _row(self, request: HttpRequest, task_id: UUID) -> Any:
        request.current_app = self.admin_site.name
        row = found(RayTaskExecution, task_id, request)
        if row is None:
            raise Http404
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        return row

    def _shown(self, request: HttpRequest, task_id: UUID) -> dict[str, Any]:
        """Return what the page of one shows."""
        row = self._row(request, task_id)
        database, now = database_of_row(row), timezone.now()
        schedule = self._schedule(request, row)
        progress = rows_of(RayProgress, database).filter(pk=row.pk).first()
        began = row.last_attempted_at if row.state == State.RUNNING else None
        runs = began is not None
        output = row.output or (progress.output if runs and progress else "")
        return {
            "row": row,
            "situation": situation(row, now, paused_queues(database)),
            "why": None if row.state in FINISHED else why(row.pk, first=database),
            "events": history(row),
            "progress": progress,
            "output": clean_text(output, MOST_SHOWN),
            "payloads": [
                (name, _pretty(value))
                for name, value in (
                    (_("Arguments"), row.args),
                    (_("Keyword arguments"), row.kwargs),
                    (_("Options"), row.options),
                    (_("Metadata"), metadata_of(row.carrier)),
                )
                if value
            ],
            "result": _pretty(row.result) if row.state == State.SUCCESSFUL else None,
            "took": (row.finished_at - row.last_attempted_at).total_seconds()
            if row.finished_at and row.last_attempted_at
            else None,
            "runs": None if began is None else max(0.0, (now - began).total_seconds()),
            "usual": usual(database, row.callable_path) if runs else None,
            "can_look": row.state == State.RUNNING and dashboard.can_listen(),
            "is_finished": row.state in FINISHED,
            **neighbours(database, row.pk),
            "database": database if len(databases()) > 1 else None,
            "flow": self._flow(request, row),
            "tick": tick_of(row.carrier),
            "schedule_name": schedule_of(row.carrier),
            "schedule": schedule,
            "schedule_link": schedule
            and link_to("admin:django_ray_rayschedule_change", schedule, self.admin_site.name),
            "can_retry": row.state in {State.FAILED, State.CANCELLED},
            # What waits for others has ids among its arguments, which would be values.
            "can_edit": _may_edit(request) and row.needs is None,
            "has_change_permission": self.has_change_permission(request, row),
            "has_delete_permission": self.has_delete_permission(request, row),
        }

    def _flow(self, request: HttpRequest, row: Any) -> RayFlow | None:
        """Return the flow that it belongs to, if it is there and this site has a page of it for whoever asks."""
        if row.flow_id is None or not shows(self.admin_site, RayFlow, request):
            return None
        flow: RayFlow | None = rows_of(RayFlow, database_of_row(row)).filter(pk=row.flow_id).first()
        return flow

    def _schedule(self, request: HttpRequest, row: Any) -> RaySchedule | None:
        """Return the schedule that has enqueued it, if it is there and this site has a page of it for whoever asks."""
        if row.schedule_id is None or not shows(self.admin_site, RaySchedule, request):
            return None
        schedule: RaySchedule | None = rows_of(RaySchedule, database_of_row(row)).filter(pk=row.schedule_id).first()
        return schedule


def _pretty(value: Any) -> str:
    """Return JSON for people, as far as they may want to read it."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except (RecursionError, ValueError):
        text = shown(value)
    return clean_text(text, MOST_SHOWN)


def _every(queryset: Any) -> Any:
    """Return a queryset of the same rows that can be updated: without columns left out, an order or DISTINCT."""
    return rows_of(RayTaskExecution, queryset.db).filter(pk__in=queryset.order_by().values("pk"))
