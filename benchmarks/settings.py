"""Those of the tests, with one queue and the pulse of production."""

import os

from benchmarks.longrun import PRUNE_AFTER
from tests.settings import *  # noqa: F403

TASKS = {"default": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": ["default"]}}
if PRUNE_AFTER in os.environ:
    TASKS["default"]["OPTIONS"] = {"PRUNE_AFTER": float(os.environ[PRUNE_AFTER])}
