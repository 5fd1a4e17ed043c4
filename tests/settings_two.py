"""Those of the tests, with a backend whose executions live on a server of their own."""

import os
from datetime import timedelta
from typing import Any

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, TASKS


def second(port: str) -> dict[str, Any]:
    """Return how that server is reached."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": port,
        "NAME": os.environ.get("SECOND_NAME", "postgres"),
        "USER": "postgres",
        "OPTIONS": {"connect_timeout": 3},
        "TEST": {"NAME": "postgres"},
    }


HEAVY: dict[str, Any] = {
    "BACKEND": "django_ray.backends.RayTaskBackend",
    "QUEUES": ["default", "alive"],
    "OPTIONS": {
        "DATABASE": "tasks2",
        "PULSE": 600,
        "IMPORT_GRACE": 0,
        "CONTEXT": ["tests.elsewhere.Tenant"],
        "SCHEDULES": {"yearly": {"task": "tests.elsewhere.note", "every": timedelta(days=365)}},
    },
}
if port := os.environ.get("SECOND_PORT"):
    DATABASES["tasks2"] = second(port)
    TASKS["heavy"] = HEAVY
