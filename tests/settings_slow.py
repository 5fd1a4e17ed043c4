"""Settings that take three seconds in each Ray worker, as a large project does. The supervisor has them at once."""

import os
import time

from tests.settings import *  # noqa: F403

if "DJANGO_RAY_FOLDER" in os.environ:
    time.sleep(3)
