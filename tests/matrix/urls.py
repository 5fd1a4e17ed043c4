"""The sites of SITES, and the metrics."""

from django.conf import settings
from django.urls import path
from django.utils.module_loading import import_string

import django_ray.views

PREFIXES = [f"/{name}/" for name, _ in zip(("one", "two"), settings.SITES, strict=False)]

urlpatterns = [
    *(path(prefix[1:], import_string(site).urls) for prefix, site in zip(PREFIXES, settings.SITES, strict=True)),
    path("metrics/tasks", django_ray.views.metrics),
]
