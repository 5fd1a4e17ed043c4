"""The smallest project that runs a model on a GPU."""

import os

import dj_database_url

SECRET_KEY = "of a benchmark"
INSTALLED_APPS = ["django_ray"]
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"])}
USE_TZ = True
TASKS = {"default": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": []}}
