import os
from typing import Any

import dj_database_url

from devpostgres import database_url

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_ray"]
DATABASES = {"default": dj_database_url.parse(database_url())}
# Two runs on one server do not meet.
DATABASES["default"]["TEST"] = {"NAME": f"test_django_ray_{os.getpid()}"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TASKS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "other"],
        # Far longer than any test: what happens is done by an event, not by the pulse.
        "OPTIONS": {"PULSE": 600},
    },
    "any": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": []},
}
