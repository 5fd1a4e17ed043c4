"""The settings of the project that the documentation talks about."""

import os

import django

from tests.settings import *  # noqa: F403

TASKS = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "mail", "reports"],
        "OPTIONS": {
            "PULSE": 1,
            "CONTEXT": ["library.travel.Language", "library.travel.RequestId"],
            "QUEUE_DEFAULTS": {"reports": {"timeout": 600, "max_attempts": 1}},
        },
    },
}
# A storage that the Ray workers and the tests share.
MEDIA_ROOT = os.environ.get("DOCS_MEDIA_ROOT", "")
_MAIL = "django.core.mail.backends.locmem.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": _MAIL}}
else:
    EMAIL_BACKEND = _MAIL
