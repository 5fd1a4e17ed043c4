"""One page: enqueue a task, see what became of it."""

import os

from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from django_ray.models import RayTaskExecution

from .tasks import SHOWN


@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """Show the buttons and the latest executions."""
    latest = list(RayTaskExecution.objects.order_by("-task_id")[:20])
    for row in latest:
        row.seconds = (row.finished_at - row.started_at).total_seconds() if row.started_at and row.finished_at else None
    context = {"names": SHOWN, "latest": latest, "demo_user": os.environ.get("DEMO_USER")}
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
def health(request: HttpRequest) -> HttpResponse:
    """Answer when the database does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok", content_type="text/plain")
