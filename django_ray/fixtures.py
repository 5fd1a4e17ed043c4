"""What loaddata may not do: write over the row of a supervisor that lives here, with one that has lived elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connections

if TYPE_CHECKING:
    from django_ray.models import RayWorker

__all__ = ["refuse_living"]


def refuse_living(instance: RayWorker, using: str, *, raw: bool = False, **_: Any) -> None:
    """Raise ValueError for a row of a fixture with the id of a living supervisor. For pre_save."""
    if not raw or instance.pk is None:
        return
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT django_ray_session(%s) IS NOT NULL", [instance.pk])
        (lives,) = cursor.fetchone()
    if lives:
        raise ValueError(
            f"supervisor {instance.pk} lives here, and is another one than that of the fixture. Dump without "
            "supervisors: dumpdata --exclude django_ray, or --exclude django_ray.rayworker --exclude "
            "django_ray.rayminute"
        )
