"""The test project with the settings of another one: CASES, by the name in SETTINGS_CASE."""

import os

import dj_database_url

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE

ROOT_URLCONF = "tests.matrix.urls"
SITES = ["django.contrib.admin.site"]  # Whose pages are under /one/, /two/.
DATABASE = DATABASES["default"]
LOGIN_URL = "/one/login/"
DEBUG_PROPAGATE_EXCEPTIONS = True

OTHER_ADMIN = [
    "tests.matrix.sites.OtherAdmin" if name == "django.contrib.admin" else name for name in INSTALLED_APPS
]  # fmt: skip
GZIP = "django.middleware.gzip.GZipMiddleware"


def connected(**options):
    """The database, connected to in another way."""
    return {**DATABASE, "OPTIONS": {**DATABASE.get("OPTIONS", {}), **options}}


# One that never hears of anything: what is read from it is missing, and what is written to it is refused.
REPLICA = dj_database_url.parse(os.environ.get("REPLICA_URL") or os.environ["DATABASE_URL"])
REPLICA["OPTIONS"] = {**REPLICA.get("OPTIONS", {}), "options": "-c default_transaction_read_only=on"}

CASES = {
    "as they come": {},
    "no time zones": {"USE_TZ": False, "TIME_ZONE": "Asia/Kathmandu"},
    "a far time zone": {
        "TIME_ZONE": "Pacific/Kiritimati",
        "DATABASES": {"default": {**DATABASE, "TIME_ZONE": "America/St_Johns"}},
    },
    "German": {"LANGUAGE_CODE": "de", "USE_THOUSAND_SEPARATOR": True},
    "the language of the browser": {
        "USE_THOUSAND_SEPARATOR": True,
        "MIDDLEWARE": [*MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"],
    },
    "users of its own": {
        "AUTH_USER_MODEL": "people.Person",
        "INSTALLED_APPS": [*INSTALLED_APPS, "tests.matrix.people"],
    },
    "an AdminSite of its own": {"INSTALLED_APPS": OTHER_ADMIN},
    "two AdminSites": {"SITES": ["django.contrib.admin.site", "tests.matrix.sites.second"]},
    "AdminSites with few models": {"SITES": ["tests.matrix.sites.only_queues", "tests.matrix.sites.only_executions"]},
    "everybody logs in": {"MIDDLEWARE": [*MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]},
    "compressed": {"MIDDLEWARE": [GZIP, *MIDDLEWARE]},
    "a read replica": {
        "DATABASES": {"default": DATABASE, "replica": REPLICA},
        "DATABASE_ROUTERS": ["tests.matrix.sites.Replica"],
    },
    "kept connections": {
        "DATABASES": {
            "default": {**DATABASE, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True, "ATOMIC_REQUESTS": True}
        },
    },
    "bound by the server": {"DATABASES": {"default": connected(server_side_binding=True)}},
    "a pool": {
        "DATABASES": {"default": connected(pool={"min_size": 1, "max_size": 2, "timeout": 20})},
    },
    "many of them": {
        "USE_TZ": False,
        "TIME_ZONE": "America/St_Johns",
        "LANGUAGE_CODE": "de",
        "USE_THOUSAND_SEPARATOR": True,
        "INSTALLED_APPS": OTHER_ADMIN,
        "SITES": ["django.contrib.admin.site", "tests.matrix.sites.second"],
        "MIDDLEWARE": [
            GZIP,
            *MIDDLEWARE,
            "django.middleware.locale.LocaleMiddleware",
            "django.contrib.auth.middleware.LoginRequiredMiddleware",
        ],
        "DATABASES": {"default": {**DATABASE, "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}, "replica": REPLICA},
        "DATABASE_ROUTERS": ["tests.matrix.sites.Replica"],
    },
}

globals().update(CASES[os.environ.get("SETTINGS_CASE", "as they come")])
