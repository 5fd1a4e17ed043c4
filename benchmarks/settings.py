"""Those of the tests, with one queue and the pulse of production."""

from tests.settings import *  # noqa: F403

TASKS = {"default": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": ["default"]}}
