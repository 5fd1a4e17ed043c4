"""When bodies began: one time per task, in a file that every process maps. It costs a body about a microsecond.

Only the standard library: the environments of the peers import this, too.
"""

import mmap
import os
import struct
import time
from array import array
from functools import cache
from pathlib import Path

SLOTS = 1 << 23
SIZE = 8
VARIABLE = "BENCH_MARKS"


class Marks:
    """The file."""

    def __init__(self, path):
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SLOTS * SIZE)

    def set(self, number):
        struct.pack_into("d", self._map, number * SIZE, time.time())

    def of(self, numbers):
        """Return the times of those in a range that have begun."""
        times = array("d", self._map[numbers.start * SIZE : numbers.stop * SIZE])
        return [moment for moment in times if moment]

    def at(self, number):
        """Return the time of one, 0 for not yet."""
        return struct.unpack_from("d", self._map, number * SIZE)[0]


def create(path):
    """Make an empty file, and name it to all children."""
    with Path(path).open("wb") as file:
        file.truncate(SLOTS * SIZE)
    os.environ[VARIABLE] = str(path)
    return Marks(path)


@cache
def opened():
    return Marks(os.environ[VARIABLE])


def mark(number):
    opened().set(number)
