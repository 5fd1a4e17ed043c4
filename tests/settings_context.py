"""Settings with CONTEXT: a tenant and a language travel along."""

from tests.settings import *  # noqa: F403

TASKS = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "other"],
        "OPTIONS": {
            "PULSE": 600,
            "IMPORT_GRACE": 600,
            "CONTEXT": ["tests.travellers.Tenant", "tests.travellers.Language"],
        },
    },
}
