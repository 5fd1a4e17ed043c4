"""How far an attempt says it is: what a body reports, and what a result reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django_ray.bounds import is_number, shown
from django_ray.serialization import clean_text
from django_ray.tables import Tables

__all__ = ["MOST_MESSAGE", "Progress", "checked", "progress_of"]

MOST_MESSAGE = 1000  # Characters.


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the latest attempt that said anything has said last."""

    fraction: float | None  # Of the whole, 0 to 1; None where only a message was given.
    message: str
    attempt: int  # The number of the attempt.
    at: datetime  # By the database's clock.


def checked(fraction: Any, message: Any) -> tuple[float | None, str]:
    """Return what is stored of it. ValueError or TypeError says what does not fit."""
    if fraction is not None and not is_number(fraction, 0, 1):
        raise ValueError(f"progress: the fraction is {shown(fraction)}; it must be a number of 0 to 1, or None.")
    if not isinstance(message, str):
        raise TypeError(f"progress: the message is {shown(message)}; it must be a text.")
    return None if fraction is None else float(fraction), clean_text(message, MOST_MESSAGE)


def progress_of(result_id: str) -> Progress | None:
    """Return what was said, read now; None for nothing."""
    from django_ray.models import RayProgress

    with Tables() as tables:
        row = RayProgress._base_manager.using(tables.alias).filter(pk=UUID(result_id)).first()  # noqa: SLF001
    if row is None:
        return None
    return Progress(fraction=row.fraction, message=row.message, attempt=row.attempt, at=row.at)
