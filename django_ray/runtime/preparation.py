"""A process becomes a place for bodies, before its first one. That it cannot is a fact about a node, and no task's."""

from __future__ import annotations

import os
import socket
from functools import cache

import django
from django.apps import apps

from django_ray.exceptions import Unprepared
from django_ray.runtime.connections import check_pools
from django_ray.runtime.foreign import contained, described, ignored
from django_ray.runtime.output import label_output, label_subprocesses
from django_ray.runtime.rayworker import end_after_answer, is_ray_worker
from django_ray.runtime.sessions import watch_sessions
from django_ray.runtime.surroundings import keep_surroundings

__all__ = ["prepare", "settle_in"]

# Of the first failure: what Django says later is only that it has begun once.
_reason = "Django is being set up in this process."


def prepare() -> None:
    """Set Django up, once per process. Unprepared when the settings, an application or its ready() raise anything."""
    global _reason  # noqa: PLW0603 - there is one Django in a process
    if apps.ready:
        return
    # Django begins with the applications once in a process, and refuses to do so again after a failure.
    error = None if apps.loading else contained(django.setup, lambda error: error)
    if error is not None:
        found = described(error)
        _reason = (
            f"Django cannot be set up on the host {socket.gethostname()} (process {os.getpid()}, settings "
            f"{os.environ.get('DJANGO_SETTINGS_MODULE')!r}): {found.class_path}: {found.message}"
        )
    if not apps.ready:
        if apps.loading:
            end_after_answer()
        raise Unprepared(_reason) from error


def settle_in() -> None:
    """Set Django up, and keep what bodies shall find in this process, once; Unprepared as prepare()."""
    prepare()
    _furnish()


@cache
def _furnish() -> None:
    contained(label_output, ignored("Labelling the output of tasks"))
    if is_ray_worker():
        label_subprocesses()
    contained(check_pools, ignored("The settings of a database"))
    watch_sessions()
    keep_surroundings()
