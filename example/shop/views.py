"""One page: enqueue a task, see how far it is and what became of it."""

import json
import os
from collections.abc import AsyncGenerator

from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.tasks import default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.views.decorators.http import require_GET, require_POST

from django_ray.models import RayTaskExecution

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


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    """Answer when the database does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok", content_type="text/plain")
