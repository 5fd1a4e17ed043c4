"""Tasks that misbehave, each in a way of its own."""

import asyncio
import ctypes
import math
import os

from django.db import connection, transaction
from django.db.transaction import atomic

from django_ray import task


class Unhelpful(Exception):
    """Cannot be pickled, printed or made again."""

    def __init__(self, one, two):
        super().__init__()
        self.lock = (lambda: one, two)

    def __str__(self):
        raise RuntimeError("no message either")


once = task(max_attempts=1)


@once
def raises(name):
    raise {
        "nul": ValueError("a\x00b"),
        "surrogate": ValueError("a\ud800b"),
        "10 MB": ValueError("x" * 10_000_000),
        "unpicklable": Unhelpful(1, 2),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt("not Ray's"),
        "CancelledError": asyncio.CancelledError("not Ray's"),
        "GeneratorExit": GeneratorExit("odd"),
    }[name]


@once
async def raises_later(name):
    await asyncio.sleep(0)
    raise {"SystemExit": SystemExit(3), "CancelledError": asyncio.CancelledError("not Ray's")}[name]


@once
def returns(name):
    return {
        "NaN": math.nan,
        "NUL": "a\x00",
        "lambda": lambda: None,
        "bytes": b"\xff",
        "set": {1},
        "20 MB": "x" * 20_000_000,
    }[name]


@once
def dies(how):
    if how == "os._exit":
        os._exit(9)
    ctypes.string_at(0)


@once
def leaves(what):
    if what == "autocommit off":
        transaction.set_autocommit(False)
    elif what == "atomic open":
        atomic().__enter__()
    elif what == "connection closed":
        connection.close()
        return what
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return what
