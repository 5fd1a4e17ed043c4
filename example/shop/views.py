"""One page: enqueue a task, see how far it is and what became of it."""

import json
import os
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.tasks import default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.views.decorators.http import require_GET, require_POST

from django_ray import Flow
from django_ray.models import RayTaskExecution

from . import tasks
from .tasks import SHOWN


@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """Show the buttons and the latest executions."""
    latest = list(RayTaskExecution.objects.order_by("-task_id")[:20])
    for row in latest:
        row.seconds = (row.finished_at - row.started_at).total_seconds() if row.started_at and row.finished_at else None
    # A browser opens no more than six connections to a host.
    watched = [row.pk for row in latest if not row.finished_at][:3]
    context = {"names": SHOWN, "latest": latest, "watched": watched, "demo_user": os.environ.get("DEMO_USER")}
    return render(request, "shop/index.html", context)


@require_POST
def enqueue(request: HttpRequest, name: str) -> HttpResponse:
    """Enqueue one task; JSON for programs, the page again for people."""
    if name not in SHOWN:
        raise Http404(f"There is no task {name!r}.")
    task, args = SHOWN[name]
    result = task.enqueue(*args)
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"id": result.id})
    return redirect("index")


@require_GET
async def progress(request: HttpRequest, result_id: str) -> StreamingHttpResponse:
    """Send what a task says of its progress, as it says it, and at last that it has ended."""
    try:
        result = await default_task_backend.aget_result(result_id)
    except TaskResultDoesNotExist:
        raise Http404(result_id) from None

    async def events() -> AsyncGenerator[str]:
        async for update in result.updates():  # type: ignore[attr-defined]
            said = {"fraction": update.fraction, "message": update.message, "output": update.output}
            yield f"data: {json.dumps(said)}\n\n"
        yield "event: end\ndata:\n\n"

    return StreamingHttpResponse(events(), content_type="text/event-stream")


@require_POST
def import_files(request: HttpRequest) -> HttpResponse:
    """Start an import of twenty files."""
    flow = tasks.import_files(20)
    if request.headers.get("Accept") == "application/json":
        return JsonResponse({"id": flow.id})
    return redirect("flow", flow.id)


def _flow(flow_id: UUID) -> Flow:
    try:
        return Flow.get(flow_id)
    except LookupError as error:
        raise Http404(str(error)) from None


@require_GET
def flow(request: HttpRequest, flow_id: UUID) -> HttpResponse:
    """Show how far a flow is, and its executions."""
    shown = _flow(flow_id)
    context = {"flow": shown, "progress": shown.progress(), "executions": shown.executions.order_by("task_id")}
    return render(request, "shop/flow.html", context)


@require_POST
def cancel_flow(request: HttpRequest, flow_id: UUID) -> HttpResponse:
    """Cancel what has not ended."""
    _flow(flow_id).cancel()
    return redirect("flow", flow_id)


@require_GET
async def flow_progress(request: HttpRequest, flow_id: UUID) -> StreamingHttpResponse:
    """Send how far a flow is, each time when the oldest of its unfinished executions has ended."""
    watched = await sync_to_async(_flow)(flow_id)

    async def events() -> AsyncGenerator[str]:
        while (oldest := await watched.executions.filter(finished_at=None).order_by("task_id").afirst()) is not None:
            said = await watched.aprogress()
            yield f"data: {json.dumps({'fraction': said.fraction, 'message': f'{said.finished} of {said.total}'})}\n\n"
            result: Any = await default_task_backend.aget_result(str(oldest.pk))
            await result.await_result()
        yield "event: end\ndata:\n\n"

    return StreamingHttpResponse(events(), content_type="text/event-stream")


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    """Answer when the database does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok", content_type="text/plain")
