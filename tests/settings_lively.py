"""Settings for a supervisor that pulses every second, and prunes what ended an hour ago."""

from datetime import timedelta

from tests.settings import *  # noqa: F403

TASKS = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "other"],
        "OPTIONS": {"PULSE": 1, "PRUNE_AFTER": timedelta(hours=1)},
    },
}
