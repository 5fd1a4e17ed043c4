"""The live page under the admin: what it shows, and how it comes to show more.

Under ASGI the page holds one event stream (streaming.py). Under WSGI, and with psycopg2, which cannot LISTEN in an
event loop, the page asks again every few seconds.
"""

from __future__ import annotations

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from django_ray.driver import obstacle
from django_ray.status import status

__all__ = ["can_listen", "can_stream", "context"]


def context() -> dict[str, Any]:
    """Return what the page shows."""
    return {"status": status()}


def can_stream(request: HttpRequest) -> bool:
    """Tell whether the server can hold a stream without a thread of its own."""
    return isinstance(request, ASGIRequest) and can_listen()


def can_listen() -> bool:
    """Tell whether the driver can."""
    return obstacle() is None
