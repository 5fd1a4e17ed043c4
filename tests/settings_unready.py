"""A node that cannot set Django up while the file UNREADY exists, which says where it fails."""

import os
from pathlib import Path

from tests.settings import *  # noqa: F403

_FILE = Path(os.environ["UNREADY"])
TASKS["default"]["OPTIONS"] = {"PULSE": 600}  # noqa: F405
INSTALLED_APPS = ["tests.unready.Unready", *INSTALLED_APPS]  # noqa: F405


def FAIL(where):  # noqa: N802 - a setting
    if _FILE.exists() and _FILE.read_text() == where:
        raise {"settings": RuntimeError, "exit": SystemExit, "ready": ConnectionError}[where]("the file is there")


FAIL("settings")
FAIL("exit")
