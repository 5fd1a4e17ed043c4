"""A project in a small container: what Ray reads of its limits, as its kernel would say it."""

import builtins
import os
from io import StringIO

from tests.settings import *  # noqa: F403

LIMITS = {
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": os.environ["MEMORY_LIMIT"],
}
real_open, real_exists = open, os.path.exists


def limited_open(file, *arguments, **options):
    if isinstance(file, str) and file in LIMITS:
        return StringIO(LIMITS[file])
    return real_open(file, *arguments, **options)


builtins.open = limited_open
os.path.exists = lambda path: path in LIMITS or real_exists(path)
