"""Gates for people: what waits, at which rate something starts, and what an override says."""

from __future__ import annotations

from django import template
from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext

from django_ray.gates import RayGate
from django_ray.standing import Standing
from django_ray.templatetags.django_ray import count_all, duration

__all__ = ["gate_rate", "gate_waiting", "override_in_words"]

register = template.Library()


@register.filter
def gate_waiting(gate: Standing) -> str:
    """Return how many wait, as far as they were counted."""
    return f"{count_all(gate.waiting - 1)}+" if gate.is_cut else count_all(gate.waiting)


@register.filter
def gate_rate(gate: Standing) -> str:
    """Return the rate that holds."""
    if gate.seconds is None:
        return "\N{EN DASH}"
    return gettext("one in %(duration)s") % {"duration": duration(gate.seconds)}


@register.filter
def override_in_words(row: RayGate) -> str:
    """Return what an override says."""
    parts: list[str] = []
    if row.limit is not None:
        parts.append(gettext("limit %(number)s") % {"number": count_all(row.limit)})
    if row.rate_count is not None and row.rate_per is not None:
        parts.append(
            gettext("%(number)s in %(seconds)s s")
            % {"number": count_all(row.rate_count), "seconds": number_format(f"{row.rate_per:g}")}
        )
        if row.rate_burst > 1:
            parts.append(
                ngettext("%(number)s at once", "%(number)s at once", row.rate_burst)
                % {"number": count_all(row.rate_burst)}
            )
    return ", ".join(parts) or gettext("nothing")
