"""A project that sends its errors to Sentry, as docs/monitoring.md has it: its files are those of the pages."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, TASKS

INSTALLED_APPS = [*INSTALLED_APPS, "library.apps.LibraryConfig"]
_options = {**TASKS["default"]["OPTIONS"], "CONTEXT": ["library.errors.Scope"], "MAX_LOSSES": 0}
TASKS = {**TASKS, "default": {**TASKS["default"], "OPTIONS": _options}}
