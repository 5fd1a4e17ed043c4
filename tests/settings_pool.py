"""A project whose web processes keep a pool of connections."""

from tests.settings import *  # noqa: F403

DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {"min_size": 2, "max_size": 2}  # noqa: F405
