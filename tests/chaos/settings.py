"""The settings of the soak, for its own process, the supervisors and their Ray workers: the server of DATABASE_URL."""

import os
import sys
from pathlib import Path

import dj_database_url

# A fault: the Ray workers of one supervisor cannot set Django up while its file is there.
if sys.argv[0].endswith("default_worker.py") and Path(os.environ.get("CHAOS_UNREADY", "")).is_file():
    raise RuntimeError("This node is not ready: the soak says so.")

# Seconds; a test that wants none says PULSE=0.
PULSE = {"PULSE": float(os.environ.get("PULSE", "1.0"))}

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_ray"]
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"])}
DATABASES["default"]["OPTIONS"] = {"connect_timeout": 5}  # a body is no longer in a hole than its timeout is
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TASKS = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "other"],
        "OPTIONS": {"BACKOFF": {"base": 0.2, "factor": 1, "jitter": 0}, "MAX_LOSSES": 20, **PULSE},
    },
}
