"""A pytest plugin, found by its entry point: the fixture run_tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["run_tasks"]


@pytest.fixture
def run_tasks() -> Callable[..., list[Any]]:
    """django_ray.testing.run_tasks: run what the test has enqueued, in its transaction."""
    from django_ray.testing import run_tasks

    return run_tasks
